import { constants } from 'node:fs';
import { open, type FileHandle } from 'node:fs/promises';
import { AppError } from '#base/error.ts';
import { findData } from './native.ts';

/** A file or block device that is read from its start to its end. */
export type ImageSource = AsyncDisposable & {
  sizeBytes: number;
  fd: number;
  /** Nothing but a hole of a sparse file. */
  isHole(at: number, bytes: number): boolean;
};

/** Raises AppError invalid when it cannot be backed up as an image. */
export async function openImage(path: string): Promise<ImageSource> {
  const what = `image ${path}`;
  const file = await open(path, constants.O_RDONLY).catch((cause: unknown) => {
    throw new AppError('invalid', `${what}: opening it`, { cause });
  });
  try {
    const sizeBytes = await measure(file, what);
    return {
      sizeBytes,
      fd: file.fd,
      isHole(at, bytes) {
        const data = findData(file.fd, at);
        return data === null || data >= at + bytes;
      },
      [Symbol.asyncDispose]: () => file.close(),
    };
  } catch (error) {
    await file.close();
    throw error;
  }
}

async function measure(file: FileHandle, what: string): Promise<number> {
  const stat = await file.stat();
  if (!stat.isFile() && !stat.isBlockDevice()) throw new AppError('invalid', `${what}: it is neither a file nor a block device`);
  const sizeBytes = stat.isFile() ? stat.size : await findEnd(file);
  if (sizeBytes < 1) throw new AppError('invalid', `${what}: it is empty`);
  return sizeBytes;
}

/** A block device's stat says nothing of its size: the last byte that can be read does. */
async function findEnd(file: FileHandle): Promise<number> {
  const probe = Buffer.alloc(1);
  const canRead = async (at: number): Promise<boolean> => (await file.read(probe, 0, 1, at)).bytesRead === 1;
  if (!(await canRead(0))) return 0;
  let low = 0; // can be read
  let high = 1; // in the end cannot
  while (high < Number.MAX_SAFE_INTEGER / 2 && (await canRead(high))) {
    low = high;
    high *= 2;
  }
  while (high - low > 1) {
    const middle = low + Math.floor((high - low) / 2);
    if (await canRead(middle)) low = middle;
    else high = middle;
  }
  return high;
}
