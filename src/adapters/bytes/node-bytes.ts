import { createCipheriv, createDecipheriv, createHash, createHmac, hash, pbkdf2Sync, scryptSync } from 'node:crypto';
import { constants, crc32, zstdCompressSync, zstdDecompressSync } from 'node:zlib';
import type { ByteFunctions } from '#core/backup/byte-functions.ts';
import { allocateAligned, loadNativeZstd } from './native-zstd.ts';

const tagBytes = 16;
/** What scrypt needs beside its 128·n·r bytes. */
const scryptSpareBytes = 32 * 1024 * 1024;

/** Measured on programs and documents: 14 % smaller than level 1 for 8 % more time. */
const zstdLevel = 2;
/** Output comes in pieces of this: in one if it may be, without taking what a length alone claims. */
const pieceOf = (bytes: number): number => Math.min(Math.max(bytes, 64), 16 * 1024 * 1024);

/** The functions of the backup formats, by Node's own OpenSSL and Zstandard. Synchronous: long work belongs in a worker. */
export const nodeBytes: ByteFunctions = {
  sha256(...parts) {
    if (parts.length === 1 && parts[0] !== undefined) return hash('sha256', parts[0], 'buffer');
    const sum = createHash('sha256');
    for (const part of parts) sum.update(part);
    return sum.digest();
  },
  crc32: (data) => crc32(data),
  hmacSha256: (key, data) => createHmac('sha256', key).update(data).digest(),
  pbkdf2Sha256: (password, salt, iterations, bytes) => pbkdf2Sync(password, salt, iterations, bytes, 'sha256'),
  scrypt: (password, salt, { n, r, p }, bytes) =>
    scryptSync(password, salt, bytes, { N: n, r, p, maxmem: 128 * n * r + 128 * p * r + scryptSpareBytes }),
  aesGcmEncrypt(key, iv, plain) {
    const cipher = createCipheriv('aes-256-gcm', key, iv, { authTagLength: tagBytes });
    const text = cipher.update(plain);
    cipher.final(); // GCM holds nothing back
    return { tag: cipher.getAuthTag(), cipher: text };
  },
  aesGcmDecrypt(key, iv, tag, cipher) {
    try {
      const decipher = createDecipheriv('aes-256-gcm', key, iv, { authTagLength: tagBytes });
      decipher.setAuthTag(tag);
      const text = decipher.update(cipher);
      decipher.final(); // GCM holds nothing back; this checks the tag
      return text;
    } catch {
      return null; // a wrong tag; the caller says what it was decrypting
    }
  },
  zstdCompress: (data) =>
    zstdCompressSync(data, { chunkSize: pieceOf(data.length), params: { [constants.ZSTD_c_compressionLevel]: zstdLevel } }),
  zstdDecompress(data, maxBytes) {
    try {
      return zstdDecompressSync(data, { chunkSize: pieceOf(maxBytes), maxOutputLength: Math.max(1, maxBytes) });
    } catch {
      return null; // damaged or too long; the caller says of what
    }
  },
};

/**
 * The same for a worker that handles one chunk after the other, with Node's zstd called directly. With `isShortLived` what
 * `zstdDecompress` returns is good until it is called again: fresh memory for every chunk costs more than half of the decompression.
 */
export function createWorkerBytes(isShortLived: boolean): ByteFunctions {
  const zstd = loadNativeZstd();
  if (zstd === null) return nodeBytes;
  let kept: Uint8Array = new Uint8Array();
  const roomOf = (bytes: number): Uint8Array => {
    if (!isShortLived) return Buffer.allocUnsafeSlow(bytes);
    if (kept.length < bytes) kept = allocateAligned(bytes);
    return kept.subarray(0, bytes);
  };
  return {
    ...nodeBytes,
    zstdCompress: (data) => zstd.compress(data, zstdLevel),
    zstdDecompress(data, maxBytes) {
      const room = roomOf(Math.max(1, maxBytes));
      const bytes = zstd.decompressInto(room, data);
      if (bytes < 0) return null;
      return bytes === room.length ? room : room.subarray(0, bytes);
    },
  };
}
