import { raiseTrouble } from '#adapters/backup-client/trouble.ts';
import { AppError } from '#base/error.ts';
import { limits } from '#base/limits.ts';
import type { SnapshotId } from '#core/backup/names.ts';
import type { BackedUpGuest } from '#core/guest-backup/guest-blob.ts';
import type { NbdPlace } from '#ports/guest-storage.ts';
import { endPoliteThread, startPoliteThread } from '#programs/guest-backup/polite-thread.ts';
import type { FromRestore, MeasuredDisk, RestoreStart, ToRestore } from '#programs/guest-backup/restore-messages.ts';

/** A backup of a guest that is open for reading. */
export type OpenBackup = AsyncDisposable & {
  snapshot: SnapshotId;
  guest: BackedUpGuest;
  /** Writes a disk to `path`: a new file or a block device. Raises AppError; a file that could not be completed is gone then. */
  writeDisk(disk: string, path: string): Promise<void>;
  /** Makes the disk at `place` equal to the one in the backup. Returns how many bytes of it were different. Raises AppError. */
  writeInto(disk: string, place: NbdPlace): Promise<number>;
  /** How a disk lies in the backup. Raises AppError missing when it does not, invalid when it cannot be read piece by piece. */
  measure(disk: string): Promise<MeasuredDisk>;
};

/** Raises AppError: the server's words, denied for a wrong key. `signal` ends everything at once. */
export async function openBackup(
  start: RestoreStart,
  onProgress: (disk: string, doneBytes: number, totalBytes: number) => void,
  signal: AbortSignal,
): Promise<OpenBackup> {
  const worker = startPoliteThread(new URL('restore-worker.ts', import.meta.url), start);
  let answer = Promise.withResolvers<FromRestore>();
  const fail = (error: unknown): void => answer.reject(error);
  let stall: NodeJS.Timeout | null = null;
  let isEnding = false;
  const watch = (): void => {
    if (stall !== null) clearTimeout(stall);
    if (isEnding) return; // what it says on its end is nothing to wait after
    const late = new AppError('timeout', `the backup server has given nothing for ${limits.restoreStallMs / 1_000} s`);
    stall = setTimeout(() => fail(late), limits.restoreStallMs);
  };
  worker.on('message', (message: FromRestore) => {
    watch();
    if (message.kind === 'progress') onProgress(message.disk, message.doneBytes, message.totalBytes);
    else if (message.kind === 'trouble') fail(raiseTrouble(message.error));
    else answer.resolve(message);
  });
  worker.on('error', (cause) => fail(new AppError('unavailable', 'the thread that restores failed', { cause })));
  worker.on('exit', () => fail(new AppError('unavailable', 'the thread that restores ended')));
  const onAbort = (): void => fail(signal.reason);
  signal.addEventListener('abort', onAbort, { once: true });
  if (signal.aborted) onAbort();
  const end = async (): Promise<void> => {
    answer.promise.catch(() => {}); // its end is told there as well
    isEnding = true;
    if (stall !== null) clearTimeout(stall);
    signal.removeEventListener('abort', onAbort);
    await endPoliteThread(worker);
  };
  try {
    watch();
    const opened = await answer.promise;
    if (opened.kind !== 'opened') throw new AppError('unavailable', 'the thread that restores said something else than expected');
    const ask = async <Kind extends FromRestore['kind']>(kind: Kind, order: ToRestore): Promise<FromRestore & { kind: Kind }> => {
      signal.throwIfAborted();
      answer = Promise.withResolvers();
      watch();
      worker.postMessage(order);
      const said = await answer.promise;
      if (said.kind === kind) return said as FromRestore & { kind: Kind };
      throw new AppError('unavailable', 'the thread that restores said something else than expected');
    };
    return {
      snapshot: opened.snapshot,
      guest: opened.guest,
      writeDisk: async (disk, path) => void (await ask('restored', { disk, to: { kind: 'path', path } })),
      writeInto: async (disk, place) => (await ask('restored', { disk, to: { kind: 'place', place } })).changedBytes,
      measure: async (disk) => await ask('measured', { disk, to: { kind: 'nowhere' } }),
      [Symbol.asyncDispose]: end,
    };
  } catch (error) {
    await end();
    throw error;
  }
}
