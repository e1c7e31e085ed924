import { join } from 'node:path';
import { stat } from 'node:fs/promises';
import { AppError } from '#base/error.ts';
import { comparePoints, type ReplicaPoint } from '#core/guest/guest-record.ts';
import { formatPoint } from '#core/replica/send-plan.ts';
import { layersAt, newestPoint, promoteTo, type KeptPoint, type Manifest } from '#core/storage/manifest.ts';
import { checkImage, createLayer, verifyLayer } from './layer-files.ts';
import { commitManifest, guestDirectory } from './manifest-file.ts';
import { syncPath } from './durable-file.ts';
import type { ImageUser } from './command.ts';

/**
 * Makes a replica's newest point bootable under `generation`: verify every layer, then one new overlay a disk, then the manifest.
 * Raises AppError missing/conflict/invalid before anything was changed.
 */
export async function promoteReplica(
  deps: { root: string; user: ImageUser },
  manifest: Manifest,
  generation: number,
  atLeast: ReplicaPoint,
): Promise<KeptPoint> {
  const what = `promote guest ${manifest.vmid} to generation ${generation}`;
  if (manifest.role === 'primary') {
    if (manifest.generation === generation && manifest.promotedFrom !== null) return manifest.promotedFrom;
    throw new AppError('conflict', `${what}: this node already holds a primary copy of generation ${manifest.generation}`);
  }
  if (generation <= manifest.generation) {
    throw new AppError('conflict', `${what}: this copy has already seen generation ${manifest.generation}`);
  }
  const point = newestPoint(manifest);
  if (point === null) throw new AppError('missing', `${what}: this node holds no whole point`);
  if (comparePoints(point, atLeast) < 0) {
    throw new AppError(
      'conflict',
      `${what}: the newest point here is ${formatPoint(point)}, ${formatPoint(atLeast)} was asked for`,
    );
  }
  await verifyPoint(deps, manifest, point);
  const directory = guestDirectory(deps.root, manifest.vmid);
  const added = [];
  for (const { name, layers } of layersAt(manifest, point.depths)) {
    const above = layers.at(-1) ?? null;
    const file = `${name}-g${generation}-own.qcow2`;
    const sizeBytes = above?.sizeBytes ?? 0;
    added.push({
      disk: name,
      layer: await createLayer(directory, deps.user, { file, format: 'qcow2', sizeBytes, above, ownWrites: true }),
    });
    await syncPath(join(directory, file));
  }
  await commitManifest(deps.root, promoteTo(manifest, generation, point, added));
  return point;
}

async function verifyPoint(deps: { root: string; user: ImageUser }, manifest: Manifest, point: KeptPoint): Promise<void> {
  const directory = guestDirectory(deps.root, manifest.vmid);
  for (const { layers } of layersAt(manifest, point.depths)) {
    for (const layer of layers) await verifyLayer(directory, layer, deps.user);
    const top = layers.at(-1);
    if (top?.format === 'qcow2') await checkImage(join(directory, top.file), deps.user);
  }
}

/** Wall-clock time of the last write to a primary copy's files; null when they cannot be read. */
export async function readLastWriteAtMs(root: string, manifest: Manifest): Promise<number | null> {
  const directory = guestDirectory(root, manifest.vmid);
  const tops = manifest.disks.flatMap((disk) => disk.layers.slice(-1));
  const times = await Promise.all(tops.map((layer) => stat(join(directory, layer.file)).then((found) => found.mtimeMs)));
  return times.length === 0 ? null : Math.round(Math.max(...times));
}
