import { chmod, mkdir, rm } from 'node:fs/promises';
import { createServer, type Server } from 'node:net';
import { dirname, join } from 'node:path';
import { AppError } from '#base/error.ts';
import { limits } from '#base/limits.ts';
import type { ReplicaPoint } from '#core/guest/guest-record.ts';
import { formatPoint } from '#core/replica/send-plan.ts';
import { receivePoint } from '#core/storage/zfs/commands.ts';
import { diskDataset, snapshotName } from '#core/storage/zfs/names.ts';
import type { ZfsPoint } from '#core/storage/zfs/manifest.ts';
import { openReceive, type ZfsStream } from './zfs-command.ts';
import type { Writable } from 'node:stream';

/** A disk of a point on its way in. */
export type IncomingDisk = {
  name: string;
  sizeBytes: number;
  kind: 'volume' | 'file';
  /** GUID of what the stream starts from; null: it carries everything. */
  base: string | null;
  /** GUID of the point's snapshot. */
  to: string;
  /** The stream goes on where another was cut. */
  isRest: boolean;
};

export type ZfsIncomingRequest = {
  vmid: number;
  /** The node that sends; it is part of the sockets' names, so that only its own tunnels reach them. */
  peer: string;
  point: ReplicaPoint;
  disks: IncomingDisk[];
  /** Points that other nodes hold. */
  anchors: ReplicaPoint[];
};

export type AboutPoint = Omit<ZfsPoint, 'guids' | 'generation' | 'seq'>;

/** A point on its way in. Whatever happens before `seal` returns leaves the copy at the point before. */
export type ZfsIncoming = {
  readonly request: ZfsIncomingRequest;
  /** Whether a disk's stream has been taken in whole; false: not yet, ask again. Raises what ZFS refused it with. */
  received(disk: string): Promise<boolean>;
  /** Commits the point: all disks or none. */
  seal(about: AboutPoint): Promise<void>;
  /** Forgets the point; what was cut stays and can be gone on with. Harmless after seal. */
  abort(): Promise<void>;
};

/** Where a disk's stream from a peer is taken in, under the storage's run folder. The relay forms the same path. */
export function incomingStreamName(vmid: number, peer: string, disk: string): string {
  return join(String(vmid), `${peer}.${disk}.stream`);
}

type DiskStream = { server: Server; receive: ZfsStream<Writable> | null; done: Promise<void> };

/** The sockets and processes of one point. */
export type StreamDesk = {
  waitFor(disk: string): Promise<boolean>;
  /** Ends everything; returns when no process is left. */
  close(): Promise<void>;
};

/** Listens once for each disk and hands what comes to `zfs receive`. */
export async function openStreams(
  options: { root: string; run: string },
  request: ZfsIncomingRequest,
  hasDataset: (disk: string) => boolean,
): Promise<StreamDesk> {
  const streams = new Map<string, DiskStream>();
  const close = async (): Promise<void> => {
    for (const stream of streams.values()) {
      stream.server.close();
      stream.receive?.kill();
    }
    for (const stream of streams.values()) await stream.receive?.done.catch(() => {});
  };
  try {
    for (const disk of request.disks) {
      const path = join(options.run, incomingStreamName(request.vmid, request.peer, disk.name));
      streams.set(disk.name, await listenOnce(path, options.root, request.vmid, disk, hasDataset(disk.name)));
    }
  } catch (error) {
    await close();
    throw error;
  }
  return {
    async waitFor(disk) {
      const stream = streams.get(disk);
      if (stream === undefined) throw new AppError('invalid', `disk: ${disk} is not part of the point on its way`);
      let timer: NodeJS.Timeout | undefined;
      const late = new Promise<boolean>((resolve) => (timer = setTimeout(() => resolve(false), limits.zfsPatienceMs)));
      return await Promise.race([stream.done.then(() => true), late]).finally(() => clearTimeout(timer));
    },
    close,
  };
}

async function listenOnce(
  path: string,
  root: string,
  vmid: number,
  disk: IncomingDisk,
  hasDataset: boolean,
): Promise<DiskStream> {
  await mkdir(dirname(path), { recursive: true, mode: 0o711 });
  await rm(path, { force: true });
  const ended = Promise.withResolvers<void>();
  ended.promise.catch(() => {}); // told to whoever asks
  const isFirst = !disk.isRest && disk.base === null && !hasDataset;
  const server = createServer((socket) => {
    server.close();
    void rm(path, { force: true });
    const receive = openReceive(receivePoint(diskDataset(root, vmid, disk.name), { isFirst, kind: disk.kind }));
    stream.receive = receive;
    socket.on('error', () => {}); // the stream is cut then, and ZFS says so
    socket.pipe(receive.pipe);
    socket.on('close', () => receive.pipe.end()); // a cut does not end a pipe by itself
    // What ZFS does not take must not fill the sender's pipe for ever.
    receive.done.finally(() => socket.destroy()).catch(() => {});
    receive.done.then(ended.resolve, ended.reject);
  });
  const stream: DiskStream = { server, receive: null, done: ended.promise };
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen(path, () => resolve());
  });
  await chmod(path, 0o600);
  return stream;
}

/** Raises AppError invalid unless every disk has the snapshot that was announced. */
export function checkArrived(request: ZfsIncomingRequest, guidOf: (disk: string, snapshot: string) => string | null): void {
  const name = snapshotName(request.point);
  for (const disk of request.disks) {
    const guid = guidOf(disk.name, name);
    if (guid === disk.to) continue;
    const found = guid === null ? 'has not arrived' : `is another snapshot (${guid}, not ${disk.to})`;
    throw new AppError('invalid', `seal ${formatPoint(request.point)} of guest ${request.vmid}: ${disk.name} ${found}`);
  }
}
