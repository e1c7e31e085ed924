import { AppError } from '#base/error.ts';
import { digestAt, parseIndex } from '#core/backup/chunk-index.ts';
import { readVerifyState, type Manifest } from '#core/backup/manifest.ts';
import { formatSnapshot, parseArchiveName, type SnapshotId } from '#core/backup/names.ts';
import type { ChunkStore } from './chunk-store.ts';
import type { Snapshots } from './snapshots.ts';

/** The snapshot that a backup rests on: what it holds need not be sent again. */
export type Base = { snapshot: SnapshotId; manifest: Manifest };

/** The newest finished snapshot, unless it is known to be damaged: then the client has to send everything again. */
export async function chooseBase(
  chunks: ChunkStore,
  snapshots: Snapshots,
  { namespace, type, id }: SnapshotId,
): Promise<Base | null> {
  const { snapshots: all } = await snapshots.readGroup({ namespace, type, id });
  const newest = all.find(({ isFinished }) => isFinished);
  if (newest === undefined) return null;
  let manifest: Manifest;
  try {
    manifest = await snapshots.readManifest(newest.snapshot);
  } catch {
    return null; // damaged: verification says so; a new backup must not rest on it
  }
  if (readVerifyState(manifest)?.state === 'failed') return null;
  return (await hasLostChunk(chunks, snapshots, newest.snapshot, manifest)) ? null : { snapshot: newest.snapshot, manifest };
}

async function hasLostChunk(
  chunks: ChunkStore,
  snapshots: Snapshots,
  snapshot: SnapshotId,
  manifest: Manifest,
): Promise<boolean> {
  if (chunks.catalogue.badCount === 0) return false;
  for (const { name } of manifest.files) {
    const { kind } = parseArchiveName(name);
    if (kind === 'blob') continue;
    const file = await snapshots.readFile(snapshot, name);
    if (file === null) return true;
    const index = parseIndex(kind, file, name);
    for (let at = 0; at < index.count; at += 1) if (chunks.catalogue.isLost(digestAt(index, at))) return true;
  }
  return false;
}

/** A backup is younger than all of its group. Raises AppError conflict. */
export async function checkTime(snapshots: Snapshots, snapshot: SnapshotId, base: Base | null): Promise<void> {
  if (base !== null && snapshot.atSeconds <= base.snapshot.atSeconds) {
    throw new AppError(
      'conflict',
      `backup-time: ${formatSnapshot(snapshot)} is not after the last one, ${formatSnapshot(base.snapshot)}`,
    );
  }
  const { snapshots: all } = await snapshots.readGroup(snapshot);
  if (all.some((other) => other.snapshot.atSeconds === snapshot.atSeconds)) {
    throw new AppError('conflict', `${formatSnapshot(snapshot)} exists already`);
  }
}
