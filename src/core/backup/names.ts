import { AppError } from '#base/error.ts';
import { quote } from './bytes.ts';

export type BackupType = 'vm' | 'ct' | 'host';
/** `namespace`: the levels below the root, outermost first. */
export type GroupId = { namespace: readonly string[]; type: BackupType; id: string };
/** `atSeconds`: wall clock since 1970. */
export type SnapshotId = GroupId & { atSeconds: number };
/** What an archive's name says of its content. */
export type ArchiveKind = 'fixed' | 'dynamic' | 'blob';

export const nameLimits = { componentChars: 32, depth: 7, namespaceChars: 256, idChars: 255, fileChars: 255 } as const;
/** 9999-12-31T23:59:59Z: later times do not fit the folder's name. */
const lastSecond = 253_402_300_799;

export const manifestFile = 'index.json.blob';
export const clientLogFile = 'client.log.blob';
/** The data key, for whoever holds the master key; the manifest calls it encrypted, its envelope is plain. */
export const sealedKeyFile = 'rsa-encrypted.key.blob';
/** What the archives of directories hold, for browsing. */
export const catalogFile = 'catalog.pcat1.didx';

const safeId = /^[A-Za-z0-9_][A-Za-z0-9._-]*$/;
const types: readonly BackupType[] = ['vm', 'ct', 'host'];
const kindOfExtension: Record<string, ArchiveKind> = { fidx: 'fixed', didx: 'dynamic', blob: 'blob' };

/** Raises AppError invalid, naming `field`. */
export function parseBackupType(value: unknown, field = 'backup-type'): BackupType {
  const type = types.find((candidate) => candidate === value);
  if (type === undefined) throw new AppError('invalid', `${field}: ${quote(value)} is none of ${types.join(', ')}`);
  return type;
}

/** Raises AppError invalid, naming `field`. */
export function parseBackupId(value: unknown, field = 'backup-id'): string {
  return parseSafeId(value, field, nameLimits.idChars);
}

/** Raises AppError invalid, naming `field`. */
export function parseDatastoreName(value: unknown, field = 'store'): string {
  const name = parseSafeId(value, field, nameLimits.componentChars);
  if (name.length < 3) throw new AppError('invalid', `${field}: ${quote(value)} is shorter than 3`);
  return name;
}

/** Whole seconds since 1970, from 1 on. Raises AppError invalid, naming `field`. */
export function parseBackupTime(value: unknown, field = 'backup-time'): number {
  if (typeof value !== 'number' || !Number.isInteger(value) || value < 1 || value > lastSecond) {
    throw new AppError('invalid', `${field}: ${quote(value)} is not a time in whole seconds since 1970`);
  }
  return value;
}

/** `a/b/c`, or nothing for the root. Raises AppError invalid, naming `field`. */
export function parseNamespace(value: unknown, field = 'ns'): string[] {
  if (value === undefined || value === null || value === '') return [];
  if (typeof value !== 'string' || value.length > nameLimits.namespaceChars) {
    throw new AppError('invalid', `${field}: ${quote(value)} is not a namespace of at most ${nameLimits.namespaceChars} letters`);
  }
  const levels = value.split('/').map((level) => parseSafeId(level, field, nameLimits.componentChars));
  if (levels.length > nameLimits.depth) {
    throw new AppError('invalid', `${field}: ${quote(value)} is deeper than ${nameLimits.depth} levels`);
  }
  return levels;
}

/** The name of an archive inside a snapshot. Raises AppError invalid, naming `field`. */
export function parseArchiveName(value: unknown, field = 'archive-name'): { name: string; kind: ArchiveKind } {
  const name = parseSafeId(value, field, nameLimits.fileChars);
  const dot = name.lastIndexOf('.');
  const kind = kindOfExtension[name.slice(dot + 1)];
  if (dot < 1 || kind === undefined) {
    throw new AppError('invalid', `${field}: ${quote(value)} ends with none of .fidx, .didx, .blob`);
  }
  return { name, kind };
}

/** The time as a snapshot's folder is named: `2026-01-31T12:00:00Z`. */
export function formatSnapshotTime(atSeconds: number): string {
  return new Date(atSeconds * 1_000).toISOString().replace('.000Z', 'Z');
}

/** Reads a folder's name; null when it is not exactly of that form. */
export function readSnapshotTime(name: string): number | null {
  if (!/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$/.test(name)) return null;
  const atSeconds = Date.parse(name) / 1_000;
  return Number.isInteger(atSeconds) && atSeconds >= 1 && formatSnapshotTime(atSeconds) === name ? atSeconds : null;
}

/** True for a name that a folder of a group, namespace or type may have. */
export function isSafeName(name: string): boolean {
  return safeId.test(name);
}

/** Paths below a datastore's root; every part of an id has been checked by the functions above. */
export function namespacePath(namespace: readonly string[]): string {
  return namespace.map((level) => `ns/${level}`).join('/');
}
export function groupPath(group: GroupId): string {
  return [...group.namespace.map((level) => `ns/${level}`), group.type, group.id].join('/');
}
export function snapshotPath(snapshot: SnapshotId): string {
  return `${groupPath(snapshot)}/${formatSnapshotTime(snapshot.atSeconds)}`;
}

/** Where a chunk lies, by the hex form of its digest. */
export function chunkPath(digestHex: string): string {
  return `.chunks/${digestHex.slice(0, 4)}/${digestHex}`;
}

/** A group or snapshot in words: `vm/100/2026-01-31T12:00:00Z`, with its namespace if it has one. */
export function formatGroup(group: GroupId): string {
  const place = group.namespace.length === 0 ? '' : ` in namespace ${group.namespace.join('/')}`;
  return `${group.type}/${group.id}${place}`;
}
export function formatSnapshot(snapshot: SnapshotId): string {
  const place = snapshot.namespace.length === 0 ? '' : ` in namespace ${snapshot.namespace.join('/')}`;
  return `${snapshot.type}/${snapshot.id}/${formatSnapshotTime(snapshot.atSeconds)}${place}`;
}

function parseSafeId(value: unknown, field: string, chars: number): string {
  if (typeof value !== 'string' || value.length > chars || !safeId.test(value)) {
    throw new AppError(
      'invalid',
      `${field}: ${quote(value)} is not a name (letters, digits, '_', then also '.' and '-', at most ${chars})`,
    );
  }
  return value;
}
