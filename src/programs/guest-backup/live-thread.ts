import { raiseTrouble } from '#adapters/backup-client/trouble.ts';
import { AppError, formatErrorChain } from '#base/error.ts';
import { limits } from '#base/limits.ts';
import type { FromLive, LiveProgress, LiveStart, ToLive } from '#programs/guest-backup/live-messages.ts';
import { endPoliteThread, startPoliteThread } from '#programs/guest-backup/polite-thread.ts';
import type { TargetAccess } from '#programs/guest-backup/upload-messages.ts';

/** `trouble`: why nothing comes just now; null: it does. */
export type LiveState = LiveProgress & { trouble: string | null };

/** Disks that are served and filled by a thread of their own. To dispose of it ends both; what has arrived stays. */
export type LiveStream = AsyncDisposable & {
  state(): LiveState;
  /** Settles when all is here. Raises AppError when the thread failed. */
  complete: Promise<void>;
};

/**
 * Returns once the disks are served; they are then filled from wherever `readAccess` says, which is asked again whenever the server was lost. Raises
 * AppError when they cannot be served.
 */
export async function startLiveStream(start: LiveStart, readAccess: () => Promise<TargetAccess>): Promise<LiveStream> {
  const { limits: timing } = start;
  const worker = startPoliteThread(new URL('live-worker.ts', import.meta.url), start);
  const serving = Promise.withResolvers<void>();
  const complete = Promise.withResolvers<void>();
  complete.promise.catch(() => {}); // whoever follows it is told
  let state: LiveState = { doneBytes: 0, totalBytes: 0, owed: 0, bad: null, trouble: null };
  let waitMs = 0;
  let retry: NodeJS.Timeout | null = null;
  let isEnded = false;

  function fail(error: unknown): void {
    serving.reject(error);
    complete.reject(error);
  }

  function askAgain(error: unknown): void {
    state = { ...state, trouble: formatErrorChain(error) };
    waitMs = waitMs === 0 ? timing.retryMs : Math.min(waitMs * 2, timing.retryMaxMs);
    retry = setTimeout(() => void giveSource(), waitMs);
  }

  /** Where the server is, and the secret, may have changed meanwhile. */
  async function giveSource(): Promise<void> {
    try {
      const access = await readAccess();
      if (!isEnded) worker.postMessage({ kind: 'source', access } satisfies ToLive);
    } catch (error) {
      if (!isEnded) askAgain(error);
    }
  }

  worker.on('message', (message: FromLive) => {
    switch (message.kind) {
      case 'serving':
        return serving.resolve();
      case 'progress': {
        const isMoving = message.progress.doneBytes > state.doneBytes && state.totalBytes > 0;
        if (isMoving) waitMs = 0;
        state = { ...message.progress, trouble: isMoving ? null : state.trouble };
        return;
      }
      case 'lost':
        return isEnded ? undefined : askAgain(raiseTrouble(message.error));
      case 'complete':
        state = { ...state, trouble: null };
        return complete.resolve();
      case 'trouble':
        return fail(raiseTrouble(message.error));
    }
  });
  worker.on('error', (cause) => fail(new AppError('unavailable', 'the thread that streams disks in failed', { cause })));
  worker.on('exit', () => fail(new AppError('unavailable', 'the thread that streams disks in ended')));
  const late = setTimeout(
    () => fail(new AppError('timeout', `the thread that streams disks in does not serve after ${limits.threadEndMs / 1_000} s`)),
    limits.threadEndMs,
  );
  const end = async (): Promise<void> => {
    isEnded = true;
    if (retry !== null) clearTimeout(retry);
    await endPoliteThread(worker);
  };
  try {
    await serving.promise;
  } catch (error) {
    await end();
    throw error;
  } finally {
    clearTimeout(late);
  }
  void giveSource();
  return { state: () => state, complete: complete.promise, [Symbol.asyncDispose]: end };
}
