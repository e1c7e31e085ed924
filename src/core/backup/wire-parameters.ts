import { AppError } from '#base/error.ts';
import { flag } from '#core/access/parameter.ts';
import { parseHex, quote } from './bytes.ts';
import { parseBackupId, parseBackupTime, parseBackupType, parseNamespace, type SnapshotId } from './names.ts';

/** Parameters as they came: a query string's texts, a JSON body's values, merged. */
export type WireParameters = Readonly<Record<string, unknown>>;

/** A whole number, as number or digits. Raises AppError invalid, naming the field. */
export function readInteger(params: WireParameters, field: string, min: number, max: number): number {
  const value = params[field];
  const number = typeof value === 'string' && /^-?\d{1,16}$/.test(value) ? Number(value) : value;
  if (typeof number !== 'number' || !Number.isSafeInteger(number) || number < min || number > max) {
    throw new AppError('invalid', `${field}: ${quote(value)} is not a whole number from ${min} to ${max}`);
  }
  return number;
}

const wireFlag = flag('');

/** Booleans also come as 0 and 1, and as words. Missing: false. */
export function readFlag(params: WireParameters, field: string): boolean {
  return wireFlag.read(params[field], field);
}

export function readText(params: WireParameters, field: string, maxChars: number): string {
  const value = params[field];
  if (typeof value !== 'string' || value.length > maxChars) {
    throw new AppError('invalid', `${field}: ${quote(value)} is not a text of at most ${maxChars} letters`);
  }
  return value;
}

export function readDigest(params: WireParameters, field: string): Uint8Array {
  return parseHex(params[field], 32, field);
}

/** Digests and offsets of an append, side by side. */
export function readAppends(params: WireParameters, most: number): { digest: Uint8Array; start: number }[] {
  const digests = params['digest-list'];
  const offsets = params['offset-list'];
  if (!Array.isArray(digests) || digests.length > most)
    throw new AppError('invalid', `digest-list: not a list of at most ${most}`);
  if (!Array.isArray(offsets) || offsets.length !== digests.length) {
    throw new AppError('invalid', `offset-list: not a list as long as digest-list (${digests.length})`);
  }
  return digests.map((digest, at) => ({
    digest: parseHex(digest, 32, `digest-list[${at}]`),
    start: readInteger({ 'offset-list': offsets[at] as unknown }, 'offset-list', 0, Number.MAX_SAFE_INTEGER),
  }));
}

/** `ns`, `backup-type`, `backup-id`, `backup-time`. */
export function readSnapshot(params: WireParameters): SnapshotId {
  const atSeconds = readInteger(params, 'backup-time', 1, Number.MAX_SAFE_INTEGER);
  return {
    namespace: parseNamespace(params['ns']),
    type: parseBackupType(params['backup-type']),
    id: parseBackupId(params['backup-id']),
    atSeconds: parseBackupTime(atSeconds),
  };
}
