import type { ReadableDisk } from '#adapters/nbd/nbd-server.ts';
import { AppError, formatErrorChain, isAppError } from '#base/error.ts';
import { limits } from '#base/limits.ts';
import type { LiveLimits } from '#core/guest-backup/live-limits.ts';
import type { LiveDisk, LiveDisks } from '#programs/guest-backup/live-disks.ts';
import type { LiveProgress } from '#programs/guest-backup/live-messages.ts';
import type { LiveSource } from '#programs/guest-backup/live-source.ts';

/** Fills disks from one source after the other, and reads them meanwhile. */
export type LiveFill = {
  /** A disk as its guest sees it: what is not here is fetched before all else; a read that waits too long for it fails. */
  readable(disk: LiveDisk): ReadableDisk;
  /** Returns when all is here, or `signal` aborts. Raises AppError when the source is lost: what was under way is missing again then. */
  fillFrom(source: LiveSource, signal: AbortSignal): Promise<void>;
  progress(): LiveProgress;
};

export function createLiveFill(live: LiveDisks, timing: LiveLimits): LiveFill {
  const { book } = live;
  const waiting = new Map<number, { promise: Promise<void>; resolve: () => void }>();
  let because = '';
  let doneBytes = 0;
  for (let chunk = 0; chunk < book.count; chunk += 1) if (book.isHere(chunk)) doneBytes += live.sizeOf(chunk);
  let wishedMs = Number.NEGATIVE_INFINITY;
  /** How many may be under way: more as long as each comes soon, fewer when they only queue up on the line, where the guest's wishes queue too. */
  let width: number = timing.busyWidth;
  /** Begins with what somebody waits for, beside all that is under way. */
  let hurry = (): void => {};

  function arrived(chunk: number): void {
    book.arrived(chunk);
    doneBytes += live.sizeOf(chunk);
    waiting.get(chunk)?.resolve();
    waiting.delete(chunk);
  }

  async function ensure(chunk: number): Promise<void> {
    if (book.isHere(chunk)) return;
    const entry = waiting.get(chunk) ?? Promise.withResolvers<void>();
    waiting.set(chunk, entry);
    book.want(chunk);
    wishedMs = performance.now();
    hurry();
    const late = Promise.withResolvers<never>();
    const timer = setTimeout(() => {
      book.owe(chunk);
      late.reject(new AppError('timeout', `chunk ${chunk} did not come within ${timing.readMs} ms`));
    }, timing.readMs);
    await Promise.race([entry.promise, late.promise]).finally(() => clearTimeout(timer));
  }

  async function read(disk: LiveDisk, at: number, bytes: number): Promise<Uint8Array> {
    const last = Math.floor((at + bytes - 1) / disk.chunkBytes);
    const needed: Promise<void>[] = [];
    for (let chunk = Math.floor(at / disk.chunkBytes); chunk <= last; chunk += 1) needed.push(ensure(disk.first + chunk));
    await Promise.all(needed);
    const data = Buffer.alloc(bytes);
    const { bytesRead } = await disk.file.read(data, 0, bytes, at);
    if (bytesRead !== bytes) throw new AppError('invalid', `${disk.path} ends before ${at + bytes}`);
    return data;
  }

  async function fetchOne(source: LiveSource, chunk: number): Promise<void> {
    const { disk, at } = live.find(chunk);
    const piece = source.piece(disk, at);
    try {
      if (!piece.isZero) await piece.fetch(); // the layer was made of zeros
      arrived(chunk);
    } catch (error) {
      // A source that is gone is none for any chunk; else this one is gone or damaged there, or the disk here does not take it.
      if (isAppError(error, 'unavailable', 'timeout')) {
        book.lost(chunk);
        throw error;
      }
      because = `${disk.name} at ${at * disk.chunkBytes}: ${formatErrorChain(error)}`;
      book.failed(chunk, performance.now() + timing.badChunkMs);
    }
  }

  return {
    readable: (disk) => ({ sizeBytes: disk.sizeBytes, read: (at, bytes) => read(disk, at, bytes) }),
    async fillFrom(source, signal) {
      const underWay = new Set<Promise<void>>();
      let bell = Promise.withResolvers<void>();
      let failure: { error: unknown } | null = null;
      let movedMs = performance.now();
      const begin = (wantedOnly: boolean): boolean => {
        const chunk = failure === null && !signal.aborted ? book.begin(performance.now(), wantedOnly) : null;
        if (chunk === null) return false;
        const begunMs = performance.now();
        const work = fetchOne(source, chunk)
          .then(
            () => {
              movedMs = performance.now();
              const step = movedMs - begunMs < timing.lagMs ? 1 : -1;
              width = Math.min(source.width, Math.max(timing.busyWidth, width + step));
            },
            (error: unknown) => void (failure ??= { error }),
          )
          .finally(() => {
            underWay.delete(work);
            bell.resolve();
          });
        underWay.add(work);
        return true;
      };
      hurry = () => {
        while (begin(true));
      };
      const ring = (): void => bell.resolve();
      const often = setInterval(ring, timing.lookMs);
      signal.addEventListener('abort', ring, { once: true });
      try {
        while (book.here < book.count && failure === null && !signal.aborted) {
          const isWished = performance.now() - wishedMs < timing.calmMs;
          while (underWay.size < (isWished ? timing.busyWidth : width) && begin(false));
          if (underWay.size === 0) movedMs = performance.now();
          if (performance.now() - movedMs > limits.restoreStallMs) failure = { error: stalled() };
          await bell.promise;
          bell = Promise.withResolvers();
        }
      } finally {
        failure ??= { error: stalled() }; // nothing more is begun
        hurry = () => {};
        clearInterval(often);
        signal.removeEventListener('abort', ring);
        await source[Symbol.asyncDispose](); // ends what is under way
        await Promise.allSettled(underWay);
      }
      if (book.here < book.count && !signal.aborted) throw failure.error;
    },
    progress: () => ({
      doneBytes,
      totalBytes: live.totalBytes,
      owed: book.owed,
      bad: book.bad === 0 ? null : { count: book.bad, because },
    }),
  };
}

function stalled(): AppError {
  return new AppError('timeout', `the backup server has given nothing for ${limits.restoreStallMs / 1_000} s`);
}
