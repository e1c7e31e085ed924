import { AppError } from '#base/error.ts';
import { comparePoints, type ReplicaPoint } from '#core/guest/guest-record.ts';
import { isAligned, planAlign } from '#core/storage/zfs/align-plan.ts';
import { readNumber } from '#core/storage/zfs/commands.ts';
import type { Dataset, Version } from '#core/storage/zfs/listing.ts';
import { noteZfsTail, releaseZfsTail, setAside, type ZfsManifest } from '#core/storage/zfs/manifest.ts';
import { diskDataset, parseSnapshotName, tailDataset } from '#core/storage/zfs/names.ts';
import { performAlign } from './align.ts';
import type { Copies, ZfsStorageOptions } from './copies.ts';
import type { GuestFacts } from './guest-facts.ts';
import { runZfs } from './zfs-command.ts';

/**
 * Brings every disk back to the version that is named by its GUID (null: away, for everything is sent). What is above it goes into a tail
 * unless nobody needs it. The manifest is changed first, so that a point which is about to go is not told any more. Returns the manifest.
 */
export async function alignDisks(
  deps: { options: ZfsStorageOptions; copies: Copies },
  manifest: ZfsManifest,
  bases: ReadonlyMap<string, string | null>,
): Promise<ZfsManifest> {
  const { options, copies } = deps;
  const { vmid } = manifest;
  const facts = await copies.facts(vmid);
  const basePoint = oldestBase(facts, bases);
  const liveTail = findLiveTail(manifest, facts);
  const above = manifest.points.some((point) => basePoint === null || comparePoints(point, basePoint) > 0);
  const isKept = liveTail !== null || above;
  let current = manifest;
  let tail = liveTail ?? findFinishing(manifest, facts, bases);
  if (isKept) {
    const away = setAside(manifest, basePoint, liveTail, options.wallMs());
    [current, tail] = [away.manifest, away.tail];
    if (current !== manifest) await copies.commit(current);
  }
  for (const [disk, base] of bases) await alignDisk(deps, facts, { disk, base, tail, isKept });
  if (tail === null) return current;
  const measured = await measureTail(deps, current, tail, basePoint);
  if (measured !== current) await copies.commit(measured);
  return measured;
}

async function alignDisk(
  deps: { options: ZfsStorageOptions; copies: Copies },
  first: GuestFacts,
  about: { disk: string; base: string | null; tail: string | null; isKept: boolean },
): Promise<void> {
  const { options, copies } = deps;
  const { disk, base, tail, isKept } = about;
  const { vmid } = first;
  const live = diskDataset(options.root, vmid, disk);
  const look = (facts: GuestFacts) => {
    const asideDisk = tail === null ? null : (facts.aside.get(tail)?.get(disk) ?? null);
    const planned = {
      live: facts.live.get(disk) ?? null,
      aside: asideDisk,
      base,
      isKept,
      asideSnapshot: tail ?? 'left-behind-g0',
    };
    return { steps: planAlign(planned), type: (planned.live ?? asideDisk)?.type ?? 'volume', live: planned.live };
  };
  let seen = look(first);
  if (seen.steps.some((step) => step.do === 'rename-aside') && tail === null) {
    throw new AppError(
      'conflict',
      `${live} holds something that no manifest knows of; nothing was changed. Rename it, or destroy it if it is not needed`,
    );
  }
  const names = { live, aside: tail === null ? live : tailDataset(options.root, vmid, tail, disk), type: seen.type };
  for (const step of seen.steps) {
    options.log(
      `guest ${vmid}: ${disk}: ${step.do}${'to' in step ? ` to ${step.to}` : ''}${step.do === 'rename-aside' ? ` as ${names.aside}` : ''}`,
    );
    await performAlign(step, names);
  }
  const done = seen.steps;
  if (done.length > 0) seen = look(await copies.facts(vmid));
  if (isAligned(done, seen.live, base)) return;
  const steps = done.map((step) => step.do).join(', ') || 'no step';
  const versions = seen.live?.versions
    .filter((version) => version.kind === 'snapshot')
    .map(({ name, guid }) => `${name} ${guid}`);
  const found =
    versions === undefined
      ? 'it is not there'
      : `it has ${versions.join(', ') || 'no snapshot'}, then ${seen.live?.writtenBytes} bytes`;
  throw new AppError('conflict', `put ${live} back to the snapshot ${base}: after ${steps} ${found}`);
}

/** A tail of a demotion that is still part of the disks themselves. */
export function findLiveTail(manifest: ZfsManifest, facts: GuestFacts): string | null {
  const tail = manifest.leftBehind.findLast((entry) => entry.sizeBytes === null && entry.isReleased !== true);
  if (tail === undefined) return null;
  const isAside =
    manifest.disks.length > 0 && manifest.disks.every((disk) => facts.aside.get(tail.name)?.has(disk.name) === true);
  return isAside ? null : tail.name;
}

/** A tail whose disks were set aside when a crash came, and whose clones are not finished. */
function findFinishing(manifest: ZfsManifest, facts: GuestFacts, bases: ReadonlyMap<string, string | null>): string | null {
  const tail = manifest.leftBehind.findLast((entry) => entry.sizeBytes === null && facts.aside.has(entry.name));
  if (tail !== undefined) return tail.name;
  const isMissing = [...bases.keys()].some((disk) => !facts.live.has(disk));
  return isMissing ? (manifest.leftBehind.at(-1)?.name ?? null) : null;
}

/** The oldest of the points that the disks go back to; null: one of them goes back to nothing. */
function oldestBase(facts: GuestFacts, bases: ReadonlyMap<string, string | null>): ReplicaPoint | null {
  let oldest: ReplicaPoint | null = null;
  for (const [disk, guid] of bases) {
    const point = guid === null ? null : pointOf(facts, disk, guid);
    if (point === null) return null;
    if (oldest === null || comparePoints(point, oldest) < 0) oldest = point;
  }
  return oldest;
}

function pointOf(facts: GuestFacts, disk: string, guid: string): ReplicaPoint | null {
  for (const version of listAllVersions(facts, disk)) {
    if (version.kind === 'snapshot' && version.guid === guid) return parseSnapshotName(version.name);
  }
  return null;
}

/** Every snapshot of a disk, newest first: its own, then those of what was set aside. */
export function listAllVersions(facts: GuestFacts, disk: string): Version[] {
  const aside = [...facts.aside.values()].toReversed().flatMap((disks) => disks.get(disk) ?? []);
  return [facts.live.get(disk) ?? null, ...aside]
    .filter((dataset): dataset is Dataset => dataset !== null)
    .flatMap((dataset) => dataset.versions.filter((version) => version.kind === 'snapshot').toReversed());
}

/** How much a tail holds that its base does not; one that holds nothing is let go. */
async function measureTail(
  deps: { options: ZfsStorageOptions; copies: Copies },
  manifest: ZfsManifest,
  name: string,
  base: ReplicaPoint | null,
): Promise<ZfsManifest> {
  const { copies } = deps;
  const tail = manifest.leftBehind.find((entry) => entry.name === name);
  if (tail === undefined || tail.sizeBytes !== null) return manifest;
  const facts = await copies.facts(manifest.vmid);
  const disks = facts.aside.get(name);
  if (disks === undefined) return releaseZfsTail(manifest, name); // nothing differed, so nothing was set aside
  let sizeBytes = 0;
  for (const dataset of disks.values()) sizeBytes += await measureDisk(dataset);
  const fromAtMs =
    manifest.points.findLast((point) => base !== null && comparePoints(point, base) === 0)?.pointAtMs ?? tail.fromAtMs;
  return noteZfsTail(manifest, name, { sizeBytes, fromAtMs });
}

async function measureDisk(dataset: Dataset): Promise<number> {
  if (dataset.origin === null) return dataset.usedBytes;
  const [of = '', snapshot = ''] = dataset.origin.split('@');
  return Number((await runZfs(readNumber(dataset.name, 'written', { of, snapshot }))).trim());
}
