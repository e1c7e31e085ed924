import type { ZfsStorage } from '#adapters/zfs/zfs-storage.ts';
import { AppError } from '#base/error.ts';
import { describeZfsReplica } from '#core/storage/zfs/manifest.ts';
import type { IncomingPoint, ReplicationDriver } from '#programs/replication/driver.ts';
import type { Calls } from '#programs/replication/messages.ts';
import { createZfsSender, type ZfsSenderDeps } from '#programs/replication/zfs-sender.ts';

/** Copies as datasets of a pool: ZFS knows what changed, and keeps what was left behind. */
export function createZfsDriver(deps: ZfsSenderDeps & { node: string }): ReplicationDriver {
  const { storage } = deps;
  return {
    recover: () => storage.recover(),
    listHeld: async () => (await storage.listCopies()).map((copy) => copy.vmid),
    async describe(vmid) {
      const manifest = await storage.readManifest(vmid);
      return manifest && describeZfsReplica(manifest, deps.node);
    },
    async readState(vmid) {
      const { role, generation, point, disks } = await storage.readState(vmid);
      const sizes = (await storage.readManifest(vmid))?.disks ?? [];
      return { role, generation, point, disks: sizes, unmeasuredTail: null, zfs: disks };
    },
    begin: (request) => beginStreams(storage, request),
    thin: (vmid, keep) => storage.thin(vmid, keep),
    closeAll: () => storage.closeAll(),
    createSender: (guest) => createZfsSender(guest, deps),
    chunks: null,
  };
}

async function beginStreams(storage: ZfsStorage, request: Calls['begin']['ask'] & { peer: string }): Promise<IncomingPoint> {
  const { vmid, peer, point, streams } = request;
  if (streams === undefined || streams.disks.length !== request.disks.length) {
    throw new AppError('unsupported', 'this node keeps its copies in a pool; the sender has files');
  }
  const disks = request.disks.map(({ name, sizeBytes }, index) => {
    const offer = streams.disks[index];
    if (offer === undefined) throw new AppError('invalid', `streams: nothing is said of ${name}`);
    return { name, sizeBytes, ...offer };
  });
  const incoming = await storage.beginIncoming({ vmid, peer, point, disks, anchors: streams.anchors });
  return {
    vmid,
    point,
    received: (disk) => incoming.received(disk),
    seal: (about) => incoming.seal(about),
    abort: () => incoming.abort(),
  };
}
