import { isAppError } from '#base/error.ts';
import { blobLimits, checkBlob, decodeBlob, type BlobHeader, type BlobKind, type CryptClass } from './blob.ts';
import type { ByteFunctions } from './byte-functions.ts';
import { formatHex, isSameBytes } from './bytes.ts';
import { chunkDigest } from './crypt-key.ts';

/** What a look at a stored chunk says. Of an encrypted one only the CRC can be checked. */
export type ChunkVerdict =
  | { kind: 'right'; cryptClass: CryptClass; sizeBytes: number; encodedBytes: number }
  | { kind: 'bad'; problem: string };

/** Checks a chunk against its digest: envelope and CRC, and of a plain one the content. `sizeBytes` of an encrypted one is 0. */
export function judgeChunk(
  encoded: Uint8Array,
  digest: Uint8Array,
  functions: Pick<ByteFunctions, 'crc32' | 'sha256' | 'aesGcmDecrypt' | 'zstdDecompress'>,
): ChunkVerdict {
  const what = `chunk ${formatHex(digest)}`;
  try {
    const { cryptClass } = checkBlob(encoded, what, functions);
    if (cryptClass === 'encrypted') return { kind: 'right', cryptClass, sizeBytes: 0, encodedBytes: encoded.length };
    const data = decodeBlob(encoded, { key: null, maxBytes: blobLimits.chunkBytes, what }, functions);
    const found = chunkDigest(data, null, functions);
    if (!isSameBytes(found, digest)) return { kind: 'bad', problem: `${what}: its content has the digest ${formatHex(found)}` };
    return { kind: 'right', cryptClass, sizeBytes: data.length, encodedBytes: encoded.length };
  } catch (error) {
    if (!isAppError(error)) throw error;
    return { kind: 'bad', problem: error.message };
  }
}

/** What lies there under a chunk's digest. `kind` null: not the envelope of a chunk. `isTrusted`: we found it right before. */
export type StoredChunk = { sizeBytes: number; kind: BlobKind | null; isTrusted: boolean };

/**
 * - write: nothing usable is there            - duplicate: what is there stays
 * - check: look at what is there, then decide again - replace: what is there is right, but longer
 * - set-aside: what is there is not this chunk; keep it as evidence and write - refuse: the new one cannot be told from a forgery
 */
export type InsertPlan = 'write' | 'duplicate' | 'check' | 'replace' | 'set-aside' | 'refuse';

/**
 * What to do with a chunk that comes for a digest. A chunk of the other class never counts as a duplicate: anybody can send an encrypted
 * envelope under the digest of somebody's plain data, and only the plain one can be proven by its content, so that one stays or wins.
 */
export function planInsert(
  stored: StoredChunk | null,
  header: Pick<BlobHeader, 'kind' | 'cryptClass'>,
  encodedBytes: number,
): InsertPlan {
  if (stored === null || stored.sizeBytes === 0) return 'write';
  if (stored.kind === null) return 'set-aside';
  const storedClass = stored.kind === 'encrypted' || stored.kind === 'zstd-encrypted' ? 'encrypted' : 'plain';
  if (storedClass !== header.cryptClass) {
    if (header.cryptClass === 'plain') return 'set-aside';
    return stored.isTrusted ? 'refuse' : 'check';
  }
  if (!stored.isTrusted) return 'check';
  if (header.cryptClass === 'plain') return encodedBytes < stored.sizeBytes ? 'replace' : 'duplicate';
  const isOtherData = stored.kind === 'encrypted' && header.kind === 'encrypted' && stored.sizeBytes !== encodedBytes;
  return isOtherData ? 'refuse' : 'duplicate';
}
