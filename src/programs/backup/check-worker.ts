import { readFileSync } from 'node:fs';
import { parentPort } from 'node:worker_threads';
import { nodeBytes } from '#adapters/bytes/node-bytes.ts';
import { judgeChunk } from '#core/backup/chunk-check.ts';
import type { CheckAnswer, CheckJob } from './check-pool.ts';

/** Reads and judges chunks, one after the other, away from the event loop. */
parentPort?.on('message', ({ number, path, digest }: CheckJob) => {
  parentPort?.postMessage(look(number, path, digest));
});

function look(number: number, path: string, digest: Uint8Array): CheckAnswer {
  try {
    return { number, verdict: judgeChunk(readFileSync(path), digest, nodeBytes), trouble: null };
  } catch (error) {
    const isMissing = error instanceof Error && 'code' in error && error.code === 'ENOENT';
    return { number, verdict: null, trouble: isMissing ? null : String(error) };
  }
}
