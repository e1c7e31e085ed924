import { AppError } from '#base/error.ts';

/** What a reader needs to see of a guest's disk. */
export type ReadAsk = { disk: string; at: number; bytes: number };

/** A piece of work on images that others fetch: it asks for bytes, is answered with just as many, and ends with what it made of them. */
export type Reading<T> = Generator<ReadAsk, T, Uint8Array>;

/** A run of bytes that a file system may lie in: a disk, a partition, a logical volume. */
export type Volume = { sizeBytes: number; read(at: number, bytes: number): Reading<Uint8Array> };

/** Nothing in an image is worth more at once; a length that claims more is not believed. */
export const mostAtOnceBytes = 16 << 20;

export function wholeDisk(disk: string, sizeBytes: number): Volume {
  return {
    sizeBytes,
    *read(at, bytes) {
      refuseOutside(at, bytes, sizeBytes);
      return yield { disk, at, bytes };
    },
  };
}

export function partOf(volume: Volume, start: number, sizeBytes: number): Volume {
  refuseOutside(start, 0, volume.sizeBytes);
  const fits = Math.min(sizeBytes, volume.sizeBytes - start);
  return {
    sizeBytes: fits,
    *read(at, bytes) {
      refuseOutside(at, bytes, fits);
      return yield* volume.read(start + at, bytes);
    },
  };
}

function refuseOutside(at: number, bytes: number, sizeBytes: number): void {
  const isSane = Number.isSafeInteger(at) && Number.isSafeInteger(bytes) && at >= 0 && bytes >= 0;
  if (!isSane || at + bytes > sizeBytes) throw damaged(`it points to ${bytes} bytes at ${at}, beyond its end at ${sizeBytes}`);
  if (bytes > mostAtOnceBytes) throw damaged(`it wants ${bytes} bytes at once`);
}

/** What is wrong with an image. */
export function damaged(what: string): AppError {
  return new AppError('invalid', `read the image: ${what}`);
}

export function notReadHere(what: string): AppError {
  return new AppError('unsupported', `read the image: ${what} is not read here; restore the whole disk`);
}

/** Numbers in bytes; `big`: big-endian. Raises AppError when they lie beyond the end. */
export type Fields = {
  u8(at: number): number;
  u16(at: number): number;
  u32(at: number): number;
  i32(at: number): number;
  /** Raises AppError for what no safe integer holds. */
  u64(at: number): number;
  raw64(at: number): bigint;
  /** Up to the first NUL. */
  text(at: number, bytes: number): string;
};

export function fieldsOf(bytes: Uint8Array, big = false): Fields {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const checked = <T>(read: () => T): T => {
    try {
      return read();
    } catch {
      throw damaged('a record is cut short');
    }
  };
  return {
    u8: (at) => checked(() => view.getUint8(at)),
    u16: (at) => checked(() => view.getUint16(at, !big)),
    u32: (at) => checked(() => view.getUint32(at, !big)),
    i32: (at) => checked(() => view.getInt32(at, !big)),
    raw64: (at) => checked(() => view.getBigUint64(at, !big)),
    u64(at) {
      const value = checked(() => view.getBigUint64(at, !big));
      if (value > BigInt(Number.MAX_SAFE_INTEGER)) throw damaged(`a number of ${value} makes no sense`);
      return Number(value);
    },
    text(at, length) {
      const raw = bytes.subarray(at, at + length);
      const end = raw.indexOf(0);
      return new TextDecoder().decode(end < 0 ? raw : raw.subarray(0, end));
    },
  };
}

/** Bytes of a file that lie in one run; `at` null: zeros. */
export type FileRun = { at: number | null; bytes: number };

/** Puts pieces of a file together: `find` tells where the bytes at a place lie and how many follow there. */
export function* gather(
  volume: Volume,
  at: number,
  bytes: number,
  find: (at: number) => Reading<FileRun> | FileRun,
): Reading<Uint8Array> {
  const result = new Uint8Array(bytes);
  for (let done = 0; done < bytes;) {
    const found = find(at + done);
    const run = 'next' in found ? yield* found : found;
    const length = Math.min(run.bytes, bytes - done);
    if (length <= 0) throw damaged('a file has a piece of no length');
    if (run.at !== null) result.set(yield* volume.read(run.at, length), done);
    done += length;
  }
  return result;
}
