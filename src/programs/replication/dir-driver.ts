import type { Incoming } from '#adapters/dir/incoming.ts';
import { AppError } from '#base/error.ts';
import { describeReplica, describeTail, newestPoint, type Manifest } from '#core/storage/manifest.ts';
import { hashExport } from '#programs/replication/chunk-jobs.ts';
import type { IncomingPoint, ReplicationDriver } from '#programs/replication/driver.ts';
import type { TargetState } from '#programs/replication/messages.ts';
import { createGuestSender, type SenderDeps } from '#programs/replication/sender.ts';

/** Copies as files: QEMU tells what changed, and digests of chunks where it does not know. */
export function createDirDriver(deps: SenderDeps & { node: string }): ReplicationDriver {
  const { storage } = deps;
  const exports = new WeakMap<IncomingPoint, string>();

  function describeIncoming(incoming: Incoming): IncomingPoint {
    const { vmid, point } = incoming.request;
    const described: IncomingPoint = {
      vmid,
      point,
      received: () => Promise.reject(new AppError('unsupported', 'this node takes no streams')),
      seal: async (about) => void (await incoming.seal(about)),
      abort: () => incoming.abort(),
    };
    exports.set(described, incoming.nbdSocket);
    return described;
  }

  return {
    recover: () => storage.recover(),
    listHeld: async () => (await storage.listCopies()).map((copy) => copy.vmid),
    async describe(vmid) {
      const manifest = await storage.readManifest(vmid);
      return manifest && describeReplica(manifest, deps.node);
    },
    readState: async (vmid) => describeState(await storage.readManifest(vmid)),
    async begin({ streams, ...request }) {
      if (streams !== undefined) throw new AppError('unsupported', 'this node keeps its copies in files; the sender has a pool');
      return describeIncoming(await storage.beginIncoming(request));
    },
    thin: (vmid, keep) => storage.thin(vmid, keep),
    closeAll: () => storage.closeAll(),
    createSender: (guest) => createGuestSender(guest, deps),
    chunks: {
      hashIncoming: (incoming, disk, signal) => hashExport({ socketPath: exports.get(incoming) ?? '', exportName: disk }, signal),
      async openTail(vmid, name, label) {
        const choose = (held: Manifest) => held.leftBehind.find((tail) => tail.name === name)?.depths ?? null;
        const image = await storage.serveImage(vmid, choose, label);
        return {
          hash: (disk, signal) => hashExport({ socketPath: image.nbdSocket, exportName: disk }, signal),
          close: () => image.close(),
        };
      },
      noteTailSize: async (vmid, name, measured) => void (await storage.noteTailSize(vmid, name, measured)),
    },
  };
}

function describeState(manifest: Manifest | null): TargetState {
  if (manifest === null) return { role: 'absent', generation: 0, point: null, disks: [], unmeasuredTail: null };
  const newest = newestPoint(manifest);
  const tail = manifest.leftBehind.find((candidate) => candidate.sizeBytes === null);
  const names = Object.keys(newest?.depths ?? {});
  return {
    role: manifest.role,
    generation: manifest.generation,
    point: newest && { generation: newest.generation, seq: newest.seq },
    disks: manifest.disks
      .filter((disk) => names.includes(disk.name))
      .map((disk) => ({ name: disk.name, sizeBytes: disk.layers.at(-1)?.sizeBytes ?? 0 })),
    unmeasuredTail: tail === undefined ? null : describeTail(tail),
  };
}
