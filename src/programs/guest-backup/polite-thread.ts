import { Worker } from 'node:worker_threads';
import { limits } from '#base/limits.ts';
import { endWord, mayEndWord } from '#programs/guest-backup/polite-words.ts';

/**
 * Starts a thread that gives way to guests and to the agent's own loop, with all threads that it starts in turn. It does so before it loads its code:
 * that alone takes a processor for some hundred milliseconds.
 */
export function startPoliteThread(main: URL, workerData: object): Worker {
  return new Worker(new URL('polite-worker.ts', import.meta.url), { workerData, argv: [main.href] });
}

/** Ends it at once, but never while it loads native code: that would end this process (adapters/backup-client/thread-loads). */
export async function endPoliteThread(worker: Worker): Promise<void> {
  await new Promise<void>((resolve) => {
    const timer = setTimeout(resolve, limits.threadEndMs);
    const done = (): void => {
      clearTimeout(timer);
      resolve();
    };
    worker.on('message', ({ kind }: { kind?: string }) => {
      if (kind === mayEndWord) done();
    });
    worker.once('exit', done);
    // A thread that is gone already says nothing more.
    if (worker.threadId === -1) done();
    else worker.postMessage({ kind: endWord });
  });
  await worker.terminate();
}
