import { readFileSync } from 'node:fs';
import { parentPort } from 'node:worker_threads';
import { describeTrouble } from '#adapters/backup-client/trouble.ts';
import { createWorkerBytes } from '#adapters/bytes/node-bytes.ts';
import { AppError } from '#base/error.ts';
import { blobLimits } from '#core/backup/blob.ts';
import { formatHex } from '#core/backup/bytes.ts';
import { judgeChunk } from '#core/backup/chunk-check.ts';
import type { CheckAnswer, CheckJob } from './check-pool.ts';
import { checkData } from './incoming-chunk.ts';

/** Reads and judges chunks, one after the other, away from the event loop. What is decompressed is looked at once. */
const functions = createWorkerBytes(true);

parentPort?.on('message', (job: CheckJob) => {
  parentPort?.postMessage(carryOut(job));
});

function carryOut(job: CheckJob): CheckAnswer {
  const { number } = job;
  try {
    return { number, verdict: job.kind === 'stored' ? look(job) : judge(job), trouble: null };
  } catch (error) {
    return { number, verdict: null, trouble: describeTrouble(error) };
  }
}

/** null: there is no such file. */
function look({ path, digest }: CheckJob & { kind: 'stored' }): CheckAnswer['verdict'] {
  try {
    return judgeChunk(readFileSync(path), digest, functions);
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return null;
    throw error;
  }
}

function judge({ claim, encoded, header }: CheckJob & { kind: 'incoming' }): null {
  const payload = encoded.subarray(header.headerBytes);
  const data = header.isCompressed ? functions.zstdDecompress(payload, blobLimits.chunkBytes) : payload;
  if (data === null)
    throw new AppError('invalid', `chunk ${formatHex(claim.digest)}: its compressed content is damaged or too long`);
  checkData(claim, data, functions.sha256(data));
  return null;
}
