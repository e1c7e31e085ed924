import { open } from 'node:fs/promises';
import { AppError, formatErrorChain } from '#base/error.ts';
import type { GuestLock } from '#base/guest-lock.ts';
import {
  cloneSnapshot,
  createFileDisk,
  createVolume,
  destroyDataset,
  destroySnapshots,
  promoteClone,
  renameDataset,
  resizeVolume,
  setDiskProperties,
  takeSnapshot,
} from '#core/storage/zfs/commands.ts';
import type { Dataset } from '#core/storage/zfs/listing.ts';
import { endSwap, replaceZfsContent, type ZfsManifest } from '#core/storage/zfs/manifest.ts';
import { diskDataset, isReplacementSnapshot, passingDataset, replacedBase, tailDataset } from '#core/storage/zfs/names.ts';
import { planSwap, type SwapStep } from '#core/storage/zfs/swap-plan.ts';
import type { GuestStorage, NewContent } from '#ports/guest-storage.ts';
import type { DiskChain } from '#ports/hypervisor.ts';
import { restProperties } from './align.ts';
import type { Copies, ZfsStorageOptions } from './copies.ts';
import { closeDisk, describeZfsDisk, openDisk } from './device.ts';
import type { GuestFacts } from './guest-facts.ts';
import { runZfs, runZfsWhenFree } from './zfs-command.ts';

type Deps = { options: ZfsStorageOptions; copies: Copies };

const what = 'replace the disks of';

/**
 * Makes what `GuestStorage.replace` is. The copy is locked at both ends only, for the content may be long in coming:
 *
 *     snapshot, clones of it ─► filled over NBD ─► the same disks still? may it count? ─► manifest says `swapping` = the commit ─► `finishSwap`
 */
export function createReplacement(deps: Deps & { lock: GuestLock }): GuestStorage['replace'] {
  const { lock, copies, options } = deps;
  return async (vmid, generation, content) => {
    const begun = await lock.run(vmid, async () => {
      const manifest = await copies.requirePrimary(vmid, generation, what);
      refuse(manifest, content);
      return manifest;
    });
    try {
      const chains = await lock.run(vmid, () => makeNext(deps, begun, content));
      const changedBytes = await options.writeDisks(`${vmid}-replace`, chains, content);
      return await lock.run(vmid, () => take(deps, begun, content, changedBytes));
    } finally {
      await lock
        .run(vmid, () => dropLeftovers(deps, vmid))
        .catch((error: unknown) => {
          // The next start, or the next replacement, tidies up.
          options.log(`guest ${vmid}: tidying up after a replacement failed: ${formatErrorChain(error)}`);
        });
    }
  };
}

/** After a start: what an earlier process had begun is finished where it counts, and gone where it does not, with what it was reading. */
export async function finishReplacements(deps: Deps & { lock: GuestLock }): Promise<void> {
  for (const { vmid } of await deps.copies.list()) await deps.lock.run(vmid, () => dropLeftovers(deps, vmid));
}

function refuse({ vmid, disks, leftBehind }: ZfsManifest, { tail, disks: wanted }: NewContent): void {
  if (leftBehind.some(({ name }) => name === tail))
    throw new AppError('conflict', `${what} guest ${vmid}: there is a tail ${tail} already`);
  const lost = disks.filter(({ name }) => !wanted.some((disk) => disk.name === name)).map(({ name }) => name);
  if (lost.length === 0) return;
  throw new AppError(
    'conflict',
    `${what} guest ${vmid}: it has ${lost.join(', ')}, and the new content has not; nothing was changed. Make a guest of another number of it`,
  );
}

/** Clones of the disks as they are, of the sizes that they will have, and empty ones for disks that are new; open for writing. */
async function makeNext(deps: Deps, manifest: ZfsManifest, content: NewContent): Promise<DiskChain[]> {
  const { options, copies } = deps;
  const { root, blockBytes, mounts, user } = options;
  const { vmid } = manifest;
  await dropLeftovers(deps, vmid);
  const { live } = await copies.facts(vmid);
  const old = manifest.disks.map(({ name }) => {
    const dataset = live.get(name);
    if (dataset !== undefined) return dataset;
    throw new AppError('missing', `${what} guest ${vmid}: there is no ${diskDataset(root, vmid, name)}`);
  });
  for (const dataset of old) await closeDisk(dataset, mounts);
  const base = replacedBase(content.tail);
  await runZfs(
    takeSnapshot(
      old.map(({ name }) => name),
      base,
      {},
    ),
  );
  const chains: DiskChain[] = [];
  for (const { name, sizeBytes } of content.disks) {
    const dataset = live.get(name);
    const next = passingDataset(root, vmid, name, 'next', copies.nextNumber());
    const type = dataset?.type ?? (options.newDisks === 'volume' ? ('volume' as const) : ('filesystem' as const));
    const volumeBytes = Math.ceil(sizeBytes / blockBytes) * blockBytes;
    if (dataset !== undefined) {
      await runZfs(cloneSnapshot(dataset.name, base, next, restProperties(type)));
      if (type === 'volume' && dataset.sizeBytes !== volumeBytes) {
        await runZfs(setDiskProperties(next, [{ readonly: 'off' }]));
        await runZfs(resizeVolume(next, volumeBytes));
      }
    } else await runZfs(type === 'volume' ? createVolume(next, volumeBytes, blockBytes) : createFileDisk(next, blockBytes));
    const opened = await openDisk({ name: next, type } as Dataset, mounts, { user: null, isWritable: true });
    if (opened.kind === 'file') await setLength(opened.path, sizeBytes);
    if (user !== null) await openDisk({ name: next, type } as Dataset, mounts, { user, isWritable: true });
    const nodeName = `new-${name}`;
    chains.push({ disk: name, nodeName, blockdev: describeZfsDisk(opened, nodeName, sizeBytes) });
  }
  return chains;
}

async function setLength(path: string, sizeBytes: number): Promise<void> {
  const file = await open(path, 'a', 0o600);
  await file.truncate(sizeBytes);
  await file.sync();
  await file.close();
}

/** The new content is the disks from now on: all of them or none. */
async function take(
  deps: Deps,
  begun: ZfsManifest,
  content: NewContent,
  changedBytes: number,
): Promise<{ changedBytes: number }> {
  const { options, copies } = deps;
  const { vmid, generation } = begun;
  const manifest = await copies.requirePrimary(vmid, generation, what);
  if (JSON.stringify(manifest.disks) !== JSON.stringify(begun.disks))
    throw new AppError('conflict', `${what} guest ${vmid}: they became others meanwhile`);
  await content.confirm();
  if (changedBytes === 0 && isSameSize(manifest, content)) return { changedBytes };
  const facts = await copies.facts(vmid);
  for (const dataset of facts.next.values()) await closeDisk(dataset, options.mounts);
  const old = manifest.disks.flatMap(({ name }) => facts.live.get(name) ?? []);
  // Of its own: what the clones rest on goes with them.
  await runZfs(
    takeSnapshot(
      old.map(({ name }) => name),
      content.tail,
      {},
    ),
  );
  const disks = content.disks.map(({ name, sizeBytes }) => ({ name, sizeBytes }));
  const tail = { name: content.tail, sizeBytes: changedBytes, fromAtMs: content.fromAtMs, untilAtMs: options.wallMs() };
  await copies.commit(replaceZfsContent(manifest, tail, disks));
  await finishSwap(deps, vmid);
  return { changedBytes };
}

function isSameSize({ disks }: ZfsManifest, content: NewContent): boolean {
  const sizes = new Map(disks.map(({ name, sizeBytes }) => [name, sizeBytes]));
  return sizes.size === content.disks.length && content.disks.every(({ name, sizeBytes }) => sizes.get(name) === sizeBytes);
}

/** Gives disks with new content their places where a manifest says that they count. For callers that hold the guest's lock. */
export async function finishSwap(deps: Deps, vmid: number): Promise<void> {
  const manifest = await deps.copies.read(vmid);
  if (manifest?.swapping === undefined) return;
  const facts = await deps.copies.facts(vmid);
  for (const { name } of manifest.disks) {
    const [live, next] = [facts.live.get(name) ?? null, facts.next.get(name) ?? null];
    for (const step of planSwap({ live, next }))
      await performSwap(deps, { vmid, disk: name, tail: manifest.swapping }, facts, step);
  }
  await deps.copies.commit(endSwap(manifest));
  deps.options.log(`guest ${vmid}: its disks were replaced; what they were is kept as ${manifest.swapping}`);
}

async function performSwap(
  { options: { root } }: Deps,
  { vmid, disk, tail }: { vmid: number; disk: string; tail: string },
  facts: GuestFacts,
  step: SwapStep,
): Promise<void> {
  const place = diskDataset(root, vmid, disk);
  const { name: next = '', type = 'volume' } = facts.next.get(disk) ?? {};
  switch (step) {
    case 'set-aside':
      return void (await runZfsWhenFree(renameDataset(place, tailDataset(root, vmid, tail, disk), type)));
    case 'promote':
      return void (await runZfsWhenFree(promoteClone(next)));
    case 'take-place':
      return void (await runZfsWhenFree(renameDataset(next, place, type)));
  }
}

/** What replacements that did not count have left, and clones that were read; a snapshot on which the tail of one that did count rests stays. */
async function dropLeftovers({ copies, options }: Deps, vmid: number): Promise<void> {
  const { live, next, garbage } = await copies.facts(vmid);
  const passing = [...next.values(), ...garbage];
  for (const dataset of passing) {
    await closeDisk(dataset, options.mounts);
    await runZfsWhenFree(destroyDataset(dataset.name));
  }
  const dropped = new Set(passing.map(({ name }) => name));
  for (const { name, versions } of live.values()) {
    for (const version of versions) {
      const isNeeded = version.clones.some((clone) => !dropped.has(clone));
      if (version.kind === 'snapshot' && !isNeeded && isReplacementSnapshot(version.name))
        await runZfs(destroySnapshots(name, [version.name]));
    }
  }
}
