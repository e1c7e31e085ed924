import { blobLimits, decodeBlob } from '#core/backup/blob.ts';
import type { ByteFunctions } from '#core/backup/byte-functions.ts';
import { createByteRooms } from '#core/backup/byte-rooms.ts';
import { formatHex, isSameBytes } from '#core/backup/bytes.ts';
import { digestAt, spanAt, type ChunkIndex } from '#core/backup/chunk-index.ts';
import { chunkDigest, type CryptKey } from '#core/backup/crypt-key.ts';
import { fixedChunkBytes } from '#core/backup/index-writer.ts';
import { parseManifest, type Manifest, type ManifestEntry } from '#core/backup/manifest.ts';
import { manifestFile } from '#core/backup/names.ts';
import { checkIndex, checkManifestKey, findEntry, openBlob } from '#core/backup/snapshot-check.ts';
import type { TargetFile } from './chunk-jobs.ts';
import type { ChunkPool } from './chunk-pool.ts';
import { clientLimits } from './limits.ts';
import type { WireSession } from './wire-session.ts';

/** A piece of an archive; `isZero`: nothing but zeros, known without looking. */
export type Piece = { start: number; data: Uint8Array; isZero: boolean };
/** Where a piece lies, and how to have it. */
type PieceRef = {
  start: number;
  sizeBytes: number;
  isZero: boolean;
  digest: Uint8Array;
  fetch(): Promise<Uint8Array>;
  /** Fetches it and writes it to its place. */
  fetchInto(target: TargetFile): Promise<void>;
};

/** A snapshot as the server gives it, believed only as far as it fits its manifest. */
export type SnapshotSource = {
  manifest: Manifest;
  /** What the key says of the manifest. */
  trust: 'signed' | 'unsigned' | 'unchecked';
  readBlob(name: string): Promise<Uint8Array>;
  openIndex(name: string): Promise<ChunkIndex>;
  /** The archive in order, with many fetches under way. */
  readArchive(name: string, index: ChunkIndex): AsyncGenerator<Piece>;
  /** The pieces of an archive, to be fetched as one likes. */
  pieces(name: string, index: ChunkIndex): { count: number; at(number: number): PieceRef };
};

/** Reads the manifest and checks the key against it. Raises AppError denied for a wrong or missing key. */
export async function openSnapshot(
  session: WireSession,
  key: CryptKey | null,
  pool: ChunkPool,
  functions: ByteFunctions,
): Promise<SnapshotSource> {
  const encoded = await session.fetch({ method: 'GET', path: 'download', query: { 'file-name': manifestFile } });
  const options = { key: null, maxBytes: blobLimits.wholeBytes, what: manifestFile };
  const manifest = parseManifest(decodeBlob(encoded, options, functions));
  const trust = checkManifestKey(manifest, key, functions);
  const download = (name: string): Promise<Buffer> =>
    session.fetch({ method: 'GET', path: 'download', query: { 'file-name': name } });
  const pieces = (name: string, index: ChunkIndex): { count: number; at(number: number): PieceRef } =>
    refer({ session, pool }, findEntry(manifest, name), index, key, functions);
  return {
    manifest,
    trust,
    async readBlob(name) {
      const entry = findEntry(manifest, name);
      return openBlob(entry, await download(name), entry.cryptMode === 'encrypt' ? key : null, blobLimits.wholeBytes, functions);
    },
    async openIndex(name) {
      const entry = findEntry(manifest, name);
      return checkIndex(entry, await download(name), functions);
    },
    readArchive: (name, index) => readInOrder(pieces(name, index), restoreWidth(pool)),
    pieces,
  };
}

/** Pieces under way at once: enough fetches, and something in the hands of every worker. */
export function restoreWidth(pool: Pick<ChunkPool, 'width'>): number {
  return clientLimits.inFlight + pool.width * 2;
}

function refer(
  { session, pool }: { session: WireSession; pool: ChunkPool },
  entry: ManifestEntry,
  index: ChunkIndex,
  key: CryptKey | null,
  functions: ByteFunctions,
): { count: number; at(number: number): PieceRef } {
  // Images are full of holes; what is known to be zeros is not fetched.
  const zeroBytes = index.kind === 'fixed' ? index.chunkBytes : fixedChunkBytes;
  const rooms = createByteRooms();
  const zeroDigest = chunkDigest(new Uint8Array(zeroBytes), entry.cryptMode === 'encrypt' ? key : null, functions);
  return {
    count: index.count,
    at(number) {
      const digest = digestAt(index, number);
      const { start, end } = spanAt(index, number);
      const sizeBytes = end - start;
      const expected = { digest: Uint8Array.from(digest), sizeBytes, cryptMode: entry.cryptMode, name: entry.name };
      const ask = async <Result>(open: (encoded: Uint8Array) => Promise<Result>): Promise<Result> => {
        const encoded = await session.fetch({ method: 'GET', path: 'chunk', query: { digest: formatHex(digest) }, rooms });
        return open(encoded).finally(() => rooms.give(encoded));
      };
      return {
        start,
        sizeBytes,
        digest: expected.digest,
        isZero: sizeBytes === zeroBytes && isSameBytes(digest, zeroDigest),
        fetch: () => ask((encoded) => pool.open(encoded, expected)),
        fetchInto: (target) => ask((encoded) => pool.openInto(encoded, expected, { ...target, at: start })),
      };
    },
  };
}

async function* readInOrder(pieces: { count: number; at(number: number): PieceRef }, width: number): AsyncGenerator<Piece> {
  const underWay: Promise<Piece>[] = [];
  let next = 0;
  while (next < pieces.count || underWay.length > 0) {
    while (next < pieces.count && underWay.length < width) {
      const job = readPiece(pieces.at(next));
      job.catch(() => {}); // it is raised when its turn comes
      underWay.push(job);
      next += 1;
    }
    yield await underWay.shift()!;
  }
}

async function readPiece(piece: PieceRef): Promise<Piece> {
  const { start, sizeBytes, isZero } = piece;
  return { start, data: isZero ? new Uint8Array(sizeBytes) : await piece.fetch(), isZero };
}
