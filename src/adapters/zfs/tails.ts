import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { AppError } from '#base/error.ts';
import { cloneSnapshot, destroyDataset, destroySnapshots } from '#core/storage/zfs/commands.ts';
import type { Dataset } from '#core/storage/zfs/listing.ts';
import { listTails, markReleased, releaseZfsTail, type ZfsManifest } from '#core/storage/zfs/manifest.ts';
import { isReplacementSnapshot, passingDataset, replacedBase, snapshotName } from '#core/storage/zfs/names.ts';
import { restProperties } from './align.ts';
import { findLiveTail } from './alignment.ts';
import type { Copies, ZfsStorageOptions } from './copies.ts';
import { closeDisk, openDisk } from './device.ts';
import type { GuestFacts } from './guest-facts.ts';
import { newestSnapshot } from './roles.ts';
import { runZfsWhenFree } from './zfs-command.ts';

type Deps = { options: ZfsStorageOptions; copies: Copies };

export function requireTail(manifest: ZfsManifest, name: string): void {
  if (listTails(manifest).some((tail) => tail.name === name)) return;
  const held =
    listTails(manifest)
      .map((tail) => tail.name)
      .join(', ') || 'none';
  throw new AppError('missing', `guest ${manifest.vmid} has no left-behind tail ${name} on this node (there are: ${held})`);
}

/** Removes a tail for good. It is marked first, so that whatever a crash leaves of it is removed later. */
export async function releaseTail({ copies }: Deps, vmid: number, name: string): Promise<void> {
  const marked = markReleased(await copies.require(vmid, 'release a tail of'), name);
  await copies.commit(marked);
  const facts = await copies.facts(vmid);
  for (const dataset of facts.aside.get(name)?.values() ?? []) await runZfsWhenFree(destroyDataset(dataset.name));
  if (isReplacementSnapshot(name)) await dropReplacedBase(await copies.facts(vmid), replacedBase(name));
  await copies.commit(releaseZfsTail(marked, name));
}

/** The snapshot that only the tail rested on. */
async function dropReplacedBase({ live, aside }: GuestFacts, base: string): Promise<void> {
  for (const { name, versions } of [live, ...aside.values()].flatMap((disks) => [...disks.values()])) {
    const isFree = versions.some((version) => version.name === base && version.clones.length === 0);
    if (isFree) await runZfsWhenFree(destroySnapshots(name, [base]));
  }
}

/** The snapshots that make up an image: of a tail, or of the newest whole point. */
export function findImage(
  manifest: ZfsManifest,
  facts: GuestFacts,
  tail: string | null,
): { disk: string; of: Dataset; snapshot: string }[] {
  const isAside = tail !== null && findLiveTail(manifest, facts) !== tail;
  // A disk that came with the new content was not there before.
  const isNew = (disk: string): boolean => isAside && isReplacementSnapshot(tail) && facts.aside.get(tail)?.has(disk) === false;
  const disks = manifest.disks.filter(({ name }) => !isNew(name));
  return disks.map(({ name }) => {
    const of = isAside ? facts.aside.get(tail)?.get(name) : facts.live.get(name);
    const point = manifest.points.at(-1);
    const wanted = tail === null && point !== undefined ? snapshotName(point) : tail;
    const found = of?.versions.find((version) => version.kind === 'snapshot' && version.name === wanted);
    // What was set aside with nothing written after its newest point has no last snapshot of its own.
    const snapshot = found ?? (isAside ? newestSnapshot(of) : undefined);
    if (of === undefined || snapshot === undefined) {
      throw new AppError('missing', `read guest ${manifest.vmid}: ${name} has no snapshot ${wanted ?? 'of a whole point'}`);
    }
    return { disk: name, of, snapshot: snapshot.name };
  });
}

/** Writes an image as raw files into `directory`; returns their paths in the order of the disks. Each snapshot is read through a clone of its own. */
export async function exportImage(
  { options, copies }: Deps,
  vmid: number,
  tail: string | null,
  directory: string,
): Promise<string[]> {
  await mkdir(directory, { recursive: true });
  const manifest = await copies.require(vmid, 'read');
  const written: string[] = [];
  for (const { disk, of, snapshot } of findImage(manifest, await copies.facts(vmid), tail)) {
    const look = { name: passingDataset(options.root, vmid, disk, 'look', copies.nextNumber()), type: of.type } as Dataset;
    await runZfsWhenFree(cloneSnapshot(of.name, snapshot, look.name, restProperties(of.type)));
    try {
      const { path } = await openDisk(look, options.mounts, { user: null, isWritable: false });
      const file = join(directory, `${disk}.raw`);
      await options.copyImage(path, file, { what: `export ${disk} of guest ${vmid}`, isZeroed: false });
      written.push(file);
    } finally {
      await closeDisk(look, options.mounts);
      await runZfsWhenFree(destroyDataset(look.name));
    }
  }
  return written;
}

/** What an earlier process left half done: tails that were being removed. */
export async function finishReleases(deps: Deps): Promise<void> {
  for (const manifest of await deps.copies.list()) {
    for (const tail of manifest.leftBehind) {
      if (tail.isReleased === true) await releaseTail(deps, manifest.vmid, tail.name);
    }
  }
}
