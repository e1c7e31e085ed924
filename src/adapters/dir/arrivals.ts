import { join } from 'node:path';
import { rm } from 'node:fs/promises';
import { AppError } from '#base/error.ts';
import { limits } from '#base/limits.ts';
import { arrivalOf, arrivingNodes, chunkMapName, isArriving, withArrival, type Arrival } from '#core/storage/arrival.ts';
import { createPrimary, type DiskLayers, type Layer, type Manifest } from '#core/storage/manifest.ts';
import { liveLimits } from '#core/guest-backup/live-limits.ts';
import type { Arrivals, ArrivingCopy } from '#ports/guest-storage.ts';
import type { DiskChain } from '#ports/hypervisor.ts';
import { runCommand, type ImageUser } from './command.ts';
import { syncPath } from './durable-file.ts';
import { createLayer } from './layer-files.ts';
import { commitManifest, guestDirectory, listGuests, makeGuestDirectory, readManifest, removeUnlisted } from './manifest-file.ts';

export type ArrivalsDeps = {
  root: string;
  user: ImageUser;
  change: <T>(vmid: number, job: () => Promise<T>) => Promise<T>;
  requirePrimary: (vmid: number, generation: number, what: string) => Promise<Manifest>;
};

/**
 * Disks that are filled while their guest lives on them:
 *
 *     disk0-own.qcow2   the guest's writes           │  complete   disk0-own.qcow2
 *     NBD: what is here of disk0-base.raw, else      │ ─────────►  disk0-base.raw
 *          the backup's chunk                        │
 */
export function createArrivals(deps: ArrivalsDeps): {
  port: Arrivals;
  /** The chains of a primary copy as they can be opened now. Raises AppError unavailable while nothing serves what is missing. */
  describeStart(manifest: Manifest, whole: DiskChain[]): DiskChain[];
  /** Does what is left to do when nothing has the disks open. Returns the manifest as it is then. */
  tidy(manifest: Manifest): Promise<Manifest>;
} {
  const { root, user, change } = deps;
  const sockets = new Map<number, string>();

  function describeStart(manifest: Manifest, whole: DiskChain[]): DiskChain[] {
    if (!isArriving(manifest)) return whole;
    const socketPath = sockets.get(manifest.vmid);
    if (socketPath === undefined) {
      throw new AppError(
        'unavailable',
        `start guest ${manifest.vmid}: its disks still stream in from a backup, and what serves them is not up yet`,
      );
    }
    return whole.map((chain) => describeLive(chain, socketPath));
  }

  async function tidy(manifest: Manifest): Promise<Manifest> {
    const arrival = arrivalOf(manifest);
    // A layer that was sealed is not touched any more.
    const canBeNamed = manifest.disks.every(({ layers }) => layers.length === 2 && layers[1]?.sealed === null);
    if (arrival === null || arrival.isNamed || !arrival.isComplete || !canBeNamed) return manifest;
    await nameAllBelow(manifest);
    const named = withArrival(manifest, { ...arrival, isNamed: true });
    await commitManifest(root, named);
    return named;
  }

  async function create(vmid: number, generation: number, disks: { name: string; sizeBytes: number }[], arrival: Arrival) {
    const directory = await makeGuestDirectory(root, vmid);
    await removeUnlisted(root, vmid, createPrimary(vmid, generation, []));
    const made: DiskLayers[] = [];
    for (const { name, sizeBytes } of disks) {
      const common = { sizeBytes, above: null, ownWrites: true };
      const base = await createLayer(directory, user, { ...common, file: `${name}-base.raw`, format: 'raw' });
      // QEMU would look for a file named in its header, and not for what it is told to read from until there is one.
      const own = await createLayer(directory, user, { ...common, file: `${name}-own.qcow2`, format: 'qcow2' });
      for (const { file } of [base, own]) await syncPath(join(directory, file));
      made.push({ name, layers: [base, own] });
    }
    await commitManifest(root, withArrival(createPrimary(vmid, generation, made), arrival));
  }

  async function describe(vmid: number): Promise<ArrivingCopy[]> {
    const manifest = await readManifest(root, vmid).catch(() => null); // whoever lists copies tells of it
    const arrival = manifest === null ? null : arrivalOf(manifest);
    if (manifest === null || arrival === null || manifest.role !== 'primary') return [];
    if (!arrival.isComplete && !isArriving(manifest)) return [];
    const directory = guestDirectory(root, vmid);
    const disks = manifest.disks.map(({ name, layers }) => ({
      name,
      sizeBytes: layers[0]?.sizeBytes ?? 0,
      chunkBytes: arrival.disks[name]?.chunkBytes ?? 0,
      path: join(directory, layers[0]?.file ?? ''),
      mapPath: join(directory, chunkMapName(name)),
    }));
    return [{ vmid, generation: manifest.generation, arrival, disks }];
  }

  async function nameAllBelow({ vmid, disks }: Manifest): Promise<void> {
    for (const { layers } of disks) await nameBelow(guestDirectory(root, vmid), layers, user);
  }

  async function complete(vmid: number, generation: number, { isOpen }: { isOpen: boolean }): Promise<void> {
    const what = 'complete the disks of';
    const manifest = await deps.requirePrimary(vmid, generation, what);
    const arrival = arrivalOf(manifest);
    if (arrival === null) throw new AppError('conflict', `${what} guest ${vmid}: they did not come from a backup`);
    if (arrival.isComplete) return;
    const directory = guestDirectory(root, vmid);
    for (const { layers } of manifest.disks) await syncPath(join(directory, layers[0]?.file ?? ''));
    if (!isOpen) await nameAllBelow(manifest);
    await commitManifest(root, withArrival(manifest, { ...arrival, isComplete: true, isNamed: !isOpen }));
    sockets.delete(vmid);
    for (const { name } of manifest.disks) await rm(join(directory, chunkMapName(name)), { force: true });
  }

  return {
    describeStart,
    tidy,
    port: {
      create: (vmid, generation, disks, arrival) =>
        change(vmid, async () => {
          if ((await readManifest(root, vmid)) !== null)
            throw new AppError('conflict', `create guest ${vmid}: this node already holds a copy`);
          await create(vmid, generation, disks, arrival).catch(async (error: unknown) => {
            await rm(guestDirectory(root, vmid), { recursive: true, force: true }); // no manifest: it never was a copy
            throw error;
          });
        }),
      list: async () => (await Promise.all((await listGuests(root)).map(describe))).flat(),
      serveFrom(vmid, socketPath) {
        if (socketPath === null) sockets.delete(vmid);
        else sockets.set(vmid, socketPath);
      },
      complete: (vmid, generation, how) => change(vmid, () => complete(vmid, generation, how)),
    },
  };
}

/** The chain of a disk whose lowest layer is being filled: what it holds, and what it lacks, comes over NBD. */
function describeLive(chain: DiskChain, socketPath: string): DiskChain {
  const { disk, blockdev } = chain;
  const names = arrivingNodes(disk);
  const file = { ...(blockdev['file'] as Record<string, unknown>), 'node-name': names.ownFile };
  const backing = {
    driver: 'nbd',
    'node-name': names.content,
    server: { type: 'unix', path: socketPath },
    export: disk,
    'read-only': true,
    'reconnect-delay': liveLimits.reconnectSeconds,
  };
  return { ...chain, blockdev: { ...blockdev, file, backing }, pausesGuest: true };
}

/** A hint for people in the upper layer's header, as every layer that was made above another one has it. */
async function nameBelow(directory: string, layers: readonly Layer[], user: ImageUser): Promise<void> {
  const [below, above] = layers;
  if (below === undefined || above === undefined) return;
  const path = join(directory, above.file);
  await runCommand(['qemu-img', 'rebase', '-q', '-u', '-f', above.format, '-F', below.format, '-b', below.file, path], {
    what: `name the layer below ${path}`,
    user,
    deadlineMs: limits.imageCommandMs,
  });
}
