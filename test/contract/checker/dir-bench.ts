import { execFileSync } from 'node:child_process';
import { chmodSync } from 'node:fs';
import { connectNbd } from '#adapters/nbd/nbd-client.ts';
import { currentDepths, type Manifest } from '#core/storage/manifest.ts';
import { aboutPoint, fillIncoming, makeWorkDirectory, openStorage, receivePoint } from './dir-rig.ts';
import { disks, piece, type StorageBench, vmid } from './storage-suite.ts';

/** The rules' bench on files. */
export async function makeDirBench(name: string): Promise<StorageBench & { manifest(): Promise<Manifest | null> }> {
  const work = makeWorkDirectory(name);
  chmodSync(work.path, 0o711);
  const logged: string[] = [];
  let storage = await openStorage(work.path, logged);
  return {
    path: work.path,
    storage,
    logged,
    async write(value, offset) {
      const manifest = await storage.readManifest(vmid);
      const [chain] = await storage.openPrimary(vmid, manifest?.generation ?? 0);
      execFileSync('qemu-io', ['-c', `write -P ${value} ${offset} 64k`, `json:${JSON.stringify(chain?.blockdev)}`]);
    },
    async readByte(offset) {
      const served = await storage.serveImage(vmid, currentDepths, 'look');
      const nbd = await connectNbd(served.nbdSocket, 'disk0', { deadlineMs: 2_000 });
      const byte = (await nbd.read(offset, 1))[0] ?? -1;
      nbd.close();
      await served.close();
      return byte;
    },
    manifest: () => storage.readManifest(vmid),
    receive: (point, value, offset) => receivePoint(storage, vmid, point, { disks, content: piece(value), offset }),
    async begin(point, value, offset) {
      const incoming = await storage.beginIncoming({ vmid, peer: 'n1', point, disks });
      await fillIncoming(incoming, piece(value), offset);
      return { seal: async () => void (await incoming.seal(aboutPoint(point.seq * 1000))) };
    },
    takePoint: async () => {}, // what the disks hold is the point
    async restart() {
      storage = await openStorage(work.path, logged);
      return storage;
    },
    async [Symbol.asyncDispose]() {
      await storage.closeAll();
      work[Symbol.dispose]();
    },
  };
}
