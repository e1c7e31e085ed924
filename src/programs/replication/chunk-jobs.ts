import { Worker } from 'node:worker_threads';
import { AppError, formatErrorChain } from '#base/error.ts';
import type { ChunkRun } from '#core/replica/chunks.ts';

/** An export of an NBD server on a unix socket. */
export type ExportAddress = { socketPath: string; exportName: string };

export type ChunkJob =
  | { kind: 'hash'; from: ExportAddress }
  | { kind: 'copy'; from: ExportAddress; to: ExportAddress; runs: ChunkRun[] };

export type ChunkResult = { digests: Uint8Array } | { bytes: number } | { error: string };

/** The digests of a whole export, worked out on a thread of its own. Raises AppError unavailable (also when `signal` aborts). */
export async function hashExport(from: ExportAddress, signal: AbortSignal): Promise<Uint8Array> {
  const result = await runJob({ kind: 'hash', from }, signal);
  if (!('digests' in result)) throw new AppError('unavailable', `hash ${from.exportName}: no digests`);
  return result.digests;
}

/** Copies the runs from one export to another, then flushes. Returns the bytes of data that travelled. */
export async function copyRuns(from: ExportAddress, to: ExportAddress, runs: ChunkRun[], signal: AbortSignal): Promise<number> {
  if (runs.length === 0) return 0;
  const result = await runJob({ kind: 'copy', from, to, runs }, signal);
  if (!('bytes' in result)) throw new AppError('unavailable', `copy ${from.exportName}: no count`);
  return result.bytes;
}

function runJob(job: ChunkJob, signal: AbortSignal): Promise<ChunkResult> {
  const what = job.kind === 'hash' ? `hash ${job.from.exportName}` : `copy ${job.from.exportName}`;
  return new Promise((resolve, reject) => {
    const worker = new Worker(new URL('chunk-worker.ts', import.meta.url), { workerData: job });
    const stop = (): void => {
      void worker.terminate();
      reject(new AppError('unavailable', `${what}: given up: ${formatErrorChain(signal.reason)}`, { cause: signal.reason }));
    };
    if (signal.aborted) return stop();
    signal.addEventListener('abort', stop, { once: true });
    worker.once('message', (result: ChunkResult) => {
      if ('error' in result) reject(new AppError('unavailable', `${what}: ${result.error}`));
      else resolve(result);
    });
    worker.once('error', (cause) => reject(new AppError('unavailable', `${what}: its thread failed`, { cause })));
    worker.once('exit', () => {
      signal.removeEventListener('abort', stop);
      reject(new AppError('unavailable', `${what}: its thread ended without a result`));
    });
  });
}
