import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { AppError } from '#base/error.ts';
import { limits } from '#base/limits.ts';
import type { ReplicaPoint } from '#core/guest/guest-record.ts';
import { refuseSender } from '#core/replica/send-plan.ts';
import {
  createReplica,
  listFiles,
  newestPoint,
  sealPoint,
  type KeptPoint,
  type Layer,
  type Manifest,
} from '#core/storage/manifest.ts';
import type { ImageUser } from './command.ts';
import type { GuestLock } from '#base/guest-lock.ts';
import { createLayer, describeChain, sealLayer } from './layer-files.ts';
import { commitManifest, guestDirectory, makeGuestDirectory, readManifest, removeUnlisted } from './manifest-file.ts';
import { startStorageDaemon, type ConnectQmp, type StorageDaemon } from './storage-daemon.ts';

export type IncomingRequest = {
  vmid: number;
  /** The node that sends; it is part of the socket's name, so that only its own tunnels reach it. */
  peer: string;
  point: ReplicaPoint;
  disks: { name: string; sizeBytes: number }[];
};

/** A point on its way in. Its layers are in no manifest yet: whatever happens before `seal` returns leaves the copy as it was. */
export type Incoming = {
  readonly request: IncomingRequest;
  /** NBD server with one writable export for each disk, named like the disk. It shows the copy as it is, and takes the changes. */
  readonly nbdSocket: string;
  /** Flushes, fsyncs and commits by renaming the manifest: all disks or none. Raises AppError when anything of it failed; the point is gone then. */
  seal(about: Omit<KeptPoint, 'depths' | 'generation' | 'seq'>): Promise<Manifest>;
  /** Forgets the point. Harmless after seal. */
  abort(): Promise<void>;
};

export type IncomingDeps = {
  root: string;
  /** Folder for the sockets and pid files of storage daemons. */
  run: string;
  user: ImageUser;
  connectQmp: ConnectQmp;
  /** Sends an NBD flush to an export and returns when the server says that everything written is on disk. */
  flushExport: (socketPath: string, exportName: string) => Promise<void>;
  lock: GuestLock;
};

type Session = {
  request: IncomingRequest;
  daemon: StorageDaemon;
  manifest: Manifest | null;
  added: { disk: string; layer: Layer }[];
};

/** Where a peer's NBD server for a guest listens, under the storage's run folder. The relay forms the same path. */
export function incomingSocketName(peer: string): string {
  return `${peer}.nbd`;
}

/** Takes in points, at most one at a time for each guest. */
export function createIncomingDesk(deps: IncomingDeps) {
  const sessions = new Map<number, Session>();

  async function discard(vmid: number): Promise<void> {
    const session = sessions.get(vmid);
    if (session === undefined) return;
    sessions.delete(vmid);
    await session.daemon.kill();
    await removeLayers(deps, session);
  }

  async function open(request: IncomingRequest): Promise<Session> {
    await discard(request.vmid);
    const manifest = await readManifest(deps.root, request.vmid);
    const seen = manifest && { role: manifest.role, generation: manifest.generation, newest: newestPoint(manifest) };
    const refusal = refuseSender(request.point, seen);
    if (refusal !== null) throw new AppError('conflict', `take in guest ${request.vmid} from ${request.peer}: ${refusal}`);
    if (manifest !== null && request.point.generation > manifest.generation) {
      await commitManifest(deps.root, { ...manifest, generation: request.point.generation });
    }
    const directory = await makeGuestDirectory(deps.root, request.vmid);
    if (manifest !== null) await removeUnlisted(deps.root, request.vmid, manifest);
    const added = await createLayers(directory, request, manifest, deps.user);
    const daemon = await startStorageDaemon(join(deps.run, String(request.vmid)), incomingSocketName(request.peer), deps);
    const session = { request, daemon, manifest, added };
    try {
      await exportDisks(directory, session);
    } catch (error) {
      await daemon.kill();
      await removeLayers(deps, session);
      throw error;
    }
    sessions.set(request.vmid, session);
    return session;
  }

  async function seal(session: Session, about: Omit<KeptPoint, 'depths' | 'generation' | 'seq'>): Promise<Manifest> {
    const { vmid, peer, point } = session.request;
    if (sessions.get(vmid) !== session) {
      throw new AppError(
        'conflict',
        `seal ${point.generation}/${point.seq} of guest ${vmid} from ${peer}: it was closed meanwhile`,
      );
    }
    try {
      for (const { disk } of session.added) await deps.flushExport(session.daemon.nbdSocket, disk);
      await closeExports(session);
      await session.daemon.quit();
      const directory = guestDirectory(deps.root, vmid);
      const added = [];
      for (const { disk, layer } of session.added) added.push({ disk, layer: await sealLayer(directory, layer) });
      const base = session.manifest ?? createReplica(vmid, point.generation);
      const next = sealPoint({ ...base, generation: Math.max(base.generation, point.generation) }, added, { ...point, ...about });
      await commitManifest(deps.root, next);
      sessions.delete(vmid);
      return next;
    } catch (error) {
      await discard(vmid);
      throw error;
    }
  }

  return {
    /** Opens a new point; one that was on its way before is dropped. Raises AppError conflict for a stale sender and then changes nothing. */
    async begin(request: IncomingRequest): Promise<Incoming> {
      const session = await deps.lock.run(request.vmid, () => open(request));
      return {
        request,
        nbdSocket: session.daemon.nbdSocket,
        seal: (about) => deps.lock.run(request.vmid, () => seal(session, about)),
        abort: () =>
          deps.lock.run(request.vmid, async () => {
            if (sessions.get(request.vmid) === session) await discard(request.vmid);
          }),
      };
    },
    /** Drops what is on its way; for callers that hold the guest's lock. */
    discard,
    isOpen: (vmid: number) => sessions.has(vmid),
    async closeAll(): Promise<void> {
      for (const vmid of sessions.keys()) await deps.lock.run(vmid, () => discard(vmid));
    },
  };
}

async function createLayers(directory: string, request: IncomingRequest, manifest: Manifest | null, user: ImageUser) {
  const added: Session['added'] = [];
  for (const { name, sizeBytes } of request.disks) {
    const above = manifest?.disks.find((disk) => disk.name === name)?.layers.at(-1) ?? null;
    const format = above === null ? 'raw' : 'qcow2';
    const file = `${name}-g${request.point.generation}-${request.point.seq}.${format}`;
    added.push({ disk: name, layer: await createLayer(directory, user, { file, format, sizeBytes, above, ownWrites: false }) });
  }
  return added;
}

async function exportDisks(directory: string, session: Session): Promise<void> {
  for (const { disk, layer } of session.added) {
    const below = session.manifest?.disks.find((candidate) => candidate.name === disk)?.layers ?? [];
    const chain = describeChain(directory, [...below, layer], { nodeName: `in-${disk}`, writableLayers: 1 });
    await session.daemon.qmp.execute('blockdev-add', chain);
    await session.daemon.qmp.execute('block-export-add', {
      type: 'nbd',
      id: `in-${disk}`,
      'node-name': `in-${disk}`,
      name: disk,
      writable: true,
    });
  }
}

async function closeExports(session: Session): Promise<void> {
  const { qmp } = session.daemon;
  for (const { disk } of session.added) {
    const id = `in-${disk}`;
    const deleted = qmp.waitForEvent((event) => event.event === 'BLOCK_EXPORT_DELETED' && event.data['id'] === id, {
      deadlineMs: limits.qmpCallMs,
    });
    deleted.catch(() => {}); // the refusal of the command itself is told first
    await qmp.execute('block-export-del', { id, mode: 'hard' });
    await deleted;
    await qmp.execute('blockdev-del', { 'node-name': id });
  }
}

async function removeLayers(deps: IncomingDeps, session: Session): Promise<void> {
  const { vmid } = session.request;
  const committed = await readManifest(deps.root, vmid);
  if (committed === null) {
    await removeUnlisted(deps.root, vmid, null);
    return;
  }
  const wanted = listFiles(committed);
  for (const { layer } of session.added) {
    if (!wanted.has(layer.file)) await rm(join(guestDirectory(deps.root, vmid), layer.file), { force: true });
  }
}
