import { Worker } from 'node:worker_threads';

/**
 * Starts a thread that gives way to guests and to the agent's own loop, with all threads that it starts in turn. It does so before it loads its code:
 * that alone takes a processor for some hundred milliseconds.
 */
export function startPoliteThread(main: URL, workerData: object): Worker {
  return new Worker(new URL('polite-worker.ts', import.meta.url), { workerData, argv: [main.href] });
}
