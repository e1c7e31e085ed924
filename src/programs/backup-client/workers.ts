import { availableParallelism } from 'node:os';
import { Worker } from 'node:worker_threads';
import type { ClientWorkers } from '#adapters/backup-client/client-workers.ts';
import type { ChunkWorkerData } from '#adapters/backup-client/chunk-jobs.ts';
import { createChunkPool } from '#adapters/backup-client/chunk-pool.ts';
import type { TreeReaderData } from '#adapters/backup-client/tree-jobs.ts';

/** More than this would only fight for the disk and the memory. */
const mostWorkers = 8;

/** The client's work that does not belong on an event loop, in threads: as many for chunks as there are processors. */
export const clientWorkers: ClientWorkers = {
  startPool(key) {
    const width = Math.min(mostWorkers, Math.max(1, availableParallelism()));
    const data: ChunkWorkerData = { key };
    return createChunkPool(Array.from({ length: width }, () => startWorker('chunk-worker.ts', data)));
  },
  startTreeReader(data) {
    const credits = new SharedArrayBuffer(4);
    const count = new Int32Array(credits);
    const worker = startWorker('tree-reader-worker.ts', { ...data, credits } satisfies TreeReaderData);
    return {
      worker,
      giveRoom(room) {
        worker.postMessage(room, [room]);
        Atomics.add(count, 0, 1);
        Atomics.notify(count, 0);
      },
    };
  },
  startTreeWriter: (data) => startWorker('tree-writer-worker.ts', data),
};

function startWorker(file: string, workerData: object): Worker {
  const worker = new Worker(new URL(file, import.meta.url), { workerData });
  worker.unref();
  return worker;
}
