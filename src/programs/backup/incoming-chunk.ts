import { createHash } from 'node:crypto';
import { crc32 } from 'node:zlib';
import { AppError } from '#base/error.ts';
import { sealBlobCrc, type BlobHeader } from '#core/backup/blob.ts';
import { formatHex, isSameBytes } from '#core/backup/bytes.ts';
import type { CheckedChunk } from '#ports/datastore.ts';
import { unpackChunk } from './stored-chunk.ts';

/** What a client says of a chunk. */
export type ChunkClaim = { digest: Uint8Array; sizeBytes: number };
/** Decodes a plain chunk, which has to have the size and digest it is said to have. Raises AppError invalid. */
export type CheckContent = (claim: ChunkClaim, encoded: Uint8Array, header: BlobHeader) => Promise<void>;

/**
 * Checks a chunk that a client sent: a plain one by its content, an encrypted one by its envelope alone. Its CRC is written anew, as clients
 * may leave it unset. Raises AppError invalid. `encodedBytes`: how long the client said it is.
 */
export async function checkIncoming(
  claim: ChunkClaim & { encodedBytes: number },
  encoded: Uint8Array,
  checkContent: CheckContent = checkContentHere,
): Promise<CheckedChunk> {
  const { digest, sizeBytes } = claim;
  const what = nameOf(claim);
  if (encoded.length !== claim.encodedBytes) {
    throw new AppError('invalid', `encoded-size: ${what} came with ${encoded.length} bytes instead of ${claim.encodedBytes}`);
  }
  const header = sealBlobCrc(encoded, what, { crc32 });
  if (header.cryptClass === 'plain') await checkContent({ digest, sizeBytes }, encoded, header);
  return { digest, sizeBytes, encoded, header };
}

/** In this thread, but for the decompression. */
export async function checkContentHere(claim: ChunkClaim, encoded: Uint8Array, header: BlobHeader): Promise<void> {
  const data = await unpackChunk(encoded, header, { sizeBytes: claim.sizeBytes, what: nameOf(claim) });
  checkData(claim, data, createHash('sha256').update(data).digest());
}

/** Compares what came out of the envelope, and its SHA-256, with the claim. Raises AppError invalid. */
export function checkData(claim: ChunkClaim, data: Uint8Array, found: Uint8Array): void {
  if (data.length !== claim.sizeBytes)
    throw new AppError('invalid', `size: ${nameOf(claim)} holds ${data.length} bytes, not ${claim.sizeBytes}`);
  if (!isSameBytes(found, claim.digest))
    throw new AppError('invalid', `digest: ${nameOf(claim)} holds data with the digest ${formatHex(found)}`);
}

function nameOf({ digest }: ChunkClaim): string {
  return `chunk ${formatHex(digest)}`;
}
