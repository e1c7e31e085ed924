import { AppError } from '#base/error.ts';
import type { ByteFunctions } from './byte-functions.ts';
import { encodeText, formatHex, parseHex } from './bytes.ts';

/** What a data key gives: the cipher's key, the key that ties digests and signatures to it, and the name people compare. */
export type CryptKey = { encKey: Uint8Array; idKey: Uint8Array; fingerprint: Uint8Array };

const keyBytes = 32;
const idKeyIterations = 10;

/** Derives everything from the 32 bytes of a data key. Raises AppError invalid for another length. */
export function deriveCryptKey(encKey: Uint8Array, functions: Pick<ByteFunctions, 'sha256' | 'pbkdf2Sha256'>): CryptKey {
  if (encKey.length !== keyBytes) throw new AppError('invalid', `key: ${encKey.length} bytes instead of ${keyBytes}`);
  const idKey = functions.pbkdf2Sha256(encKey, encodeText('_id_key'), idKeyIterations, keyBytes);
  const prefix = functions.sha256(encodeText('Proxmox Backup Encryption Key Fingerprint'));
  return { encKey, idKey, fingerprint: functions.sha256(prefix, idKey) };
}

/** The digest under which a chunk is stored; with a key it cannot be guessed from the content. */
export function chunkDigest(data: Uint8Array, key: CryptKey | null, functions: Pick<ByteFunctions, 'sha256'>): Uint8Array {
  return key === null ? functions.sha256(data) : functions.sha256(data, key.idKey);
}

/** The fingerprint as people see it: 32 pairs of hex digits with colons between. */
export function formatFingerprint(fingerprint: Uint8Array): string {
  return formatHex(fingerprint).match(/../g)?.join(':') ?? '';
}

/** The first 8 pairs, for tables. */
export function formatShortFingerprint(fingerprint: Uint8Array): string {
  return formatFingerprint(fingerprint.subarray(0, 8));
}

/** Reads the form with colons. Raises AppError invalid, naming `field`. */
export function parseFingerprint(text: unknown, field: string): Uint8Array {
  return parseHex(typeof text === 'string' ? text.replaceAll(':', '') : text, keyBytes, field);
}
