import { Worker } from 'node:worker_threads';
import { AppError } from '#base/error.ts';
import type { ChunkVerdict } from '#core/backup/chunk-check.ts';

export type CheckJob = { number: number; path: string; digest: Uint8Array };
/** `verdict` null without trouble: there is no such file. */
export type CheckAnswer = { number: number; verdict: ChunkVerdict | null; trouble: string | null };
type Waiting = { resolve: (verdict: ChunkVerdict | null) => void; reject: (error: unknown) => void };

/** Several readers and judges of chunks at once. */
export type CheckPool = {
  check(path: string, digest: Uint8Array): Promise<ChunkVerdict | null>;
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
      else asker?.reject(new AppError('unavailable', `a chunk could not be read: ${trouble}`));
    });
    worker.on('error', (cause) => {
      for (const { reject } of waiting.values())
        reject(new AppError('unavailable', 'a worker that checks chunks died', { cause }));
      waiting.clear();
    });
    return worker;
  });
  return {
    check(path, digest) {
      const number = (last += 1);
      return new Promise((resolve, reject) => {
        waiting.set(number, { resolve, reject });
        workers[number % width]?.postMessage({ number, path, digest: Uint8Array.from(digest) } satisfies CheckJob);
      });
    },
    async close() {
      await Promise.all(workers.map((worker) => worker.terminate()));
    },
  };
}
