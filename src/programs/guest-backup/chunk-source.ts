import type { ChunkPool, HeldChunk } from '#adapters/backup-client/chunk-pool.ts';
import { connectNbd, type NbdClient } from '#adapters/nbd/nbd-client.ts';
import { AppError, isAppError } from '#base/error.ts';
import { limits } from '#base/limits.ts';
import type { ByteFunctions } from '#core/backup/byte-functions.ts';
import { chunkDigest, type CryptKey } from '#core/backup/crypt-key.ts';
import { fixedChunkBytes } from '#core/backup/index-writer.ts';

/** Asked for at once: what a server's 32-bit lengths allow, in whole chunks. */
const extentsAskedBytes = 2 ** 30;

/** `canRelease`: what has been read is given back. */
export type PointDisk = { socketPath: string; exportName: string; bitmap: string | null; canRelease: boolean };
export type PointChunk = { start: number; bytes: number; held: HeldChunk };

/**
 * The chunks of a disk at a point, in order, several being read and hashed ahead: those that the bitmap marks, or all. Of a point that QEMU keeps, what has
 * been read is given back: it need not be kept any longer when the guest overwrites it.
 */
export async function* readPoint(
  disk: PointDisk,
  parts: { pool: ChunkPool; key: CryptKey | null; functions: ByteFunctions },
): AsyncGenerator<PointChunk> {
  const nbd = await connectNbd(disk.socketPath, disk.exportName, {
    deadlineMs: limits.nbdRequestMs,
    ...(disk.bitmap === null ? {} : { bitmap: disk.bitmap }),
  });
  try {
    const ahead: Promise<PointChunk>[] = [];
    const wanted = disk.bitmap === null ? listAll(nbd) : listMarked(nbd);
    for await (const { start, bytes, isZero } of wanted) {
      const chunk = isZero
        ? Promise.resolve({ start, bytes, held: zeroChunk(bytes, parts) })
        : readChunk(nbd, start, bytes, { pool: parts.pool, canRelease: disk.canRelease });
      chunk.catch(() => {}); // it is raised when its turn comes
      ahead.push(chunk);
      if (ahead.length >= parts.pool.width * 2) yield await ahead.shift()!;
    }
    for (const chunk of ahead) yield await chunk;
  } finally {
    nbd.close();
  }
}

type Span = { start: number; bytes: number; isZero: boolean };

/** Chunks with a mark in them. */
async function* listMarked(nbd: NbdClient): AsyncGenerator<Span> {
  let next = 0;
  for (let at = 0; at < nbd.sizeBytes;) {
    for (const extent of await nbd.readMarks(at, Math.min(extentsAskedBytes, nbd.sizeBytes - at))) {
      at = extent.offset + extent.length;
      if (!extent.marked) continue;
      next = Math.max(next, chunkStart(extent.offset));
      for (; next < Math.min(at, nbd.sizeBytes); next += fixedChunkBytes) yield spanAt(nbd, next, false);
    }
  }
}

/** Every chunk; whole ones that are known to be zeros without reading are told. */
async function* listAll(nbd: NbdClient): AsyncGenerator<Span> {
  let next = 0;
  let zeroFrom: number | null = null;
  for (let at = 0; at < nbd.sizeBytes;) {
    for (const extent of await nbd.readExtents(at, Math.min(extentsAskedBytes, nbd.sizeBytes - at))) {
      at = extent.offset + extent.length;
      zeroFrom = extent.zero ? (zeroFrom ?? extent.offset) : null;
      for (; next + fixedChunkBytes <= at; next += fixedChunkBytes) {
        yield spanAt(nbd, next, zeroFrom !== null && zeroFrom <= next);
      }
    }
  }
  if (next < nbd.sizeBytes) yield spanAt(nbd, next, false);
}

function chunkStart(offset: number): number {
  return Math.floor(offset / fixedChunkBytes) * fixedChunkBytes;
}

function spanAt(nbd: NbdClient, start: number, isZero: boolean): Span {
  return { start, bytes: Math.min(fixedChunkBytes, nbd.sizeBytes - start), isZero };
}

async function readChunk(
  nbd: NbdClient,
  start: number,
  bytes: number,
  { pool, canRelease }: { pool: ChunkPool; canRelease: boolean },
): Promise<PointChunk> {
  const data = await nbd.read(start, bytes).catch((cause: unknown) => {
    if (!isAppError(cause, 'invalid')) throw cause;
    // QEMU refuses to read a point that it had to give up so that the guest could go on.
    throw new AppError(
      'unavailable',
      'the point is gone: old data could not be kept in time; is the disk under the scratch folder slow or full?',
      {
        cause,
      },
    );
  });
  if (canRelease) await nbd.trim(start, bytes);
  return { start, bytes, held: await pool.take(data.buffer as ArrayBuffer, bytes, () => {}) };
}

/** Zeros that nobody has to read. */
function zeroChunk(
  bytes: number,
  { pool, key, functions }: { pool: ChunkPool; key: CryptKey | null; functions: ByteFunctions },
): HeldChunk {
  return {
    digest: chunkDigest(new Uint8Array(bytes), key, functions),
    sizeBytes: bytes,
    encode: async () => (await pool.take(new ArrayBuffer(bytes), bytes, () => {})).encode(),
    drop: () => Promise.resolve(),
  };
}
