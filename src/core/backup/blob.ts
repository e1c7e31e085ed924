import { AppError } from '#base/error.ts';
import type { ByteFunctions } from './byte-functions.ts';
import { formatHex, joinBytes, parseHex, viewOf } from './bytes.ts';
import type { CryptKey } from './crypt-key.ts';

/**
 * The envelope of every chunk and every .blob file.
 *
 *     plain, zstd                 magic 8 │ CRC-32 of the rest 4 │ payload
 *     encrypted, zstd-encrypted   magic 8 │ CRC-32 of the cipher text 4 │ IV 16 │ tag 16 │ cipher text
 */
export type BlobKind = 'plain' | 'zstd' | 'encrypted' | 'zstd-encrypted';

/** Chunks of one class are never taken for those of the other. */
export type CryptClass = 'plain' | 'encrypted';

const magics: Record<BlobKind, Uint8Array> = {
  plain: parseHex('42ab3807be8370a1', 8, 'magic'),
  zstd: parseHex('31b958426fb6a37f', 8, 'magic'),
  encrypted: parseHex('7b6785be222d4cf0', 8, 'magic'),
  'zstd-encrypted': parseHex('e6591bbf0bbfd80b', 8, 'magic'),
};
const kindOfMagic = new Map((Object.keys(magics) as BlobKind[]).map((kind) => [formatHex(magics[kind]), kind]));

const plainHeaderBytes = 12;
const encryptedHeaderBytes = 44;
const ivBytes = 16;

/** Sizes that the formats and the wire know. */
export const blobLimits = {
  /** Payload of a chunk, at most; also of a blob sent over the wire. */
  chunkBytes: 16 * 1024 * 1024,
  /** The envelope adds at most this. */
  headerBytes: encryptedHeaderBytes,
  /** Payload of a blob read as a whole from disk. */
  wholeBytes: 128 * 1024 * 1024,
  /** A chunk is never empty. */
  leastChunkBytes: plainHeaderBytes + 1,
} as const;

export type BlobHeader = { kind: BlobKind; cryptClass: CryptClass; isCompressed: boolean; crc: number; headerBytes: number };

/** Reads and checks the envelope alone. Raises AppError invalid, naming `what`. */
export function parseBlobHeader(encoded: Uint8Array, what: string): BlobHeader {
  if (encoded.length < plainHeaderBytes) {
    throw new AppError('invalid', `${what}: ${encoded.length} bytes are too few for a blob of at least ${plainHeaderBytes}`);
  }
  const kind = kindOfMagic.get(formatHex(encoded.subarray(0, 8)));
  if (kind === undefined) {
    throw new AppError('invalid', `${what}: no blob begins with ${formatHex(encoded.subarray(0, 8))}`);
  }
  const cryptClass = kind === 'encrypted' || kind === 'zstd-encrypted' ? 'encrypted' : 'plain';
  const headerBytes = cryptClass === 'encrypted' ? encryptedHeaderBytes : plainHeaderBytes;
  if (encoded.length < headerBytes) {
    throw new AppError(
      'invalid',
      `${what}: ${encoded.length} bytes are too few for an encrypted blob of at least ${headerBytes}`,
    );
  }
  const isCompressed = kind === 'zstd' || kind === 'zstd-encrypted';
  return { kind, cryptClass, isCompressed, crc: viewOf(encoded).getUint32(8, true), headerBytes };
}

/** The kind that the first 8 bytes of a stored chunk tell; null when they are none of the four. */
export function kindOfHead(head: Uint8Array): BlobKind | null {
  return kindOfMagic.get(formatHex(head.subarray(0, 8))) ?? null;
}

/** Checks the envelope and its CRC. Raises AppError invalid, naming `what`. */
export function checkBlob(encoded: Uint8Array, what: string, functions: Pick<ByteFunctions, 'crc32'>): BlobHeader {
  const header = parseBlobHeader(encoded, what);
  const found = functions.crc32(encoded.subarray(header.headerBytes));
  if (found !== header.crc) {
    throw new AppError('invalid', `${what}: its CRC is ${hex32(found)} but its header says ${hex32(header.crc)}: it is damaged`);
  }
  return header;
}

/** Writes the CRC of what is there into the header, in place: some clients leave it unset in chunks. */
export function sealBlobCrc(encoded: Uint8Array, what: string, functions: Pick<ByteFunctions, 'crc32'>): BlobHeader {
  const header = parseBlobHeader(encoded, what);
  const crc = functions.crc32(encoded.subarray(header.headerBytes));
  viewOf(encoded).setUint32(8, crc, true);
  return { ...header, crc };
}

/**
 * Puts `data` into its envelope: compressed if that makes it shorter, then encrypted if `crypt` is given. Each IV must be 16 fresh
 * random bytes: with one key, an IV used twice gives both texts away.
 */
export function encodeBlob(
  data: Uint8Array,
  options: { compress: boolean; crypt: { key: CryptKey; iv: Uint8Array } | null },
  functions: Pick<ByteFunctions, 'crc32' | 'aesGcmEncrypt' | 'zstdCompress'>,
): Uint8Array {
  const packed = options.compress ? functions.zstdCompress(data) : data;
  const isCompressed = packed.length < data.length;
  const payload = isCompressed ? packed : data;
  if (options.crypt === null) return seal(isCompressed ? 'zstd' : 'plain', [], payload, functions);
  const { key, iv } = options.crypt;
  if (iv.length !== ivBytes) throw new AppError('invalid', `iv: ${iv.length} bytes instead of ${ivBytes}`);
  const { tag, cipher } = functions.aesGcmEncrypt(key.encKey, iv, payload);
  return seal(isCompressed ? 'zstd-encrypted' : 'encrypted', [iv, tag], cipher, functions);
}

/**
 * Takes the data out of its envelope after checking the CRC. Raises AppError invalid when it is damaged or longer than `maxBytes`,
 * denied when it is encrypted and `key` is null or another one.
 */
export function decodeBlob(
  encoded: Uint8Array,
  options: { key: CryptKey | null; maxBytes: number; what: string },
  functions: Pick<ByteFunctions, 'crc32' | 'aesGcmDecrypt' | 'zstdDecompress'>,
): Uint8Array {
  const { what, maxBytes } = options;
  const header = checkBlob(encoded, what, functions);
  const payload = header.cryptClass === 'plain' ? encoded.subarray(header.headerBytes) : decrypt(encoded, options, functions);
  if (!header.isCompressed) {
    if (payload.length > maxBytes)
      throw new AppError('invalid', `${what}: holds ${payload.length} bytes, at most ${maxBytes} may be`);
    return payload;
  }
  const data = functions.zstdDecompress(payload, maxBytes);
  if (data === null) {
    throw new AppError('invalid', `${what}: its compressed content is damaged or longer than ${maxBytes} bytes`);
  }
  return data;
}

function decrypt(
  encoded: Uint8Array,
  { key, what }: { key: CryptKey | null; what: string },
  functions: Pick<ByteFunctions, 'aesGcmDecrypt'>,
): Uint8Array {
  if (key === null) throw new AppError('denied', `${what}: it is encrypted and no key was given`);
  const iv = encoded.subarray(12, 28);
  const plain = functions.aesGcmDecrypt(key.encKey, iv, encoded.subarray(28, 44), encoded.subarray(encryptedHeaderBytes));
  if (plain === null) {
    throw new AppError(
      'denied',
      `${what}: it cannot be decrypted with this key: the key is another one, or the content was changed`,
    );
  }
  return plain;
}

function seal(
  kind: BlobKind,
  between: readonly Uint8Array[],
  payload: Uint8Array,
  functions: Pick<ByteFunctions, 'crc32'>,
): Uint8Array {
  const encoded = joinBytes([magics[kind], new Uint8Array(4), ...between, payload]);
  viewOf(encoded).setUint32(8, functions.crc32(payload), true);
  return encoded;
}

function hex32(value: number): string {
  return value.toString(16).padStart(8, '0');
}
