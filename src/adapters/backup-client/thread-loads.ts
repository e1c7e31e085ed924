import type { Worker } from 'node:worker_threads';

/**
 * Threads of this one that still load their code. One that is terminated while it loads native code takes the whole process with it (Node ends a
 * process whose addon cannot raise an error), so whoever ends threads waits for this first.
 */
const loading = new Set<Promise<void>>();

/** Settles when the thread has said its first word, or is gone. Threads that load native code say one as soon as they have. */
export function followLoad(worker: Worker): Promise<void> {
  const loaded = new Promise<void>((resolve) => {
    worker.once('message', () => resolve());
    worker.once('error', () => resolve());
    worker.once('exit', () => resolve());
  });
  loading.add(loaded);
  void loaded.then(() => loading.delete(loaded));
  return loaded;
}

export async function allLoaded(): Promise<void> {
  await Promise.all(loading);
}
