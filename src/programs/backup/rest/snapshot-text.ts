import { isAppError } from '#base/error.ts';
import type { CryptMode } from '#core/backup/manifest.ts';
import { manifestFile } from '#core/backup/names.ts';
import type { Datastore, GroupInfo, SnapshotInfo, StoredManifest } from '#ports/datastore.ts';

/** A group as the API lists it. */
export function describeGroup({ group, owner, notes, snapshots }: GroupInfo): Record<string, unknown> {
  const finished = snapshots.filter(({ isFinished }) => isFinished);
  return {
    'backup-type': group.type,
    'backup-id': group.id,
    'last-backup': finished[0]?.snapshot.atSeconds ?? 0,
    'backup-count': finished.length,
    files: finished[0]?.files ?? [],
    ...(owner === null ? {} : { owner }),
    ...(notes === null || notes === '' ? {} : { comment: notes.split('\n')[0] }),
  };
}

/** A snapshot as the API lists it; one whose manifest is damaged is listed without what it would say. */
export async function describeSnapshot(store: Datastore, info: SnapshotInfo): Promise<Record<string, unknown>> {
  const { snapshot, owner, isProtected, lockedUntil } = info;
  const head = {
    'backup-type': snapshot.type,
    'backup-id': snapshot.id,
    'backup-time': snapshot.atSeconds,
    ...(owner === null ? {} : { owner }),
    protected: isProtected,
    ...(lockedUntil === null ? {} : { 'locked-until': lockedUntil }),
  };
  const manifest = info.isFinished ? await readManifest(store, info) : null;
  if (manifest === null) return { ...head, files: info.files.map((filename) => ({ filename })) };
  const { unprotected } = manifest;
  const files = describeFiles(manifest, info);
  const notes = unprotected['notes'];
  return {
    ...head,
    files,
    size: files.reduce((sum, { size }) => sum + (size ?? 0), 0),
    ...(typeof notes === 'string' && notes !== '' ? { comment: notes.split('\n')[0] } : {}),
    ...(unprotected['key-fingerprint'] === undefined ? {} : { fingerprint: unprotected['key-fingerprint'] }),
    ...(unprotected['verify_state'] === undefined ? {} : { verification: unprotected['verify_state'] }),
  };
}

type FileText = { filename: string; 'crypt-mode'?: CryptMode; size?: number };

/** The files of a snapshot: those of the manifest, itself, which is as safe as its signature, and by name alone those that came later. */
export function describeFiles(
  { files, signature, encodedBytes }: StoredManifest,
  { files: names }: Pick<SnapshotInfo, 'files'>,
): FileText[] {
  const listed = new Set([manifestFile, ...files.map(({ name }) => name)]);
  return [
    ...files.map(({ name, cryptMode, sizeBytes }) => ({ filename: name, 'crypt-mode': cryptMode, size: sizeBytes })),
    { filename: manifestFile, 'crypt-mode': signature === null ? 'none' : 'sign-only', size: encodedBytes },
    ...names.filter((name) => !listed.has(name)).map((filename) => ({ filename })),
  ];
}

async function readManifest(store: Datastore, { snapshot }: SnapshotInfo): Promise<StoredManifest | null> {
  try {
    return await store.readManifest(snapshot);
  } catch (error) {
    if (isAppError(error)) return null;
    throw error;
  }
}
