import { AppError } from '#base/error.ts';
import type { ByteFunctions } from './byte-functions.ts';
import { decodeText, encodeText, formatHex, isSameBytes, parseHex, quote } from './bytes.ts';
import { formatCanonicalJson, type JsonObject, type JsonValue } from './canonical-json.ts';
import { formatFingerprint, parseFingerprint, type CryptKey } from './crypt-key.ts';
import { manifestFile, parseArchiveName, parseBackupId, parseBackupTime, parseBackupType, type BackupType } from './names.ts';

export type CryptMode = 'none' | 'encrypt' | 'sign-only';
/** Indexes: logical size and index checksum. Blobs: encoded size and SHA-256 of the encoded file. */
export type ManifestEntry = { name: string; cryptMode: CryptMode; sizeBytes: number; csum: Uint8Array };
export type VerifyState = { state: 'ok' | 'failed'; upid: string };

/** A snapshot's table of contents. `json` is what was read, whole: signatures cover also what we do not know. */
export type Manifest = {
  type: BackupType;
  id: string;
  atSeconds: number;
  files: ManifestEntry[];
  unprotected: JsonObject;
  signature: Uint8Array | null;
  json: JsonObject;
};

const cryptModes: readonly CryptMode[] = ['none', 'encrypt', 'sign-only'];
const maxFiles = 10_000;

/** Reads the JSON of a manifest. Raises AppError invalid, naming the field. */
export function parseManifest(bytes: Uint8Array): Manifest {
  const json = parseObject(decodeText(bytes, 'manifest'));
  const list = json['files'];
  if (!Array.isArray(list) || list.length > maxFiles)
    throw new AppError('invalid', `manifest: files: not a list of at most ${maxFiles}`);
  const files = list.map((entry, index) => parseEntry(entry, `manifest: files[${index}]`));
  const names = new Set(files.map(({ name }) => name));
  if (names.size < files.length) throw new AppError('invalid', 'manifest: files: a name is listed twice');
  const signature = json['signature'] ?? null;
  return {
    type: parseBackupType(json['backup-type'], 'manifest: backup-type'),
    id: parseBackupId(json['backup-id'], 'manifest: backup-id'),
    atSeconds: parseBackupTime(json['backup-time'], 'manifest: backup-time'),
    files,
    unprotected: parseUnprotected(json['unprotected'] ?? null),
    signature: signature === null ? null : parseHex(signature, 32, 'manifest: signature'),
    json,
  };
}

/** The manifest of a new snapshot, unsigned when `key` is null. */
export function makeManifest(
  head: { type: BackupType; id: string; atSeconds: number; files: readonly ManifestEntry[]; unprotected: JsonObject },
  key: CryptKey | null,
  functions: Pick<ByteFunctions, 'hmacSha256'>,
): Manifest {
  const files = head.files.map((file) => ({
    filename: file.name,
    'crypt-mode': file.cryptMode,
    size: file.sizeBytes,
    csum: formatHex(file.csum),
  }));
  const covered = { 'backup-type': head.type, 'backup-id': head.id, 'backup-time': head.atSeconds, files };
  const unprotected =
    key === null ? head.unprotected : { ...head.unprotected, 'key-fingerprint': formatFingerprint(key.fingerprint) };
  const signature = key === null ? null : computeSignature(covered, key, functions);
  const json: JsonObject = { ...covered, unprotected, signature: signature === null ? null : formatHex(signature) };
  return { ...head, files: [...head.files], unprotected, signature, json };
}

/** The same manifest with another unprotected part; what the signature covers stays as it was read. */
export function withUnprotected(manifest: Manifest, unprotected: JsonObject): Manifest {
  return { ...manifest, unprotected, json: { ...manifest.json, unprotected } };
}

/** The manifest's text as it is stored. */
export function formatManifest(manifest: Manifest): Uint8Array {
  return encodeText(JSON.stringify(manifest.json, null, 2));
}

/** HMAC over the canonical form of everything but `signature` and `unprotected`. */
export function computeSignature(json: JsonObject, key: CryptKey, functions: Pick<ByteFunctions, 'hmacSha256'>): Uint8Array {
  const { signature: _signature, unprotected: _unprotected, ...covered } = json;
  return functions.hmacSha256(key.idKey, encodeText(formatCanonicalJson(covered)));
}

/**
 * Checks a manifest with the key at hand. An unsigned one passes, as old backups are; the answer tells which it was. Raises AppError
 * denied when it was signed with another key or changed since.
 */
export function checkSignature(
  manifest: Manifest,
  key: CryptKey,
  functions: Pick<ByteFunctions, 'hmacSha256'>,
): 'signed' | 'unsigned' {
  if (manifest.signature === null) return 'unsigned';
  const named = manifest.unprotected['key-fingerprint'];
  if (named !== undefined && !isSameBytes(parseFingerprint(named, 'manifest: key-fingerprint'), key.fingerprint)) {
    const given = formatFingerprint(key.fingerprint);
    throw new AppError('denied', `manifest: made with the key ${quote(named)}, but the key given is ${given}`);
  }
  if (!isSameBytes(computeSignature(manifest.json, key, functions), manifest.signature)) {
    throw new AppError(
      'denied',
      'manifest: its signature does not fit: it was changed after the backup, or signed with another key',
    );
  }
  return 'signed';
}

/** What the last verification said; null when there was none, or none that can be read. */
export function readVerifyState(manifest: Manifest): VerifyState | null {
  const value = manifest.unprotected['verify_state'];
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return null;
  const { state, upid } = value;
  return (state === 'ok' || state === 'failed') && typeof upid === 'string' ? { state, upid } : null;
}

function parseEntry(value: JsonValue, path: string): ManifestEntry {
  if (typeof value !== 'object' || value === null || Array.isArray(value))
    throw new AppError('invalid', `${path}: not an object`);
  const { name } = parseArchiveName(value['filename'], `${path}: filename`);
  if (name === manifestFile) throw new AppError('invalid', `${path}: filename: a manifest does not list itself`);
  const mode = value['crypt-mode'] ?? 'none';
  const cryptMode = cryptModes.find((candidate) => candidate === mode);
  if (cryptMode === undefined)
    throw new AppError('invalid', `${path}: crypt-mode: ${quote(mode)} is none of ${cryptModes.join(', ')}`);
  const size = value['size'];
  if (typeof size !== 'number' || !Number.isSafeInteger(size) || size < 0) {
    throw new AppError('invalid', `${path}: size: ${quote(size)} is not a size in bytes`);
  }
  return { name, cryptMode, sizeBytes: size, csum: parseHex(value['csum'], 32, `${path}: csum`) };
}

function parseUnprotected(value: JsonValue): JsonObject {
  if (value === null) return {};
  if (typeof value !== 'object' || Array.isArray(value)) throw new AppError('invalid', 'manifest: unprotected: not an object');
  return value;
}

function parseObject(text: string): JsonObject {
  let value: JsonValue;
  try {
    value = JSON.parse(text) as JsonValue;
  } catch (cause) {
    throw new AppError('invalid', 'manifest: not JSON', { cause });
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value))
    throw new AppError('invalid', 'manifest: not a JSON object');
  return value;
}
