import type { Worker } from 'node:worker_threads';
import { raiseTrouble } from '#adapters/backup-client/trouble.ts';
import { AppError } from '#base/error.ts';
import { limits } from '#base/limits.ts';
import type { BackedUp, BackedUpDisk } from '#core/guest-backup/plan-backup.ts';
import { endPoliteThread, startPoliteThread } from '#programs/guest-backup/polite-thread.ts';
import type {
  FromUpload,
  ToUpload,
  UploadedFigures,
  UploadOrder,
  UploadProgress,
  UploadStart,
} from '#programs/guest-backup/upload-messages.ts';

/** A session with a backup server, held by a thread. To dispose of it without `finish` lets the server forget everything. */
export type Upload = AsyncDisposable & {
  /** The newest backup there that this one can build on. */
  previous: BackedUp | null;
  /** Reads and sends the disks. Raises AppError: the server's words, or timeout when nothing moves for `backupStallMs`. */
  send(
    order: UploadOrder,
    onProgress: (progress: UploadProgress) => void,
  ): Promise<{ disks: BackedUpDisk[]; figures: UploadedFigures }>;
  /** Returns when the server has made the backup durable. */
  finish(): Promise<void>;
};

/** Raises AppError when the server cannot be reached or refuses. `signal` ends everything at once. */
export async function openUpload(start: UploadStart, signal: AbortSignal): Promise<Upload> {
  const worker = startPoliteThread(new URL('upload-worker.ts', import.meta.url), start);
  const talk = followWorker(worker, signal);
  try {
    const { previous } = await talk.next('opened', limits.backupOpenMs, 'its backup server does not open a session');
    return {
      previous,
      async send(order, onProgress) {
        talk.onProgress(onProgress);
        worker.postMessage({ kind: 'go', order } satisfies ToUpload);
        return await talk.next('uploaded', null, '');
      },
      async finish() {
        worker.postMessage({ kind: 'finish' } satisfies ToUpload);
        await talk.next('finished', limits.backupFinishMs, 'the backup server does not say that it has everything');
      },
      [Symbol.asyncDispose]: () => talk.end(),
    };
  } catch (error) {
    await talk.end();
    throw error;
  }
}

type Told<Kind extends FromUpload['kind']> = FromUpload & { kind: Kind };

function followWorker(worker: Worker, signal: AbortSignal) {
  const told = new Map<FromUpload['kind'], FromUpload>();
  let waiting: { kind: FromUpload['kind']; resolve: (message: FromUpload) => void; reject: (error: unknown) => void } | null =
    null;
  let failure: { error: unknown } | null = null;
  let listener = (_progress: UploadProgress): void => {};
  let [moved, movedAtMs] = [-1, performance.now()];

  function fail(error: unknown): void {
    failure ??= { error };
    waiting?.reject(failure.error);
    waiting = null;
  }
  function takeProgress(progress: UploadProgress): void {
    listener(progress);
    if (progress.moved !== moved || progress.isHeld) [moved, movedAtMs] = [progress.moved, performance.now()];
    else if (performance.now() - movedAtMs > limits.backupStallMs) {
      fail(
        new AppError(
          'timeout',
          `the backup server has taken nothing for ${limits.backupStallMs / 1_000} s; the backup is given up`,
        ),
      );
    }
  }
  worker.on('message', (message: FromUpload) => {
    if (message.kind === 'progress') return takeProgress(message.progress);
    if (message.kind === 'trouble') return fail(raiseTrouble(message.error));
    told.set(message.kind, message);
    if (waiting?.kind !== message.kind) return;
    waiting.resolve(message);
    waiting = null;
  });
  worker.on('error', (cause) => fail(new AppError('unavailable', 'the thread that sends the backup failed', { cause })));
  worker.on('exit', () => fail(new AppError('unavailable', 'the thread that sends the backup ended')));
  const onAbort = (): void => fail(signal.reason);
  signal.addEventListener('abort', onAbort, { once: true });
  if (signal.aborted) onAbort();

  return {
    onProgress: (next: (progress: UploadProgress) => void) => void ([listener, movedAtMs] = [next, performance.now()]),
    /** Waits for the message; `deadlineMs` null: as long as something moves. */
    async next<Kind extends FromUpload['kind']>(kind: Kind, deadlineMs: number | null, late: string): Promise<Told<Kind>> {
      if (failure !== null) throw failure.error;
      const has = told.get(kind);
      if (has !== undefined) return has as Told<Kind>;
      const promise = new Promise<FromUpload>((resolve, reject) => (waiting = { kind, resolve, reject }));
      const timer =
        deadlineMs === null
          ? null
          : setTimeout(() => fail(new AppError('timeout', `${late} within ${deadlineMs / 1_000} s`)), deadlineMs);
      try {
        return (await promise) as Told<Kind>;
      } finally {
        if (timer !== null) clearTimeout(timer);
      }
    },
    async end(): Promise<void> {
      signal.removeEventListener('abort', onAbort);
      await endPoliteThread(worker);
    },
  };
}
