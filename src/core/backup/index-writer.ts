import { AppError } from '#base/error.ts';
import type { ByteFunctions } from './byte-functions.ts';
import { formatHex, isSameBytes, joinBytes, viewOf } from './bytes.ts';
import { computeIndexCsum, digestAt, encodeIndexHeader, spanAt, type ChunkIndex } from './chunk-index.ts';

/** Every fixed chunk but the last has this size; the protocol knows no other. */
export const fixedChunkBytes = 4 * 1024 * 1024;
/** An image of 256 TiB; its index alone takes 2 GiB of memory, so this is what one index may take at most. */
const maxRecordsBytes = 512 * 1024 * 1024;

/** A chunk with its size, as known in a session. */
export type KnownChunk = { digest: Uint8Array; sizeBytes: number };
/** What closing gives: the whole file, and what a manifest says of it. */
export type ClosedIndex = { file: Uint8Array; csum: Uint8Array; sizeBytes: number };
type Close = { chunkCount: number; sizeBytes: number; csum: Uint8Array };
type Birth = { uuid: Uint8Array; ctimeSeconds: number };
type Sha256 = Pick<ByteFunctions, 'sha256'>;

/** An index in the making; `appended` counts the calls of `append`. */
export type IndexWriter = {
  readonly appended: number;
  /** Puts a chunk at `start`. Raises AppError invalid when it cannot lie there. */
  append(chunk: KnownChunk, start: number): void;
  /** Raises AppError invalid when the client's count, size or checksum are not what was appended. */
  close(claim: Close, functions: Sha256): ClosedIndex;
};

/**
 * Starts a fixed index. `base`: an earlier index of the same archive that fills it beforehand; then only what changed is appended.
 * Raises AppError invalid for a size that no index can have.
 */
export function startFixedIndex(sizeBytes: number, base: ChunkIndex | null, birth: Birth): IndexWriter {
  if (!Number.isSafeInteger(sizeBytes) || sizeBytes < 1)
    throw new AppError('invalid', `size: ${sizeBytes} is not a size from 1 byte on`);
  const count = Math.ceil(sizeBytes / fixedChunkBytes);
  if (count * 32 > maxRecordsBytes) throw new AppError('invalid', `size: ${sizeBytes} bytes are more than an index may hold`);
  const records = base === null ? new Uint8Array(count * 32) : prefilled(base, sizeBytes);
  const isIncremental = base !== null;
  let appended = 0;
  let smaller = 0;
  return {
    get appended() {
      return appended;
    },
    append({ digest, sizeBytes: chunkBytes }, start) {
      const end = start + chunkBytes;
      if (!Number.isSafeInteger(start) || start < 0 || start % fixedChunkBytes !== 0) {
        throw new AppError('invalid', `offset: ${start} is not a multiple of ${fixedChunkBytes}`);
      }
      if (end > sizeBytes)
        throw new AppError('invalid', `offset: a chunk from ${start} to ${end} reaches past the image's end ${sizeBytes}`);
      if (chunkBytes !== fixedChunkBytes && end !== sizeBytes) {
        throw new AppError(
          'invalid',
          `offset: a chunk of ${chunkBytes} bytes at ${start}; only the last may be shorter than ${fixedChunkBytes}`,
        );
      }
      if (chunkBytes < fixedChunkBytes) smaller += 1;
      if (smaller > 1) throw new AppError('invalid', 'offset: the last, shorter chunk was appended twice');
      records.set(digest, (start / fixedChunkBytes) * 32);
      appended += 1;
    },
    close(claim, functions) {
      checkCount(claim, appended);
      if (!isIncremental) {
        if (claim.chunkCount !== count)
          throw new AppError('invalid', `chunk-count: ${claim.chunkCount} chunks do not make the image (${count} would)`);
        if (claim.sizeBytes !== sizeBytes)
          throw new AppError('invalid', `size: ${claim.sizeBytes} is not the image's ${sizeBytes}`);
      }
      checkNoGap(records);
      const csum = checkCsum(records, claim, functions);
      const header = encodeIndexHeader({ kind: 'fixed', ...birth, csum, sizeBytes, chunkBytes: fixedChunkBytes });
      return { file: joinBytes([header, records]), csum, sizeBytes };
    },
  };
}

/** Starts a dynamic index: chunks come in order, without gaps. */
export function startDynamicIndex(birth: Birth): IndexWriter {
  let records = new Uint8Array(40 * 64);
  let appended = 0;
  let end = 0;
  return {
    get appended() {
      return appended;
    },
    append({ digest, sizeBytes }, start) {
      if (start !== end) throw new AppError('invalid', `offset: ${start} is not where the chunk before ended (${end})`);
      const at = appended * 40;
      if (at + 40 > maxRecordsBytes) throw new AppError('invalid', 'offset: the archive has more chunks than an index may hold');
      if (at + 40 > records.length) {
        const larger = new Uint8Array(records.length * 2);
        larger.set(records);
        records = larger;
      }
      end += sizeBytes;
      viewOf(records).setBigUint64(at, BigInt(end), true);
      records.set(digest, at + 8);
      appended += 1;
    },
    close(claim, functions) {
      checkCount(claim, appended);
      if (appended < 1) throw new AppError('invalid', 'chunk-count: an archive has at least one chunk');
      if (claim.sizeBytes !== end) throw new AppError('invalid', `size: ${claim.sizeBytes} is not what was appended (${end})`);
      const used = records.subarray(0, appended * 40);
      const csum = checkCsum(used, claim, functions);
      const header = encodeIndexHeader({ kind: 'dynamic', ...birth, csum, sizeBytes: end, chunkBytes: 0 });
      return { file: joinBytes([header, used]), csum, sizeBytes: end };
    },
  };
}

/** All chunks of an index with their sizes. */
export function* chunksOf(index: ChunkIndex): Generator<KnownChunk> {
  for (let at = 0; at < index.count; at += 1) {
    const { start, end } = spanAt(index, at);
    yield { digest: digestAt(index, at), sizeBytes: end - start };
  }
}

function prefilled(base: ChunkIndex, sizeBytes: number): Uint8Array {
  const count = Math.ceil(sizeBytes / fixedChunkBytes);
  if (base.kind !== 'fixed' || base.chunkBytes !== fixedChunkBytes || base.count !== count) {
    throw new AppError(
      'invalid',
      `reuse-csum: the last image has ${base.sizeBytes} bytes in chunks of ${base.chunkBytes}, this one ${sizeBytes}`,
    );
  }
  const records = Uint8Array.from(base.records);
  // The last chunk of another size has to come anew, even where the number of chunks is the same.
  if (base.sizeBytes !== sizeBytes) records.fill(0, records.length - 32);
  return records;
}

function checkCount(claim: Close, appended: number): void {
  if (claim.chunkCount !== appended)
    throw new AppError('invalid', `chunk-count: ${claim.chunkCount}, but ${appended} were appended`);
}

/** The count alone would let one chunk appended twice hide another that never came. */
function checkNoGap(records: Uint8Array): void {
  const none = new Uint8Array(32);
  for (let at = 0; at < records.length; at += 32) {
    if (isSameBytes(records.subarray(at, at + 32), none)) {
      throw new AppError('invalid', `chunk-count: nothing was appended at ${(at / 32) * fixedChunkBytes}`);
    }
  }
}

function checkCsum(records: Uint8Array, claim: Close, functions: Sha256): Uint8Array {
  const csum = computeIndexCsum(records, functions);
  if (!isSameBytes(csum, claim.csum)) {
    throw new AppError('invalid', `csum: ${formatHex(claim.csum)}, but what was appended has ${formatHex(csum)}`);
  }
  return csum;
}
