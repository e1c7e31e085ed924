import { Worker } from 'node:worker_threads';
import { raiseTrouble } from '#adapters/backup-client/trouble.ts';
import type { Trouble } from '#adapters/backup-client/chunk-jobs.ts';
import { AppError, isAppError } from '#base/error.ts';
import type { BlobHeader } from '#core/backup/blob.ts';
import type { ChunkVerdict } from '#core/backup/chunk-check.ts';
import type { CheckContent, ChunkClaim } from './incoming-chunk.ts';

type Job =
  /** Read the file and judge it. */
  | { kind: 'stored'; path: string; digest: Uint8Array }
  /** Decode what a client sent, a plain chunk whose envelope is in order, and compare it with the claim. */
  | { kind: 'incoming'; claim: ChunkClaim; encoded: Uint8Array; header: BlobHeader };
export type CheckJob = Job & { number: number };
/** `verdict` null without trouble: there is no such file, or what came is right. */
export type CheckAnswer = { number: number; verdict: ChunkVerdict | null; trouble: Trouble | null };
type Waiting = { resolve: (verdict: ChunkVerdict | null) => void; reject: (error: unknown) => void };

/** Several readers and judges of chunks at once. */
export type CheckPool = {
  check(path: string, digest: Uint8Array): Promise<ChunkVerdict | null>;
  checkContent: CheckContent;
  close(): Promise<void>;
};

/** Starts `width` workers; jobs are dealt to them in turn. */
export function startCheckPool(width: number): CheckPool {
  const waiting = new Map<number, Waiting>();
  let last = 0;
  const workers = Array.from({ length: width }, () => {
    const worker = new Worker(new URL('check-worker.ts', import.meta.url));
    worker.unref();
    worker.on('message', ({ number, verdict, trouble }: CheckAnswer) => {
      const asker = waiting.get(number);
      waiting.delete(number);
      if (trouble === null) asker?.resolve(verdict);
      else asker?.reject(raiseTrouble(trouble));
    });
    worker.on('error', (cause) => {
      for (const { reject } of waiting.values())
        reject(new AppError('unavailable', 'a worker that checks chunks died', { cause }));
      waiting.clear();
    });
    return worker;
  });
  const deal = (job: Job): Promise<ChunkVerdict | null> => {
    const number = (last += 1);
    return new Promise((resolve, reject) => {
      waiting.set(number, { resolve, reject });
      workers[number % width]?.postMessage({ ...job, number } satisfies CheckJob);
    });
  };
  return {
    async check(path, digest) {
      try {
        return await deal({ kind: 'stored', path, digest: Uint8Array.from(digest) });
      } catch (cause) {
        if (isAppError(cause)) throw cause;
        throw new AppError('unavailable', 'a chunk could not be read', { cause });
      }
    },
    async checkContent({ digest, sizeBytes }, encoded, header) {
      await deal({ kind: 'incoming', claim: { digest: Uint8Array.from(digest), sizeBytes }, encoded, header });
    },
    async close() {
      await Promise.all(workers.map((worker) => worker.terminate()));
    },
  };
}
