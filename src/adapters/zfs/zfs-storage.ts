import { mkdir } from 'node:fs/promises';
import { formatErrorChain } from '#base/error.ts';
import { createGuestLock, type GuestLock } from '#base/guest-lock.ts';
import type { ReplicationJob } from '#core/replica/records.ts';
import { listTails, newestZfsPoint, type ZfsManifest } from '#core/storage/zfs/manifest.ts';
import type { ZfsTargetState } from '#core/storage/zfs/send-plan.ts';
import type { GuestCopy, GuestStorage } from '#ports/guest-storage.ts';
import { createCopies, type ZfsStorageOptions } from './copies.ts';
import type { ZfsIncoming, ZfsIncomingRequest } from './incoming.ts';
import { createGuest, demote, noteHandedOver, openForReading, openPrimary, promote, removeGuest } from './roles.ts';
import { createReplacement, finishReplacements, finishSwap } from './replacement.ts';
import { createSource, type ZfsSource } from './source.ts';
import { exportImage, finishReleases, releaseTail, requireTail } from './tails.ts';
import { createTarget } from './target.ts';

/** What replication needs beyond the port. */
export interface ZfsStorage extends GuestStorage {
  /** Ends what an earlier process of ours left. */
  recover(): Promise<void>;
  readManifest(vmid: number): Promise<ZfsManifest | null>;
  /** What a sender is told of the copy here. */
  readState(vmid: number): Promise<ZfsTargetState>;
  beginIncoming(request: ZfsIncomingRequest): Promise<ZfsIncoming>;
  /** Drops points past the retention rule, and their snapshots where nothing else needs them. */
  thin(vmid: number, keep: ReplicationJob['keep']): Promise<void>;
  /** The first of `count` sequence numbers that no point of this primary's generation has used. */
  reserveSeq(vmid: number, generation: number, count: number): Promise<number>;
  /** Writes the newest whole point as raw files into `directory`; returns their paths in the order of the disks. */
  exportPoint(vmid: number, directory: string): Promise<string[]>;
  readonly source: ZfsSource;
  closeAll(): Promise<void>;
}

/** Disks as datasets of a pool: one dataset a disk, points as snapshots, what is held of a guest in properties of its dataset. */
export function createZfsStorage(options: ZfsStorageOptions): ZfsStorage {
  const guestLock = createGuestLock();
  const copies = createCopies(options);
  const deps = { options, copies };
  /** Whatever is done with a guest, disks that count have their places first. */
  const lock: GuestLock = {
    run: (vmid, job) =>
      guestLock.run(vmid, async () => {
        await finishSwap(deps, vmid);
        return await job();
      }),
  };
  const target = createTarget({ ...deps, lock });
  const source = createSource(deps);

  /** Takes the guest's lock for a change; a point on its way in ends first. */
  async function change<T>(vmid: number, job: () => Promise<T>): Promise<T> {
    return await lock.run(vmid, async () => {
      await target.discard(vmid);
      return await job();
    });
  }

  return {
    source: {
      ...source,
      take: (vmid, point, about) => lock.run(vmid, () => source.take(vmid, point, about)),
      holdCut: (vmid, point, node) => lock.run(vmid, () => source.holdCut(vmid, point, node)),
      confirm: (vmid, ...rest) => lock.run(vmid, () => source.confirm(vmid, ...rest)),
    },
    arrivals: null,
    listCopies: async () => (await copies.list()).map(describeCopy),
    create: (vmid, generation, disks) => change(vmid, () => createGuest(deps, vmid, generation, disks)),
    openPrimary: (vmid, generation) => lock.run(vmid, () => openPrimary(deps, vmid, generation)),
    async serve(vmid, generation) {
      const chains = await lock.run(vmid, () => openForReading(deps, vmid, generation));
      const { disks } = await copies.requirePrimary(vmid, generation, 'read the disks of');
      const served = await options.serveDisks(`${vmid}-serve`, chains);
      return { ...served, disks: disks.map(({ name, sizeBytes }) => ({ name, sizeBytes })) };
    },
    promote: (vmid, generation, atLeast) =>
      change(vmid, async () => {
        const { generation: from, seq, pointAtMs } = await promote(deps, vmid, generation, atLeast);
        return { point: { generation: from, seq }, pointAtMs };
      }),
    noteHandedOver: (vmid, generation, last) => lock.run(vmid, () => noteHandedOver(deps, vmid, generation, last)),
    demote: (vmid, identicalTo) => change(vmid, () => demote(deps, vmid, identicalTo ?? null)),
    replace: createReplacement({ ...deps, lock }),
    releaseLeftBehind: (vmid, name) =>
      lock.run(vmid, async () => {
        requireTail(await copies.require(vmid, 'release a tail of'), name);
        await releaseTail(deps, vmid, name);
      }),
    exportLeftBehind: (vmid, name, directory) =>
      lock.run(vmid, async () => {
        requireTail(await copies.require(vmid, 'export a tail of'), name);
        return await exportImage(deps, vmid, name, directory);
      }),
    exportPoint: (vmid, directory) => lock.run(vmid, () => exportImage(deps, vmid, null, directory)),
    remove: (vmid) => change(vmid, () => removeGuest(deps, vmid)),

    async recover() {
      await mkdir(options.run, { recursive: true, mode: 0o711 });
      await mkdir(options.mounts, { recursive: true, mode: 0o711 });
      await options.endServers();
      try {
        await finishReleases(deps);
        await finishReplacements({ ...deps, lock });
      } catch (error) {
        // The node serves without its pool: it says so, and finds it when it is imported.
        options.log(`the storage is not usable yet: ${formatErrorChain(error)}`);
      }
    },
    readManifest: (vmid) => copies.read(vmid),
    readState: (vmid) => lock.run(vmid, () => target.readState(vmid)),
    beginIncoming: (request) => target.begin(request),
    thin: (vmid, keep) => target.thin(vmid, keep),
    reserveSeq: (vmid, generation, count) =>
      lock.run(vmid, async () => {
        const manifest = await copies.requirePrimary(vmid, generation, 'number points of');
        await copies.commit({ ...manifest, reservedSeq: manifest.reservedSeq + count });
        return manifest.reservedSeq + 1;
      }),
    closeAll: () => target.closeAll(),
  };
}

/** What a node holds of a guest, in the port's words. */
function describeCopy(manifest: ZfsManifest): GuestCopy {
  const isPrimary = manifest.role === 'primary';
  const newest = isPrimary ? manifest.promotedFrom : newestZfsPoint(manifest);
  const { handedOver } = manifest;
  return {
    vmid: manifest.vmid,
    role: manifest.role,
    generation: isPrimary ? manifest.generation : (newest?.generation ?? 0),
    point: newest && { generation: newest.generation, seq: newest.seq },
    pointAtMs: newest?.pointAtMs ?? null,
    leftBehind: listTails(manifest),
    handedOver: handedOver === undefined ? null : { point: handedOver.point, copiedTo: handedOver.copiedTo },
  };
}
