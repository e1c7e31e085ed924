import { constants } from 'node:fs';
import { open, unlink, type FileHandle } from 'node:fs/promises';
import { AppError } from '#base/error.ts';
import type { ChunkIndex } from '#core/backup/chunk-index.ts';
import type { Piece } from './snapshot-source.ts';

/** Where an image goes. `discard`: takes away what was begun. */
type ImageTarget = { write(piece: Piece): Promise<void>; finish(): Promise<void>; discard(): Promise<void> };

/**
 * Writes an image to `path`: a new file, a block device, or `-` for standard output. Nothing is created before the first piece came and was
 * found right; a file that could not be completed is removed again.
 */
export async function restoreImage(
  path: string,
  index: Pick<ChunkIndex, 'sizeBytes'>,
  pieces: AsyncIterable<Piece>,
  onProgress: (doneBytes: number) => void,
): Promise<void> {
  let target: ImageTarget | null = null;
  try {
    for await (const piece of pieces) {
      target ??= path === '-' ? standardOutput() : await openTarget(path, index.sizeBytes);
      await target.write(piece);
      onProgress(piece.start + piece.data.length);
    }
    await target?.finish();
  } catch (error) {
    await target?.discard();
    throw error;
  }
}

/** Writes small content likewise. */
export async function restoreBytes(path: string, data: Uint8Array): Promise<void> {
  if (path === '-') return standardOutput().write({ start: 0, data, isZero: false });
  const target = await openTarget(path, data.length);
  try {
    await target.write({ start: 0, data, isZero: false });
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
  return {
    async write({ start, data, isZero }) {
      if (isZero && isNew) return; // a hole of the new file reads as zeros
      for (let at = 0; at < data.length;) at += (await file.write(data, at, data.length - at, start + at)).bytesWritten;
    },
    async finish() {
      await file.sync();
      await file.close();
    },
    async discard() {
      await file.close().catch(() => {});
      if (isNew) await unlink(path).catch(() => {});
    },
  };
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
  return { write: ({ data }) => write(data), finish: () => Promise.resolve(), discard: () => Promise.resolve() };
}
