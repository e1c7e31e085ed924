import { blobLimits, decodeBlob } from '#core/backup/blob.ts';
import type { ByteFunctions } from '#core/backup/byte-functions.ts';
import { formatHex, isSameBytes } from '#core/backup/bytes.ts';
import { digestAt, spanAt, type ChunkIndex } from '#core/backup/chunk-index.ts';
import { chunkDigest, type CryptKey } from '#core/backup/crypt-key.ts';
import { fixedChunkBytes } from '#core/backup/index-writer.ts';
import { parseManifest, type Manifest, type ManifestEntry } from '#core/backup/manifest.ts';
import { manifestFile } from '#core/backup/names.ts';
import { checkIndex, checkManifestKey, findEntry, openBlob, openChunk } from '#core/backup/snapshot-check.ts';
import { clientLimits } from './limits.ts';
import type { WireSession } from './wire-session.ts';

/** A piece of an archive; `isZero`: nothing but zeros, known without looking. */
export type Piece = { start: number; data: Uint8Array; isZero: boolean };

/** A snapshot as the server gives it, believed only as far as it fits its manifest. */
export type SnapshotSource = {
  manifest: Manifest;
  /** What the key says of the manifest. */
  trust: 'signed' | 'unsigned' | 'unchecked';
  readBlob(name: string): Promise<Uint8Array>;
  openIndex(name: string): Promise<ChunkIndex>;
  /** The archive in order, with many fetches under way. */
  readArchive(name: string, index: ChunkIndex): AsyncGenerator<Piece>;
};

/** Reads the manifest and checks the key against it. Raises AppError denied for a wrong or missing key. */
export async function openSnapshot(
  session: WireSession,
  key: CryptKey | null,
  functions: ByteFunctions,
): Promise<SnapshotSource> {
  const encoded = await session.fetch({ method: 'GET', path: 'download', query: { 'file-name': manifestFile } });
  const options = { key: null, maxBytes: blobLimits.wholeBytes, what: manifestFile };
  const manifest = parseManifest(decodeBlob(encoded, options, functions));
  const trust = checkManifestKey(manifest, key, functions);
  const download = (name: string): Promise<Buffer> =>
    session.fetch({ method: 'GET', path: 'download', query: { 'file-name': name } });
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
    readArchive: (name, index) => readPieces(session, findEntry(manifest, name), index, key, functions),
  };
}

async function* readPieces(
  session: WireSession,
  entry: ManifestEntry,
  index: ChunkIndex,
  key: CryptKey | null,
  functions: ByteFunctions,
): AsyncGenerator<Piece> {
  // Images are full of holes; what is known to be zeros is not fetched.
  const zeros = new Uint8Array(index.kind === 'fixed' ? index.chunkBytes : fixedChunkBytes);
  const zeroDigest = chunkDigest(zeros, entry.cryptMode === 'encrypt' ? key : null, functions);
  const fetchPiece = async (at: number): Promise<Piece> => {
    const digest = digestAt(index, at);
    const { start, end } = spanAt(index, at);
    const sizeBytes = end - start;
    if (sizeBytes === zeros.length && isSameBytes(digest, zeroDigest)) return { start, data: zeros, isZero: true };
    const encoded = await session.fetch({ method: 'GET', path: 'chunk', query: { digest: formatHex(digest) } });
    const expected = { digest, sizeBytes, cryptMode: entry.cryptMode, name: entry.name };
    return { start, data: openChunk(encoded, expected, key, functions), isZero: false };
  };
  const underWay: Promise<Piece>[] = [];
  let next = 0;
  while (next < index.count || underWay.length > 0) {
    while (next < index.count && underWay.length < clientLimits.inFlight) {
      const job = fetchPiece(next);
      job.catch(() => {}); // it is raised when its turn comes
      underWay.push(job);
      next += 1;
    }
    yield await underWay.shift()!;
  }
}
