import { AppError } from '#base/error.ts';
import type { ByteFunctions, ScryptCost } from './byte-functions.ts';
import { decodeText, encodeText, isSameBytes, joinBytes, quote } from './bytes.ts';
import { deriveCryptKey, formatFingerprint, parseFingerprint, type CryptKey } from './crypt-key.ts';

/** How a passphrase becomes the key that wraps the data key; null: the data key lies in the file as it is. */
export type KeyDerivation =
  | null
  | ({ kind: 'scrypt'; salt: Uint8Array } & ScryptCost)
  | { kind: 'pbkdf2'; iterations: number; salt: Uint8Array };

/** A key file. `data`: the data key, or IV 16 ‖ tag 16 ‖ wrapped data key. Times as in the file (RFC 3339). */
export type KeyFile = {
  kdf: KeyDerivation;
  created: string;
  modified: string;
  data: Uint8Array;
  fingerprint: Uint8Array | null;
  hint: string | null;
};

/** What new files use, and what an opened one may ask of this machine. */
export const keyLimits = {
  scrypt: { n: 65_536, r: 8, p: 1 },
  pbkdf2Iterations: 65_535,
  saltBytes: 32,
  passphraseBytes: 5,
  fileBytes: 64 * 1024,
  scryptMemoryBytes: 1024 * 1024 * 1024,
  pbkdf2IterationsMost: 10_000_000,
} as const;

/** Reads a key file. Raises AppError invalid, naming the field. */
export function parseKeyFile(bytes: Uint8Array): KeyFile {
  if (bytes.length > keyLimits.fileBytes) {
    throw new AppError('invalid', `key file: ${bytes.length} bytes are more than any key file has`);
  }
  const object = parseObject(decodeText(bytes, 'key file'));
  const fingerprint = object['fingerprint'] ?? null;
  const hint = object['hint'] ?? null;
  if (hint !== null && typeof hint !== 'string') throw new AppError('invalid', `key file: hint: ${quote(hint)} is not text`);
  return {
    kdf: parseDerivation(object['kdf'] ?? null),
    created: parseTime(object['created'], 'created'),
    modified: parseTime(object['modified'], 'modified'),
    data: parseBase64(object['data'], 'data'),
    fingerprint: fingerprint === null ? null : parseFingerprint(fingerprint, 'key file: fingerprint'),
    hint,
  };
}

/** The file's text, as `parseKeyFile` reads it. To be kept with mode 0600. */
export function formatKeyFile(file: KeyFile): string {
  const { fingerprint, hint } = file;
  const object = {
    kdf: formatDerivation(file.kdf),
    created: file.created,
    modified: file.modified,
    data: formatBase64(file.data),
    ...(fingerprint === null ? {} : { fingerprint: formatFingerprint(fingerprint) }),
    ...(hint === null ? {} : { hint }),
  };
  return JSON.stringify(object, null, 2);
}

/**
 * Takes the data key out. Raises AppError unauthenticated when the passphrase is missing or wrong, invalid when the file is damaged
 * or its fingerprint is that of another key.
 */
export function openKeyFile(file: KeyFile, passphrase: string | null, functions: ByteFunctions): CryptKey {
  const key = deriveCryptKey(unwrap(file, passphrase, functions), functions);
  if (file.fingerprint !== null && !isSameBytes(file.fingerprint, key.fingerprint)) {
    throw new AppError(
      'invalid',
      'key file: its fingerprint is not that of the key in it: the file is damaged or was put together',
    );
  }
  return key;
}

/**
 * Makes the file for a data key. `protection` null: no passphrase. Salt and IV must be fresh random bytes. Raises AppError invalid for a
 * passphrase that is no protection.
 */
export function makeKeyFile(
  key: CryptKey,
  protection: { passphrase: string; kdf: Exclude<KeyDerivation, null>; iv: Uint8Array } | null,
  about: { created: string; modified: string; hint: string | null },
  functions: ByteFunctions,
): KeyFile {
  const common = { ...about, fingerprint: key.fingerprint };
  if (protection === null) return { ...common, kdf: null, data: key.encKey };
  checkPassphrase(protection.passphrase);
  const { tag, cipher } = functions.aesGcmEncrypt(
    stretch(protection.passphrase, protection.kdf, functions),
    protection.iv,
    key.encKey,
  );
  return { ...common, kdf: protection.kdf, data: joinBytes([protection.iv, tag, cipher]) };
}

function unwrap(file: KeyFile, passphrase: string | null, functions: ByteFunctions): Uint8Array {
  if (file.kdf === null) return file.data;
  if (passphrase === null) throw new AppError('unauthenticated', 'key file: it is protected by a passphrase and none was given');
  if (file.data.length !== 64) {
    throw new AppError('invalid', `key file: data: ${file.data.length} bytes instead of 64 of a wrapped key: it is damaged`);
  }
  const wrapping = stretch(passphrase, file.kdf, functions);
  const plain = functions.aesGcmDecrypt(wrapping, file.data.subarray(0, 16), file.data.subarray(16, 32), file.data.subarray(32));
  if (plain === null) throw new AppError('unauthenticated', 'key file: wrong passphrase');
  return plain;
}

/** The key that a passphrase gives. */
export function stretch(
  passphrase: string,
  kdf: Exclude<KeyDerivation, null>,
  functions: Pick<ByteFunctions, 'scrypt' | 'pbkdf2Sha256'>,
): Uint8Array {
  const password = encodeText(passphrase);
  if (kdf.kind === 'scrypt') return functions.scrypt(password, kdf.salt, { n: kdf.n, r: kdf.r, p: kdf.p }, 32);
  return functions.pbkdf2Sha256(password, kdf.salt, kdf.iterations, 32);
}

/** Refuses passphrases that are no protection. Raises AppError invalid. */
function checkPassphrase(passphrase: string): void {
  if (encodeText(passphrase).length < keyLimits.passphraseBytes) {
    throw new AppError('invalid', `passphrase: at least ${keyLimits.passphraseBytes} bytes are needed`);
  }
}

function parseObject(text: string): Record<string, unknown> {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (cause) {
    throw new AppError('invalid', 'key file: not JSON', { cause });
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw new AppError('invalid', 'key file: not a JSON object');
  }
  return value as Record<string, unknown>;
}

function parseDerivation(value: unknown): KeyDerivation {
  if (value === null) return null;
  const [name, raw] = typeof value === 'object' ? (Object.entries(value as object)[0] ?? []) : [];
  const fields = (typeof raw === 'object' && raw !== null ? raw : {}) as Record<string, unknown>;
  if (name === 'Scrypt') {
    const n = parseCount(fields['n'], 'kdf.n', 2 ** 24);
    const r = parseCount(fields['r'], 'kdf.r', 1024);
    const p = parseCount(fields['p'], 'kdf.p', 64);
    if (n < 2 || (n & (n - 1)) !== 0) throw new AppError('invalid', `key file: kdf.n: ${n} is not a power of two`);
    if (128 * n * r > keyLimits.scryptMemoryBytes) {
      throw new AppError(
        'invalid',
        `key file: kdf: n ${n} with r ${r} would take more memory than ${keyLimits.scryptMemoryBytes} bytes`,
      );
    }
    return { kind: 'scrypt', n, r, p, salt: parseBase64(fields['salt'], 'kdf.salt') };
  }
  if (name === 'PBKDF2') {
    const iterations = parseCount(fields['iter'], 'kdf.iter', keyLimits.pbkdf2IterationsMost);
    return { kind: 'pbkdf2', iterations, salt: parseBase64(fields['salt'], 'kdf.salt') };
  }
  throw new AppError('invalid', `key file: kdf: ${quote(value)} is neither null, Scrypt nor PBKDF2`);
}

function formatDerivation(kdf: KeyDerivation): unknown {
  if (kdf === null) return null;
  const salt = formatBase64(kdf.salt);
  return kdf.kind === 'scrypt' ? { Scrypt: { n: kdf.n, r: kdf.r, p: kdf.p, salt } } : { PBKDF2: { iter: kdf.iterations, salt } };
}

function parseCount(value: unknown, field: string, most: number): number {
  if (typeof value !== 'number' || !Number.isInteger(value) || value < 1 || value > most) {
    throw new AppError('invalid', `key file: ${field}: ${quote(value)} is not a whole number from 1 to ${most}`);
  }
  return value;
}

function parseTime(value: unknown, field: string): string {
  if (typeof value !== 'string' || !/^\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d/.test(value) || Number.isNaN(Date.parse(value))) {
    throw new AppError('invalid', `key file: ${field}: ${quote(value)} is not a time like 2026-01-31T12:00:00+01:00`);
  }
  return value;
}

function parseBase64(value: unknown, field: string): Uint8Array {
  const isText = typeof value === 'string' && value.length % 4 === 0 && /^[A-Za-z0-9+/]*={0,2}$/.test(value);
  if (!isText) throw new AppError('invalid', `key file: ${field}: not base64`);
  try {
    return Uint8Array.from(atob(value), (letter) => letter.charCodeAt(0));
  } catch (cause) {
    throw new AppError('invalid', `key file: ${field}: not base64`, { cause });
  }
}

function formatBase64(bytes: Uint8Array): string {
  return btoa(String.fromCharCode(...bytes));
}
