import { constants } from 'node:fs';
import { open, unlink, type FileHandle } from 'node:fs/promises';
import { AppError } from '#base/error.ts';
import type { ChunkIndex } from '#core/backup/chunk-index.ts';
import type { TargetFile } from './chunk-jobs.ts';
import type { SnapshotSource } from './snapshot-source.ts';

/** Where an image goes. `discard`: takes away what was begun. */
type ImageTarget = {
  /** To be written to at any place; null: only in order, by `write`. */
  file: TargetFile | null;
  /** Reads as zeros where nothing was written. */
  isNew: boolean;
  write(at: number, data: Uint8Array): Promise<void>;
  finish(): Promise<void>;
  discard(): Promise<void>;
};

/**
 * Writes an image to `path`: a new file, a block device, or `-` for standard output. Nothing is created before the first piece came and was
 * found right; a file that could not be completed is removed again.
 */
export async function restoreImage(
  path: string,
  source: Pick<SnapshotSource, 'pieces' | 'readArchive'>,
  { name, index, width }: { name: string; index: ChunkIndex; width: number },
  onProgress: (doneBytes: number) => void,
): Promise<void> {
  if (path === '-') {
    const target = standardOutput();
    for await (const { start, data } of source.readArchive(name, index)) await target.write(start, data);
    return;
  }
  const pieces = source.pieces(name, index);
  const first = pieces.at(0);
  const head = first.isZero ? new Uint8Array(first.sizeBytes) : await first.fetch();
  const target = await openTarget(path, index.sizeBytes);
  let doneBytes = 0;
  const done = (bytes: number): void => {
    doneBytes += bytes;
    onProgress(doneBytes);
  };
  try {
    await target.write(0, head);
    done(head.length);
    await restoreRest(target, pieces, width, done);
    await target.finish();
  } catch (error) {
    await target.discard();
    throw error;
  }
}

/** All but the first, many at a time, each to its own place. */
async function restoreRest(
  { file, isNew }: ImageTarget,
  pieces: ReturnType<SnapshotSource['pieces']>,
  width: number,
  done: (bytes: number) => void,
): Promise<void> {
  if (file === null) throw new AppError('conflict', 'target: it cannot be written out of order');
  let next = 1;
  let isFailed = false;
  const work = async (): Promise<void> => {
    while (next < pieces.count && !isFailed) {
      const piece = pieces.at(next);
      next += 1;
      if (!(piece.isZero && isNew)) await piece.fetchInto(file);
      done(piece.sizeBytes);
    }
  };
  const works = Array.from({ length: width }, () =>
    work().catch((error: unknown) => {
      isFailed = true;
      throw error;
    }),
  );
  // All of them end before the target is closed: a descriptor's number may come to mean another file.
  const results = await Promise.allSettled(works);
  for (const result of results) if (result.status === 'rejected') throw result.reason;
}

/** Writes small content likewise. */
export async function restoreBytes(path: string, data: Uint8Array): Promise<void> {
  if (path === '-') return standardOutput().write(0, data);
  const target = await openTarget(path, data.length);
  try {
    await target.write(0, data);
    await target.finish();
  } catch (error) {
    await target.discard();
    throw error;
  }
}

async function openTarget(path: string, sizeBytes: number): Promise<ImageTarget> {
  const created = await create(path);
  const file = created ?? (await openDevice(path, sizeBytes));
  const isNew = created !== null;
  if (isNew) await file.truncate(sizeBytes);
  const direct = await openDirect(file);
  const close = async (): Promise<void> => {
    await direct?.close();
    await file.close();
  };
  return {
    file: { fd: file.fd, direct: direct?.fd ?? null },
    isNew,
    async write(start, data) {
      for (let at = 0; at < data.length;) at += (await file.write(data, at, data.length - at, start + at)).bytesWritten;
    },
    async finish() {
      await file.sync();
      await close();
    },
    async discard() {
      await close().catch(() => {});
      if (isNew) await unlink(path).catch(() => {});
    },
  };
}

/** The same file for writes past the page cache; null: this file system knows none. */
export async function openDirect({ fd }: FileHandle): Promise<FileHandle | null> {
  return open(`/proc/self/fd/${fd}`, constants.O_WRONLY | constants.O_DIRECT).catch(() => null);
}

/** null: there is something already. */
async function create(path: string): Promise<FileHandle | null> {
  try {
    return await open(path, 'wx', 0o600);
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code === 'EEXIST') return null;
    throw new AppError('invalid', `target: ${path} cannot be created`, { cause });
  }
}

async function openDevice(path: string, sizeBytes: number): Promise<FileHandle> {
  const file = await open(path, constants.O_WRONLY).catch((cause: unknown) => {
    throw new AppError('invalid', `target: ${path} cannot be written`, { cause });
  });
  const isDevice = (await file.stat()).isBlockDevice();
  if (isDevice && (await reaches(path, sizeBytes))) return file;
  await file.close();
  if (isDevice) throw new AppError('invalid', `target: ${path} is smaller than the image of ${sizeBytes} bytes`);
  throw new AppError(
    'conflict',
    `target: ${path} exists already; give the name of a new file, a block device, or - for standard output`,
  );
}

async function reaches(path: string, sizeBytes: number): Promise<boolean> {
  const file = await open(path, constants.O_RDONLY);
  try {
    return (await file.read(Buffer.alloc(1), 0, 1, sizeBytes - 1)).bytesRead === 1;
  } finally {
    await file.close();
  }
}

function standardOutput(): ImageTarget {
  const write = (data: Uint8Array): Promise<void> =>
    new Promise((resolve, reject) => {
      process.stdout.write(data, (error) => (error ? reject(error) : resolve()));
    });
  return {
    file: null,
    isNew: false,
    write: (_at, data) => write(data),
    finish: () => Promise.resolve(),
    discard: () => Promise.resolve(),
  };
}
