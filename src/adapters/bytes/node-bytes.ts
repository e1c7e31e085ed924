import { createCipheriv, createDecipheriv, createHash, createHmac, pbkdf2Sync, scryptSync } from 'node:crypto';
import { constants, crc32, zstdCompressSync, zstdDecompressSync } from 'node:zlib';
import type { ByteFunctions } from '#core/backup/byte-functions.ts';

const tagBytes = 16;
/** What scrypt needs beside its 128·n·r bytes. */
const scryptSpareBytes = 32 * 1024 * 1024;

/** The functions of the backup formats, by Node's own OpenSSL and Zstandard. Synchronous: long work belongs in a worker. */
export const nodeBytes: ByteFunctions = {
  sha256(...parts) {
    const hash = createHash('sha256');
    for (const part of parts) hash.update(part);
    return hash.digest();
  },
  crc32: (data) => crc32(data),
  hmacSha256: (key, data) => createHmac('sha256', key).update(data).digest(),
  pbkdf2Sha256: (password, salt, iterations, bytes) => pbkdf2Sync(password, salt, iterations, bytes, 'sha256'),
  scrypt: (password, salt, { n, r, p }, bytes) =>
    scryptSync(password, salt, bytes, { N: n, r, p, maxmem: 128 * n * r + 128 * p * r + scryptSpareBytes }),
  aesGcmEncrypt(key, iv, plain) {
    const cipher = createCipheriv('aes-256-gcm', key, iv, { authTagLength: tagBytes });
    const text = Buffer.concat([cipher.update(plain), cipher.final()]);
    return { tag: cipher.getAuthTag(), cipher: text };
  },
  aesGcmDecrypt(key, iv, tag, cipher) {
    try {
      const decipher = createDecipheriv('aes-256-gcm', key, iv, { authTagLength: tagBytes });
      decipher.setAuthTag(tag);
      return Buffer.concat([decipher.update(cipher), decipher.final()]);
    } catch {
      return null; // a wrong tag; the caller says what it was decrypting
    }
  },
  zstdCompress: (data) => zstdCompressSync(data, { params: { [constants.ZSTD_c_compressionLevel]: 1 } }),
  zstdDecompress(data, maxBytes) {
    try {
      return zstdDecompressSync(data, { maxOutputLength: Math.max(1, maxBytes) });
    } catch {
      return null; // damaged or too long; the caller says of what
    }
  },
};
