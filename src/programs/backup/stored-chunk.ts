import { createHash } from 'node:crypto';
import { promisify } from 'node:util';
import { crc32, zstdDecompress } from 'node:zlib';
import { AppError } from '#base/error.ts';
import { blobLimits, checkBlob, type BlobHeader } from '#core/backup/blob.ts';
import { formatHex, isSameBytes } from '#core/backup/bytes.ts';
import { digestAt, findChunk, spanAt, type ChunkIndex } from '#core/backup/chunk-index.ts';
import type { Datastore } from '#ports/datastore.ts';

const decompress = promisify(zstdDecompress);
/** Chunks that are read ahead. */
const readAhead = 8;

/** Zstandard's output comes in pieces of this: in one, for what is as long as it is said to be. */
const leastPieceBytes = 64;

/**
 * The payload of a plain chunk of, it is said, `sizeBytes`, decompressed off the event loop: at 4 MiB a chunk this is most of the work.
 * Raises AppError invalid.
 */
export async function unpackChunk(
  encoded: Uint8Array,
  header: BlobHeader,
  { sizeBytes, what }: { sizeBytes: number; what: string },
): Promise<Uint8Array> {
  const payload = encoded.subarray(header.headerBytes);
  if (!header.isCompressed) return payload;
  const chunkSize = Math.min(Math.max(sizeBytes, leastPieceBytes), blobLimits.chunkBytes);
  try {
    return await decompress(payload, { chunkSize, maxOutputLength: blobLimits.chunkBytes });
  } catch (cause) {
    throw new AppError('invalid', `${what}: its compressed content is damaged or too long`, { cause });
  }
}

/**
 * The bytes of an archive from `from` to `to`, in order. Raises AppError denied when it is encrypted, unavailable when a chunk is missing
 * or damaged.
 */
export async function* readArchive(
  store: Pick<Datastore, 'readChunk'>,
  index: ChunkIndex,
  from = 0,
  to = index.sizeBytes,
): AsyncGenerator<Uint8Array> {
  const underWay: Promise<Uint8Array>[] = [];
  const end = to <= from ? 0 : findChunk(index, to - 1) + 1;
  let next = to <= from ? 0 : findChunk(index, from);
  if (next < 0 || end < 1) return;
  const read = async (at: number): Promise<Uint8Array> => {
    const span = spanAt(index, at);
    const bytes = await readChunk(store, digestAt(index, at), span.end - span.start);
    return bytes.subarray(Math.max(0, from - span.start), Math.min(bytes.length, to - span.start));
  };
  while (next < end || underWay.length > 0) {
    while (next < end && underWay.length < readAhead) {
      const job = read(next);
      job.catch(() => {}); // it is raised when its turn comes
      underWay.push(job);
      next += 1;
    }
    yield await underWay.shift()!;
  }
}

async function readChunk(store: Pick<Datastore, 'readChunk'>, digest: Uint8Array, sizeBytes: number): Promise<Uint8Array> {
  const what = `chunk ${formatHex(digest)}`;
  const encoded = await store.readChunk(digest);
  if (encoded === null) throw new AppError('unavailable', `${what} is not there; verify the snapshot`);
  const header = checkBlob(encoded, what, { crc32 });
  if (header.cryptClass === 'encrypted') throw new AppError('denied', `${what} is encrypted; only its client can read it`);
  const data = await unpackChunk(encoded, header, { sizeBytes, what });
  if (data.length !== sizeBytes || !isSameBytes(createHash('sha256').update(data).digest(), digest))
    throw new AppError('unavailable', `${what} is damaged; verify the snapshot`);
  return data;
}
