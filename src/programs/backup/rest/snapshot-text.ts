import { isAppError } from '#base/error.ts';
import type { Manifest } from '#core/backup/manifest.ts';
import { manifestFile } from '#core/backup/names.ts';
import type { Datastore, GroupInfo, SnapshotInfo } from '#ports/datastore.ts';

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
  const { files, unprotected } = manifest;
  const notes = unprotected['notes'];
  return {
    ...head,
    files: describeFiles(manifest),
    size: files.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0),
    ...(typeof notes === 'string' && notes !== '' ? { comment: notes.split('\n')[0] } : {}),
    ...(unprotected['key-fingerprint'] === undefined ? {} : { fingerprint: unprotected['key-fingerprint'] }),
    ...(unprotected['verify_state'] === undefined ? {} : { verification: unprotected['verify_state'] }),
  };
}

/** The files of a snapshot; the manifest does not list itself, and is as safe as its signature. */
export function describeFiles({ files, signature }: Manifest): Record<string, unknown>[] {
  return [
    ...files.map(({ name, cryptMode, sizeBytes }) => ({ filename: name, 'crypt-mode': cryptMode, size: sizeBytes })),
    { filename: manifestFile, 'crypt-mode': signature === null ? 'none' : 'sign-only' },
  ];
}

async function readManifest(store: Datastore, { snapshot }: SnapshotInfo): Promise<Manifest | null> {
  try {
    return await store.readManifest(snapshot);
  } catch (error) {
    if (isAppError(error)) return null;
    throw error;
  }
}
