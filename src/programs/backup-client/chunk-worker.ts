import { randomBytes } from 'node:crypto';
import { parentPort, workerData } from 'node:worker_threads';
import { ChunkDesk } from '#adapters/backup-client/chunk-desk.ts';
import type { ChunkAnswer, ChunkOrder, ChunkWorkerData } from '#adapters/backup-client/chunk-jobs.ts';
import { describeTrouble } from '#adapters/backup-client/trouble.ts';
import { createWorkerBytes } from '#adapters/bytes/node-bytes.ts';

/** Handles chunks away from the event loop. */
const { key } = workerData as ChunkWorkerData;
const functions = { lasting: createWorkerBytes(false), shortLived: createWorkerBytes(true) };
const desk = new ChunkDesk(key, functions, (count) => randomBytes(count));

// Whoever ends this thread waits for its first word: native code is loaded by now.
parentPort?.postMessage({ number: -1, kind: 'dropped', room: null } satisfies ChunkAnswer);
parentPort?.on('message', (order: ChunkOrder) => {
  try {
    const { answer, moved } = desk.carryOut(order);
    parentPort?.postMessage(answer, moved);
  } catch (error) {
    parentPort?.postMessage({ kind: 'trouble', number: order.number, error: describeTrouble(error) } satisfies ChunkAnswer);
  }
});
