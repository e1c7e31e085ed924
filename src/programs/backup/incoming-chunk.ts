import { createHash } from 'node:crypto';
import { crc32 } from 'node:zlib';
import { AppError } from '#base/error.ts';
import { sealBlobCrc } from '#core/backup/blob.ts';
import { formatHex, isSameBytes } from '#core/backup/bytes.ts';
import type { CheckedChunk } from '#ports/datastore.ts';
import { unpackChunk } from './stored-chunk.ts';

/**
 * Checks a chunk that a client sent: a plain one is decoded and has to have the size and digest it is said to have. Its CRC is written
 * anew, as clients may leave it unset. Raises AppError invalid.
 */
export async function checkIncoming(
  claim: { digest: Uint8Array; sizeBytes: number; encodedBytes: number },
  encoded: Uint8Array,
): Promise<CheckedChunk> {
  const { digest, sizeBytes } = claim;
  const what = `chunk ${formatHex(digest)}`;
  if (encoded.length !== claim.encodedBytes) {
    throw new AppError('invalid', `encoded-size: ${what} came with ${encoded.length} bytes instead of ${claim.encodedBytes}`);
  }
  const header = sealBlobCrc(encoded, what, { crc32 });
  if (header.cryptClass === 'plain') {
    const data = await unpackChunk(encoded, header, what);
    if (data.length !== sizeBytes) throw new AppError('invalid', `size: ${what} holds ${data.length} bytes, not ${sizeBytes}`);
    const found = createHash('sha256').update(data).digest();
    if (!isSameBytes(found, digest))
      throw new AppError('invalid', `digest: ${what} holds data with the digest ${formatHex(found)}`);
  }
  return { digest, sizeBytes, encoded, header };
}
