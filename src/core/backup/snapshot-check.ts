import { AppError } from '#base/error.ts';
import { decodeBlob, parseBlobHeader } from './blob.ts';
import type { ByteFunctions } from './byte-functions.ts';
import { formatHex, isSameBytes, quote } from './bytes.ts';
import { computeIndexCsum, parseIndex, type ChunkIndex } from './chunk-index.ts';
import { chunkDigest, formatShortFingerprint, parseFingerprint, type CryptKey } from './crypt-key.ts';
import { checkSignature, type CryptMode, type Manifest, type ManifestEntry } from './manifest.ts';
import { parseArchiveName, sealedKeyFile } from './names.ts';

/**
 * What a client believes of what a server gives it: only what fits the manifest, and of that one, when it was signed, only what the key
 * signed.
 */

/** Checks the manifest with the key at hand. Raises AppError denied, before anything else is read, when the key is not the right one. */
export function checkManifestKey(
  manifest: Manifest,
  key: CryptKey | null,
  functions: Pick<ByteFunctions, 'hmacSha256'>,
): 'signed' | 'unsigned' | 'unchecked' {
  const named = manifest.unprotected['key-fingerprint'];
  const short = typeof named === 'string' ? named.slice(0, 23) : '';
  if (key === null) {
    if (!manifest.files.some(({ cryptMode }) => cryptMode === 'encrypt')) return 'unchecked';
    const which = short === '' ? '' : ` with the key ${short}`;
    throw new AppError('denied', `the snapshot is encrypted${which} and no key was given; give it with --keyfile`);
  }
  if (named !== undefined && !isSameBytes(parseFingerprint(named, 'manifest: key-fingerprint'), key.fingerprint)) {
    throw new AppError(
      'denied',
      `wrong key: the snapshot was made with the key ${quote(short)}, the one given is ${quote(formatShortFingerprint(key.fingerprint))}; nothing was written`,
    );
  }
  return checkSignature(manifest, key, functions);
}

/** Finds a file in the manifest. Raises AppError missing. */
export function findEntry(manifest: Manifest, name: string): ManifestEntry {
  const entry = manifest.files.find((file) => file.name === name);
  if (entry === undefined) throw new AppError('missing', `${name}: the manifest does not list it`);
  return entry;
}

/** Reads an index and compares it with the manifest. Raises AppError invalid. */
export function checkIndex(entry: ManifestEntry, file: Uint8Array, functions: Pick<ByteFunctions, 'sha256'>): ChunkIndex {
  const { kind } = parseArchiveName(entry.name);
  if (kind === 'blob') throw new AppError('invalid', `${entry.name}: it is no index`);
  const index = parseIndex(kind, file, entry.name);
  const fits = index.sizeBytes === entry.sizeBytes && isSameBytes(computeIndexCsum(index.records, functions), entry.csum);
  if (!fits) throw new AppError('invalid', `${entry.name}: it is not the index that the manifest describes: it was changed`);
  return index;
}

/** Takes a blob out of its envelope after comparing it with the manifest. Raises AppError invalid or denied. */
export function openBlob(
  entry: ManifestEntry,
  encoded: Uint8Array,
  key: CryptKey | null,
  maxBytes: number,
  functions: ByteFunctions,
): Uint8Array {
  if (encoded.length !== entry.sizeBytes || !isSameBytes(functions.sha256(encoded), entry.csum)) {
    throw new AppError('invalid', `${entry.name}: it is not the blob that the manifest describes: it was changed`);
  }
  checkClass(encoded, entry.name === sealedKeyFile ? 'none' : entry.cryptMode, entry.name);
  return decodeBlob(encoded, { key, maxBytes, what: entry.name }, functions);
}

/** Takes a chunk out of its envelope and checks length and digest. Raises AppError invalid or denied. */
export function openChunk(
  encoded: Uint8Array,
  expected: { digest: Uint8Array; sizeBytes: number; cryptMode: CryptMode; name: string },
  key: CryptKey | null,
  functions: ByteFunctions,
): Uint8Array {
  const { digest, sizeBytes, cryptMode, name } = expected;
  const what = `${name}: chunk ${formatHex(digest)}`;
  const used = cryptMode === 'encrypt' ? key : null;
  checkClass(encoded, cryptMode, what);
  const data = decodeBlob(encoded, { key: used, maxBytes: sizeBytes, what }, functions);
  if (data.length !== sizeBytes) throw new AppError('invalid', `${what}: it has ${data.length} bytes instead of ${sizeBytes}`);
  if (!isSameBytes(chunkDigest(data, used, functions), digest)) {
    throw new AppError('invalid', `${what}: its content is another one: it was changed or is damaged`);
  }
  return data;
}

function checkClass(encoded: Uint8Array, mode: CryptMode, what: string): void {
  const expected = mode === 'encrypt' ? 'encrypted' : 'plain';
  const { cryptClass } = parseBlobHeader(encoded, what);
  if (cryptClass !== expected) throw new AppError('invalid', `${what}: it is ${cryptClass}, but the manifest says ${mode}`);
}
