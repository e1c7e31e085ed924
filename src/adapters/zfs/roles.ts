import { open, stat } from 'node:fs/promises';
import { AppError, isAppError } from '#base/error.ts';
import { comparePoints, type ReplicaPoint } from '#core/guest/guest-record.ts';
import { formatPoint } from '#core/replica/send-plan.ts';
import { createFileDisk, createFolder, createVolume, destroyDataset, takeSnapshot } from '#core/storage/zfs/commands.ts';
import type { Dataset, Version } from '#core/storage/zfs/listing.ts';
import * as manifests from '#core/storage/zfs/manifest.ts';
import type { ZfsManifest, ZfsPoint } from '#core/storage/zfs/manifest.ts';
import { diskDataset, guestDataset, snapshotName, zfsTailName } from '#core/storage/zfs/names.ts';
import type { LastPoint, NewDisk } from '#ports/guest-storage.ts';
import type { DiskChain } from '#ports/hypervisor.ts';
import { alignDisks, listAllVersions } from './alignment.ts';
import type { Copies, ZfsStorageOptions } from './copies.ts';
import { closeDisk, describeZfsDisk, openDisk } from './device.ts';
import type { GuestFacts } from './guest-facts.ts';
import { isOwnTag, releaseHolds } from './holds.ts';
import { runZfs, runZfsWhenFree } from './zfs-command.ts';

type Deps = { options: ZfsStorageOptions; copies: Copies };

/** Makes the disks of a new guest. Until its manifest is written they are garbage. */
export async function createGuest(deps: Deps, vmid: number, generation: number, disks: NewDisk[]): Promise<void> {
  const { options, copies } = deps;
  const dataset = guestDataset(options.root, vmid);
  if ((await copies.read(vmid)) !== null) throw new AppError('conflict', `create guest ${vmid}: this node already holds a copy`);
  for (const { importFile, sizeBytes } of disks) await checkImport(importFile, sizeBytes);
  if ((await copies.unfinished()).includes(vmid)) await runZfsWhenFree(destroyDataset(dataset));
  await runZfs(createFolder(dataset, { parents: false, isUnfinished: true }));
  try {
    for (const disk of disks) await createDisk(deps, vmid, disk);
    await copies.commit(
      manifests.createZfsPrimary(
        vmid,
        generation,
        disks.map(({ name, sizeBytes }) => ({ name, sizeBytes })),
      ),
    );
  } catch (error) {
    await runZfsWhenFree(destroyDataset(dataset)).catch(() => {}); // it is known as garbage
    throw error;
  }
}

async function createDisk({ options }: Deps, vmid: number, disk: NewDisk): Promise<void> {
  const { blockBytes, newDisks, mounts, user } = options;
  const name = diskDataset(options.root, vmid, disk.name);
  const sizeBytes = Math.ceil(disk.sizeBytes / blockBytes) * blockBytes;
  await runZfs(newDisks === 'volume' ? createVolume(name, sizeBytes, blockBytes) : createFileDisk(name, blockBytes));
  const type = newDisks === 'volume' ? ('volume' as const) : ('filesystem' as const);
  if (newDisks === 'volume' && disk.importFile === undefined && disk.fill === undefined) return;
  const opened = await openDisk({ name, type } as Dataset, mounts, { user: null, isWritable: true });
  if (opened.kind === 'file' && disk.fill === undefined) {
    const file = await open(opened.path, 'wx', 0o600);
    await file.truncate(disk.sizeBytes);
    await file.sync();
    await file.close();
  }
  await disk.fill?.(opened.path);
  if (disk.importFile !== undefined) {
    const what = `import ${disk.importFile} as ${disk.name} of guest ${vmid}`;
    await options.copyImage(disk.importFile, opened.path, { what, isZeroed: true });
  }
  if (user !== null) await openDisk({ name, type } as Dataset, mounts, { user, isWritable: true });
}

async function checkImport(importFile: string | undefined, sizeBytes: number): Promise<void> {
  if (importFile === undefined) return;
  const { size } = await stat(importFile).catch((cause: unknown) => {
    throw new AppError('missing', `import ${importFile}: it cannot be read`, { cause });
  });
  if (size > sizeBytes) throw new AppError('invalid', `import ${importFile}: it has ${size} bytes, the disk has ${sizeBytes}`);
}

/** The disks of a primary copy, visible and writable, as QEMU is to open them. */
export async function openPrimary(deps: Deps, vmid: number, generation: number): Promise<DiskChain[]> {
  const { options, copies } = deps;
  const manifest = await copies.requirePrimary(vmid, generation, 'start');
  const datasets = await findDisks(deps, manifest, 'start');
  const opened = manifests.openZfsForWriting(manifest);
  if (opened !== manifest) await copies.commit(opened);
  const chains: DiskChain[] = [];
  for (const { name, sizeBytes, dataset } of datasets) {
    const disk = await openDisk(dataset, options.mounts, { user: options.user, isWritable: true });
    const nodeName = `act-${name}`;
    chains.push({ disk: name, nodeName, blockdev: describeZfsDisk(disk, nodeName, sizeBytes) });
  }
  return chains;
}

/** The disks of a primary copy that nothing has open, for reading: nothing is changed. */
export async function openForReading(deps: Deps, vmid: number, generation: number): Promise<DiskChain[]> {
  const { options, copies } = deps;
  const manifest = await copies.requirePrimary(vmid, generation, 'read the disks of');
  const chains: DiskChain[] = [];
  for (const { name, sizeBytes, dataset } of await findDisks(deps, manifest, 'read the disks of')) {
    const disk = await openDisk(dataset, options.mounts, { user: options.user, isWritable: false });
    const nodeName = `out-${name}`;
    const { file, ...chain } = describeZfsDisk(disk, nodeName, sizeBytes);
    const readOnly = { 'read-only': true };
    chains.push({ disk: name, nodeName, blockdev: { ...chain, ...readOnly, file: { ...(file as object), ...readOnly } } });
  }
  return chains;
}

async function findDisks({ options, copies }: Deps, manifest: ZfsManifest, what: string) {
  const { vmid } = manifest;
  const facts = await copies.facts(vmid);
  return manifest.disks.map(({ name, sizeBytes }) => {
    const dataset = facts.live.get(name);
    if (dataset !== undefined) return { name, sizeBytes, dataset };
    throw new AppError('missing', `${what} guest ${vmid}: ${name} needs ${diskDataset(options.root, vmid, name)}`);
  });
}

/** Makes the newest point here the primary copy of `generation`; see GuestStorage.promote. */
export async function promote(deps: Deps, vmid: number, generation: number, atLeast: ReplicaPoint): Promise<ZfsPoint> {
  const { copies } = deps;
  const what = `promote guest ${vmid} to generation ${generation}`;
  const found = manifests.toPromotableZfs(await copies.require(vmid, 'promote'), atLeast);
  if (found.role === 'primary') {
    if (found.generation === generation && found.promotedFrom !== null) return found.promotedFrom;
    throw new AppError('conflict', `${what}: this node already holds a primary copy of generation ${found.generation}`);
  }
  if (generation <= found.generation) {
    throw new AppError('conflict', `${what}: this copy has already seen generation ${found.generation}`);
  }
  const point = manifests.newestZfsPoint(found);
  if (point === null) throw new AppError('missing', `${what}: this node holds no whole point`);
  if (comparePoints(point, atLeast) < 0) {
    throw new AppError(
      'conflict',
      `${what}: the newest point here is ${formatPoint(point)}, ${formatPoint(atLeast)} was asked for`,
    );
  }
  const facts = await copies.facts(vmid);
  for (const { name } of found.disks) {
    const versions = listAllVersions(facts, name);
    if (versions.some((version) => version.guid === point.guids[name])) continue;
    throw new AppError(
      'missing',
      `${what}: ${diskDataset(deps.options.root, vmid, name)} has no snapshot ${snapshotName(point)} of this point`,
    );
  }
  const bases = new Map(found.disks.map(({ name }) => [name, point.guids[name] ?? null]));
  const aligned = await alignDisks(deps, found, bases);
  await copies.commit(manifests.promoteZfsTo(aligned, generation, point));
  return point;
}

/** Notes that other nodes hold all that lies here. The point's snapshots must be the newest of every disk. */
export async function noteHandedOver(deps: Deps, vmid: number, generation: number, last: LastPoint): Promise<void> {
  const manifest = await deps.copies.requirePrimary(vmid, generation, 'hand over');
  const facts = await deps.copies.facts(vmid);
  const guids: Record<string, string> = {};
  for (const { name } of manifest.disks) {
    const newest = newestSnapshot(facts.live.get(name));
    if (newest?.name !== snapshotName(last.point)) {
      throw new AppError(
        'conflict',
        `hand over guest ${vmid}: ${name} is at ${newest?.name ?? 'no snapshot'}, not at ${formatPoint(last.point)}`,
      );
    }
    guids[name] = newest.guid;
  }
  await deps.copies.commit({ ...manifest, handedOver: { ...last, guids } });
}

/** A former primary becomes a replica; its disks vanish from this node, and what it wrote is kept. */
export async function demote(deps: Deps, vmid: number, identicalTo: ReplicaPoint | null): Promise<void> {
  const { options, copies } = deps;
  const manifest = await copies.require(vmid, 'demote');
  if (manifest.role === 'replica') return;
  const before = await copies.facts(vmid);
  for (const dataset of before.live.values()) await closeDisk(dataset, options.mounts);
  const facts = await copies.facts(vmid);
  const { handedOver } = manifest;
  const isUnwritten = handedOver !== undefined && manifest.disks.every(({ name }) => isAt(facts, name, handedOver.guids[name]));
  const now = options.wallMs();
  const atPoint = isUnwritten ? manifests.demoteZfsToPoint(manifest, identicalTo, now) : null;
  const next = atPoint ?? manifests.demoteZfs(manifest, now, now);
  const tail = zfsTailName(manifest.generation, null);
  const hasTail = next.leftBehind.some((entry) => entry.name === tail);
  if (hasTail) await freezeTail(facts, manifest, tail);
  await copies.commit(next);
  const kept = hasTail ? `, and kept as ${tail}` : '';
  options.log(`guest ${vmid}: the primary copy is now a replica${atPoint === null ? '' : ' at its last point'}${kept}`);
}

/** What was written last, on all disks at the same instant. */
async function freezeTail(facts: GuestFacts, manifest: ZfsManifest, tail: string): Promise<void> {
  const disks = manifest.disks.flatMap(({ name }) => facts.live.get(name) ?? []);
  const missing = disks.filter((disk) => newestSnapshot(disk)?.name !== tail || disk.writtenBytes > 0);
  if (missing.length > 0)
    await runZfs(
      takeSnapshot(
        missing.map((disk) => disk.name),
        tail,
        {},
      ),
    );
}

function isAt(facts: GuestFacts, disk: string, guid: string | undefined): boolean {
  const dataset = facts.live.get(disk);
  return guid !== undefined && newestSnapshot(dataset)?.guid === guid && dataset?.writtenBytes === 0;
}

export function newestSnapshot(dataset: Dataset | undefined): Version | undefined {
  return dataset?.versions.findLast((version) => version.kind === 'snapshot');
}

/** Removes a guest's copy with all that belongs to it. */
export async function removeGuest(deps: Deps, vmid: number): Promise<void> {
  const { options, copies } = deps;
  let facts: GuestFacts;
  try {
    facts = await copies.facts(vmid);
  } catch (error) {
    if (!isAppError(error, 'missing')) throw error;
    copies.forget(vmid);
    return;
  }
  await releaseHolds(facts, isOwnTag);
  for (const disks of facts.aside.values()) {
    for (const dataset of disks.values()) await runZfsWhenFree(destroyDataset(dataset.name));
  }
  await runZfsWhenFree(destroyDataset(guestDataset(options.root, vmid)));
  copies.forget(vmid);
}
