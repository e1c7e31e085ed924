import { createHash } from 'node:crypto';
import { parentPort, workerData } from 'node:worker_threads';
import { connectNbd, type Extent, type NbdClient } from '#adapters/nbd/nbd-client.ts';
import { AppError, formatErrorChain, isAppError } from '#base/error.ts';
import { limits } from '#base/limits.ts';
import { chunkBytes, countChunks, digestBytes, type ChunkRun } from '#core/replica/chunks.ts';
import type { ChunkJob, ChunkResult, ExportAddress } from '#programs/replication/chunk-jobs.ts';
import { pointGone } from '#programs/replication/point-names.ts';

/**
 * The thread that reads disks for a compare: hashing is the one heavy computation of the agent, and its loop must not wait for it.
 */
const pieceBytes = 16 * chunkBytes;
const piecesInFlight = 8;
const extentsAskedBytes = 2 ** 30;

function open(address: ExportAddress): Promise<NbdClient> {
  return connectNbd(address.socketPath, address.exportName, { deadlineMs: limits.nbdRequestMs });
}

/** QEMU gives a point up rather than let the guest wait for its old data; from then on it refuses every question about it (EACCES, for which NBD says EINVAL). */
function explain(cause: unknown): never {
  if (!isAppError(cause, 'invalid')) throw cause;
  throw new AppError('unavailable', pointGone, { cause });
}

async function hashAll(client: NbdClient): Promise<Uint8Array> {
  const digests = new Uint8Array(countChunks(client.sizeBytes) * digestBytes);
  const zeroes = Buffer.alloc(chunkBytes);
  const hashPiece = async (offset: number): Promise<void> => {
    const data = await client.read(offset, Math.min(pieceBytes, client.sizeBytes - offset)).catch(explain);
    for (let at = 0; at < data.length; at += chunkBytes) {
      const chunk = data.subarray(at, at + chunkBytes);
      if (chunk.equals(zeroes.subarray(0, chunk.length))) continue;
      const digest = createHash('sha256').update(chunk).digest().subarray(0, digestBytes);
      digests.set(digest, ((offset + at) / chunkBytes) * digestBytes);
    }
  };
  await eachInFlight(listDataPieces(client), hashPiece);
  return digests;
}

/** Offsets of the pieces that may hold something else than zeroes. */
async function* listDataPieces(client: NbdClient): AsyncGenerator<number> {
  let next = 0;
  for (let offset = 0; offset < client.sizeBytes;) {
    const length = Math.min(extentsAskedBytes, client.sizeBytes - offset);
    const extents: Extent[] = await client.readExtents(offset, length).catch(explain);
    for (const extent of extents) {
      offset = extent.offset + extent.length;
      if (extent.zero) continue;
      next = Math.max(next, Math.floor(extent.offset / pieceBytes) * pieceBytes);
      for (; next < Math.min(offset, client.sizeBytes); next += pieceBytes) yield next;
    }
  }
}

async function copyAll(from: NbdClient, to: NbdClient, runs: ChunkRun[]): Promise<number> {
  let bytes = 0;
  const copyRun = async (run: ChunkRun): Promise<void> => {
    const offset = run.first * chunkBytes;
    const length = Math.min(run.count * chunkBytes, from.sizeBytes - offset);
    if (run.kind === 'zero') return await to.writeZeroes(offset, length);
    await to.write(offset, await from.read(offset, length).catch(explain));
    bytes += length;
  };
  await eachInFlight(runs, copyRun);
  await to.flush();
  return bytes;
}

async function eachInFlight<T>(items: Iterable<T> | AsyncIterable<T>, work: (item: T) => Promise<void>): Promise<void> {
  const running = new Set<Promise<void>>();
  for await (const item of items) {
    const job = work(item).finally(() => running.delete(job));
    job.catch(() => {}); // seen below
    running.add(job);
    if (running.size >= piecesInFlight) await Promise.race(running);
  }
  await Promise.all(running);
}

async function perform(job: ChunkJob): Promise<ChunkResult> {
  const from = await open(job.from);
  if (job.kind === 'hash') return { digests: await hashAll(from) };
  return { bytes: await copyAll(from, await open(job.to), job.runs) };
}

let result: ChunkResult;
try {
  result = await perform(workerData as ChunkJob);
} catch (error) {
  result = { error: formatErrorChain(error) };
}
parentPort?.postMessage(result);
process.exit(0); // connections are closed with the thread
