import { AppError } from '#base/error.ts';
import type { ByteFunctions } from './byte-functions.ts';
import { encodeU64, formatHex, isSameBytes, joinBytes, parseHex, readI64, readU64, viewOf } from './bytes.ts';

/**
 * The two kinds of index: which chunks, in order, make an archive.
 *
 *     0 magic 8 │ 8 uuid 16 │ 24 ctime i64 │ 32 csum 32 │ fixed: 64 size u64, 72 chunk size u64 │ zeros to 4096 │ records
 *     fixed record: digest 32                          dynamic record: END offset u64, digest 32
 */
export type IndexKind = 'fixed' | 'dynamic';

/** `records`: as in the file. `csum`: what the header says; trust only `computeIndexCsum`. */
export type ChunkIndex = {
  kind: IndexKind;
  uuid: Uint8Array;
  ctimeSeconds: number;
  csum: Uint8Array;
  sizeBytes: number;
  /** fixed only; of a dynamic index 0. */
  chunkBytes: number;
  count: number;
  records: Uint8Array;
};

export const indexHeaderBytes = 4096;
const digestBytes = 32;
const recordBytes: Record<IndexKind, number> = { fixed: 32, dynamic: 40 };
const magics: Record<IndexKind, Uint8Array> = {
  fixed: parseHex('2f7f41ed91fd0fcd', 8, 'magic'),
  dynamic: parseHex('1c914ea519bab3cd', 8, 'magic'),
};

/** Reads a whole index file. Raises AppError invalid, naming `what`, unless every byte of it makes sense. */
export function parseIndex(kind: IndexKind, file: Uint8Array, what: string): ChunkIndex {
  if (file.length < indexHeaderBytes) {
    throw new AppError('invalid', `${what}: ${file.length} bytes are too few for an index: it is cut off`);
  }
  if (!isSameBytes(file.subarray(0, 8), magics[kind])) {
    throw new AppError('invalid', `${what}: no ${kind} index begins with ${formatHex(file.subarray(0, 8))}`);
  }
  const view = viewOf(file);
  const records = file.subarray(indexHeaderBytes);
  if (records.length % recordBytes[kind] !== 0) {
    throw new AppError(
      'invalid',
      `${what}: ${records.length} bytes of records are no multiple of ${recordBytes[kind]}: it is cut off`,
    );
  }
  const common = {
    uuid: file.subarray(8, 24),
    ctimeSeconds: readI64(view, 24, `${what}: ctime`),
    csum: file.subarray(32, 64),
    count: records.length / recordBytes[kind],
    records,
  };
  if (kind === 'dynamic') return { kind, ...common, chunkBytes: 0, sizeBytes: checkEnds(records, what) };
  const sizeBytes = readU64(view, 64, `${what}: size`);
  const chunkBytes = readU64(view, 72, `${what}: chunk size`);
  checkFixedSize(common.count, sizeBytes, chunkBytes, what);
  return { kind, ...common, sizeBytes, chunkBytes };
}

/** The first 4096 bytes of an index. */
export function encodeIndexHeader(index: Omit<ChunkIndex, 'records' | 'count'>): Uint8Array {
  const header = new Uint8Array(indexHeaderBytes);
  const view = viewOf(header);
  header.set(magics[index.kind]);
  header.set(index.uuid.subarray(0, 16), 8);
  view.setBigInt64(24, BigInt(index.ctimeSeconds), true);
  header.set(index.csum, 32);
  if (index.kind === 'fixed') {
    view.setBigUint64(64, BigInt(index.sizeBytes), true);
    view.setBigUint64(72, BigInt(index.chunkBytes), true);
  }
  return header;
}

/** One record of a dynamic index. */
export function encodeDynamicRecord(end: number, digest: Uint8Array): Uint8Array {
  return joinBytes([encodeU64(end), digest]);
}

/** The checksum that a manifest holds: over all digests, or over all records of a dynamic index. */
export function computeIndexCsum(records: Uint8Array, functions: Pick<ByteFunctions, 'sha256'>): Uint8Array {
  return functions.sha256(records);
}

/** The digest of chunk `at`, as a view on the index. */
export function digestAt(index: ChunkIndex, at: number): Uint8Array {
  const start = at * recordBytes[index.kind] + (index.kind === 'dynamic' ? 8 : 0);
  return index.records.subarray(start, start + digestBytes);
}

/** Where chunk `at` begins and ends in the archive. */
export function spanAt(index: ChunkIndex, at: number): { start: number; end: number } {
  if (index.kind === 'fixed') {
    const start = at * index.chunkBytes;
    return { start, end: Math.min(start + index.chunkBytes, index.sizeBytes) };
  }
  const view = viewOf(index.records);
  return { start: at === 0 ? 0 : readU64(view, (at - 1) * 40, 'end'), end: readU64(view, at * 40, 'end') };
}

/** The number of the chunk that holds byte `offset`; -1 outside the archive. */
export function findChunk(index: ChunkIndex, offset: number): number {
  if (offset < 0 || offset >= index.sizeBytes) return -1;
  if (index.kind === 'fixed') return Math.floor(offset / index.chunkBytes);
  let low = 0;
  let high = index.count - 1;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (spanAt(index, middle).end > offset) high = middle;
    else low = middle + 1;
  }
  return low;
}

/**
 * The digests in what is left of an index file, however damaged: for garbage collection, which must rather keep too much. Records
 * are taken where the kind says they lie; nothing is checked.
 */
export function salvageDigests(kind: IndexKind, file: Uint8Array): Uint8Array[] {
  const found: Uint8Array[] = [];
  const shift = kind === 'dynamic' ? 8 : 0;
  for (let at = indexHeaderBytes + shift; at + digestBytes <= file.length; at += recordBytes[kind]) {
    found.push(file.subarray(at, at + digestBytes));
  }
  return found;
}

function checkEnds(records: Uint8Array, what: string): number {
  const view = viewOf(records);
  let end = 0;
  for (let at = 0; at < records.length; at += recordBytes.dynamic) {
    const next = readU64(view, at, `${what}: end of chunk ${at / recordBytes.dynamic}`);
    if (next <= end) {
      throw new AppError('invalid', `${what}: chunk ${at / recordBytes.dynamic} ends at ${next}, not after its start ${end}`);
    }
    end = next;
  }
  return end;
}

function checkFixedSize(count: number, sizeBytes: number, chunkBytes: number, what: string): void {
  if (sizeBytes < 1) throw new AppError('invalid', `${what}: an image of size 0`);
  if (chunkBytes < 1 || !Number.isInteger(Math.log2(chunkBytes))) {
    throw new AppError('invalid', `${what}: chunk size ${chunkBytes} is not a power of two`);
  }
  const expected = Math.ceil(sizeBytes / chunkBytes);
  if (count !== expected) {
    throw new AppError('invalid', `${what}: ${count} chunks of ${chunkBytes} do not make ${sizeBytes} bytes (${expected} would)`);
  }
}
