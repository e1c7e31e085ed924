import { mkdir, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { AppError, formatErrorChain } from '#base/error.ts';
import { limits } from '#base/limits.ts';
import type { ReplicationJob } from '#core/replica/records.ts';
import {
  tailName,
  demoteToPoint,
  currentDepths,
  demoteToReplica,
  layersAt,
  noteHandedOver,
  noteTailSize,
  openForWriting,
  releaseTail,
  toPromotable,
} from '#core/storage/manifest.ts';
import type { Depths, DiskLayers, Manifest } from '#core/storage/manifest.ts';
import { refuseArriving } from '#core/storage/arrival.ts';
import type { GuestCopy, GuestStorage } from '#ports/guest-storage.ts';
import type { DiskChain } from '#ports/hypervisor.ts';
import { runCommand, type ImageUser } from './command.ts';
import { createGuestLock } from '#base/guest-lock.ts';
import { createArrivals } from './arrivals.ts';
import { createIncomingDesk, type Incoming, type IncomingRequest } from './incoming.ts';
import { describeChain, sealTops } from './layer-files.ts';
import { describeCopy } from './held-copy.ts';
import { commitManifest, guestDirectory, listGuests, readManifest, removeUnlisted } from './manifest-file.ts';
import { thinOnce } from './merge.ts';
import { createGuest } from './new-guest.ts';
import { promoteReplica, readLastWriteAtMs } from './promotion.ts';
import { createReplacement } from './replacement.ts';
import { serveDisks, type ServedImage } from './serve-disks.ts';
import { endLeftoverDaemons, type ConnectQmp } from './storage-daemon.ts';

export type DirStorageOptions = {
  /** Folder of the guests' folders. */
  root: string;
  /** Folder for sockets and pid files of storage daemons, empty at each boot. */
  run: string;
  /** The user that QEMU and every image tool run as; null: the current one. */
  user: ImageUser;
  connectQmp: ConnectQmp;
  flushExport: (socketPath: string, exportName: string) => Promise<void>;
  log: (text: string) => void;
};

/** Picks an image out of what a node holds; null: it is not there. */
export type ChooseImage = (manifest: Manifest) => Depths | null;

/** What replication needs beyond the port. */
export interface DirStorage extends GuestStorage {
  /** Ends what an earlier process of ours left: storage daemons, files that no manifest lists. */
  recover(): Promise<void>;
  readManifest(vmid: number): Promise<Manifest | null>;
  beginIncoming(request: IncomingRequest): Promise<Incoming>;
  /** Drops points past the retention rule and merges layers, until nothing is left to do. */
  thin(vmid: number, keep: ReplicationJob['keep']): Promise<void>;
  /** The first of `count` sequence numbers that no point of this primary's generation has used. */
  reserveSeq(vmid: number, generation: number, count: number): Promise<number>;
  /** Serves the image that `choose` picks read-only, for hashing. Raises AppError missing when it picks none. */
  serveImage(vmid: number, choose: ChooseImage, label: string): Promise<ServedImage>;
  /** Writes the image that `choose` picks as raw files into `directory`; returns their paths in the order of the disks. */
  exportImage(vmid: number, choose: ChooseImage, directory: string): Promise<string[]>;
  /** Drops the tail when it was found equal in all its disks. */
  noteTailSize(vmid: number, name: string, measured: Parameters<typeof noteTailSize>[2]): Promise<Manifest>;
  closeAll(): Promise<void>;
}

/** Disks as files: one folder a guest, one raw file and overlays a disk, one manifest that decides. */
export function createDirStorage(options: DirStorageOptions): DirStorage {
  const { root, user } = options;
  const lock = createGuestLock();
  const incoming = createIncomingDesk({ ...options, lock });
  const merging = new Map<number, AbortController>();
  const readers = createReaderCount();
  const arrivals = createArrivals({ root, user, change, requirePrimary });

  async function readCopy(vmid: number): Promise<GuestCopy[]> {
    try {
      const manifest = await readManifest(root, vmid);
      return manifest === null ? [] : [describeCopy(manifest)];
    } catch (error) {
      options.log(`the copy of guest ${vmid} is unreadable: ${formatErrorChain(error)}`); // one bad copy must not hide the others
      return [];
    }
  }

  async function require(vmid: number, what: string): Promise<Manifest> {
    const manifest = await readManifest(root, vmid);
    if (manifest === null) {
      throw new AppError('missing', `${what} guest ${vmid}: this node holds no copy (looked for ${guestDirectory(root, vmid)})`);
    }
    return manifest;
  }

  async function requirePrimary(vmid: number, generation: number, what: string): Promise<Manifest> {
    const manifest = await require(vmid, what);
    if (manifest.role === 'primary' && manifest.generation === generation) return manifest;
    const held = `a ${manifest.role} copy of generation ${manifest.generation}`;
    throw new AppError('conflict', `${what} guest ${vmid}: generation ${generation} was ordered, this node holds ${held}`);
  }

  /** The same, of disks that are all here. */
  async function requireWhole(vmid: number, generation: number, what: string): Promise<Manifest> {
    const manifest = await requirePrimary(vmid, generation, what);
    refuseArriving(manifest, what);
    return manifest;
  }

  /** Takes the guest's lock for a change that must not wait behind a merge or a point on its way in. */
  async function change<T>(vmid: number, job: () => Promise<T>): Promise<T> {
    merging.get(vmid)?.abort();
    return await lock.run(vmid, async () => {
      await incoming.discard(vmid);
      return await job();
    });
  }

  /** No merge touches the layers until `done`. */
  async function openForReading(vmid: number, choose: ChooseImage): Promise<{ disks: DiskLayers[]; done: () => void }> {
    return await lock.run(vmid, async () => {
      const manifest = await require(vmid, 'read');
      const depths = choose(manifest);
      if (depths === null) throw new AppError('missing', `read guest ${vmid}: this node does not hold that image`);
      return { disks: layersAt(manifest, depths), done: readers.add(vmid) };
    });
  }

  async function exportImage(vmid: number, choose: ChooseImage, directory: string): Promise<string[]> {
    const { disks, done } = await openForReading(vmid, choose);
    try {
      return await exportDisks({ root, user }, vmid, disks, directory);
    } finally {
      done();
    }
  }

  async function serveImage(vmid: number, choose: ChooseImage, label: string): Promise<ServedImage> {
    const { disks, done } = await openForReading(vmid, choose);
    try {
      const chains = disks.map(({ name, layers }) => {
        const nodeName = `out-${name}`;
        return {
          disk: name,
          nodeName,
          blockdev: describeChain(guestDirectory(root, vmid), layers, { nodeName, writableLayers: 0 }),
        };
      });
      const served = await serveDisks(join(options.run, `${vmid}-${label}`), chains, options);
      return { ...served, close: () => served.close().finally(done) };
    } catch (error) {
      done();
      throw error;
    }
  }

  async function edit(vmid: number, what: string, editManifest: (manifest: Manifest) => Manifest): Promise<Manifest> {
    return await lock.run(vmid, async () => {
      const next = editManifest(await require(vmid, what));
      await commitManifest(root, next);
      return next;
    });
  }

  async function thinStep(vmid: number, keep: ReplicationJob['keep']): Promise<boolean> {
    const controller = new AbortController();
    return await lock.run(vmid, async () => {
      // A storage daemon has the layers open, or somebody reads them; the next seal comes back here.
      if (incoming.isOpen(vmid) || readers.has(vmid)) return false;
      merging.set(vmid, controller);
      try {
        return await thinOnce({ root, user }, vmid, keep, controller.signal);
      } catch (error) {
        if (controller.signal.aborted) return false; // given up for a change that could not wait; a merge may be repeated
        throw error;
      } finally {
        merging.delete(vmid);
      }
    });
  }

  return {
    arrivals: arrivals.port,
    async listCopies() {
      return (await Promise.all((await listGuests(root)).map(readCopy))).flat();
    },
    create: (vmid, generation, disks) =>
      change(vmid, async () => {
        if ((await readManifest(root, vmid)) !== null)
          throw new AppError('conflict', `create guest ${vmid}: this node already holds a copy`);
        await createGuest({ root, user }, vmid, generation, disks).catch(async (error: unknown) => {
          await rm(guestDirectory(root, vmid), { recursive: true, force: true }); // no manifest: it never was a copy
          throw error;
        });
      }),
    openPrimary: (vmid, generation) =>
      lock.run(vmid, async () => {
        const manifest = await arrivals.tidy(await requirePrimary(vmid, generation, 'start'));
        const disks = arrivals.describeStart(manifest, await describeDisks(root, manifest));
        const opened = openForWriting(manifest);
        if (opened !== manifest) await commitManifest(root, opened);
        return disks;
      }),
    async serve(vmid, generation) {
      const { disks } = await requireWhole(vmid, generation, 'read the disks of');
      const image = await serveImage(vmid, currentDepths, 'serve');
      return { ...image, disks: disks.map(({ name, layers }) => ({ name, sizeBytes: layers.at(-1)?.sizeBytes ?? 0 })) };
    },
    promote: (vmid, generation, atLeast) =>
      change(vmid, async () => {
        const manifest = toPromotable(await require(vmid, 'promote'), atLeast);
        const { seq, pointAtMs, ...point } = await promoteReplica({ root, user }, manifest, generation, atLeast);
        return { point: { generation: point.generation, seq }, pointAtMs };
      }),
    noteHandedOver: (vmid, generation, last) =>
      lock.run(vmid, async () => {
        const manifest = await requireWhole(vmid, generation, 'hand over');
        await commitManifest(root, noteHandedOver(await sealTops(guestDirectory(root, vmid), manifest), last));
      }),
    demote: (vmid, identicalTo) =>
      change(vmid, async () => {
        const manifest = await require(vmid, 'demote');
        if (manifest.role === 'replica') return;
        const lastWriteAtMs = await readLastWriteAtMs(root, manifest);
        const atPoint = demoteToPoint(manifest, identicalTo ?? null, lastWriteAtMs);
        const next = atPoint ?? demoteToReplica(manifest, lastWriteAtMs);
        await commitManifest(root, next);
        const name = tailName(manifest.generation);
        const tail = next.leftBehind.some((entry) => entry.name === name) ? `, and kept as ${name}` : '';
        options.log(`guest ${vmid}: the primary copy is now a replica${atPoint === null ? '' : ' at its last point'}${tail}`);
      }),
    replace: createReplacement({ ...options, lock, requirePrimary: requireWhole, hold: (vmid) => readers.add(vmid) }),
    async releaseLeftBehind(vmid, name) {
      await edit(vmid, 'release a tail of', (manifest) => {
        requireTail(manifest, name);
        return releaseTail(manifest, name);
      });
    },
    exportLeftBehind: (vmid, name, directory) => exportImage(vmid, (manifest) => requireTail(manifest, name).depths, directory),
    remove: (vmid) => change(vmid, () => rm(guestDirectory(root, vmid), { recursive: true, force: true })),

    async recover() {
      await mkdir(root, { recursive: true, mode: 0o711 });
      await mkdir(options.run, { recursive: true, mode: 0o711 });
      const ended = await endLeftoverDaemons(options.run);
      if (ended > 0) options.log(`ended ${ended} leftover storage daemon(s)`);
      for (const vmid of await listGuests(root)) {
        try {
          const removed = await lock.run(vmid, async () => await removeUnlisted(root, vmid, await readManifest(root, vmid)));
          if (removed.length > 0) options.log(`guest ${vmid}: removed what no manifest lists: ${removed.join(', ')}`);
        } catch (error) {
          options.log(`the copy of guest ${vmid} is unreadable and left as it is: ${formatErrorChain(error)}`);
        }
      }
    },
    readManifest: (vmid) => readManifest(root, vmid),
    beginIncoming: (request) => incoming.begin(request),
    async thin(vmid, keep) {
      while (await thinStep(vmid, keep));
    },
    async reserveSeq(vmid, generation, count) {
      const next = await edit(vmid, 'number points of', (manifest) => {
        if (manifest.role === 'primary' && manifest.generation === generation) {
          return { ...manifest, reservedSeq: manifest.reservedSeq + count };
        }
        throw new AppError(
          'conflict',
          `number points of guest ${vmid}: this is not its primary copy of generation ${generation}`,
        );
      });
      return next.reservedSeq - count + 1;
    },
    serveImage,
    exportImage,
    noteTailSize: (vmid, name, measured) => edit(vmid, 'measure a tail of', (manifest) => noteTailSize(manifest, name, measured)),
    closeAll: () => incoming.closeAll(),
  };
}

function createReaderCount() {
  const counts = new Map<number, number>();
  return {
    has: (vmid: number) => (counts.get(vmid) ?? 0) > 0,
    add(vmid: number): () => void {
      counts.set(vmid, (counts.get(vmid) ?? 0) + 1);
      let over = false;
      return () => {
        if (!over) counts.set(vmid, (counts.get(vmid) ?? 1) - 1);
        over = true;
      };
    },
  };
}

function requireTail(manifest: Manifest, name: string) {
  const tail = manifest.leftBehind.find((candidate) => candidate.name === name);
  if (tail === undefined) {
    const held = manifest.leftBehind.map((candidate) => candidate.name).join(', ') || 'none';
    throw new AppError('missing', `guest ${manifest.vmid} has no left-behind tail ${name} on this node (there are: ${held})`);
  }
  return tail;
}

async function describeDisks(root: string, manifest: Manifest): Promise<DiskChain[]> {
  const directory = guestDirectory(root, manifest.vmid);
  for (const disk of manifest.disks) {
    for (const { file } of disk.layers) {
      await stat(join(directory, file)).catch((cause: unknown) => {
        throw new AppError('missing', `start guest ${manifest.vmid}: ${disk.name} needs ${join(directory, file)}`, { cause });
      });
    }
  }
  return manifest.disks.map((disk) => {
    const nodeName = `act-${disk.name}`;
    return { disk: disk.name, nodeName, blockdev: describeChain(directory, disk.layers, { nodeName, writableLayers: 1 }) };
  });
}

async function exportDisks(
  deps: { root: string; user: ImageUser },
  vmid: number,
  disks: DiskLayers[],
  directory: string,
): Promise<string[]> {
  await mkdir(directory, { recursive: true });
  const written: string[] = [];
  for (const { name, layers } of disks) {
    const chain = describeChain(guestDirectory(deps.root, vmid), layers, { writableLayers: 0 });
    const file = join(directory, `${name}.raw`);
    await runCommand(['qemu-img', 'convert', '-q', '-U', '-O', 'raw', `json:${JSON.stringify(chain)}`, file], {
      what: `export ${name} of guest ${vmid}`,
      user: null,
      deadlineMs: limits.imageCopyMs,
      nice: true,
    });
    written.push(file);
  }
  return written;
}
