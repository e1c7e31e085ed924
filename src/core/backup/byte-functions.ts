/** Cost of one scrypt derivation. */
export type ScryptCost = { n: number; r: number; p: number };

/**
 * The hashes, ciphers and compression that the formats need, handed in by whoever has them: core itself computes no cipher.
 * None of them throws for bad data: what cannot be undone is null.
 */
export type ByteFunctions = {
  sha256(...parts: Uint8Array[]): Uint8Array;
  /** CRC-32 IEEE. */
  crc32(data: Uint8Array): number;
  hmacSha256(key: Uint8Array, data: Uint8Array): Uint8Array;
  pbkdf2Sha256(password: Uint8Array, salt: Uint8Array, iterations: number, bytes: number): Uint8Array;
  scrypt(password: Uint8Array, salt: Uint8Array, cost: ScryptCost, bytes: number): Uint8Array;
  /** AES-256-GCM with a 16-byte IV, a 16-byte tag and no associated data. */
  aesGcmEncrypt(key: Uint8Array, iv: Uint8Array, plain: Uint8Array): { tag: Uint8Array; cipher: Uint8Array };
  /** null: the tag does not fit. */
  aesGcmDecrypt(key: Uint8Array, iv: Uint8Array, tag: Uint8Array, cipher: Uint8Array): Uint8Array | null;
  /** Zstandard, a fast level. */
  zstdCompress(data: Uint8Array): Uint8Array;
  /** null: not Zstandard, damaged, or longer than `maxBytes`. */
  zstdDecompress(data: Uint8Array, maxBytes: number): Uint8Array | null;
};
