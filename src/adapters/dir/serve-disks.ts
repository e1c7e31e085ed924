import type { DiskChain } from '#ports/hypervisor.ts';
import type { ImageUser } from './command.ts';
import { startStorageDaemon, type ConnectQmp } from './storage-daemon.ts';

/** An image that is served read-only over NBD, one export a disk. */
export type ServedImage = { nbdSocket: string; close(): Promise<void> };

/** Serves disks read-only from a storage daemon of their own in the folder `directory`. */
export async function serveDisks(
  directory: string,
  chains: DiskChain[],
  deps: { user: ImageUser; connectQmp: ConnectQmp },
): Promise<ServedImage> {
  const daemon = await startStorageDaemon(directory, 'image.nbd', deps);
  try {
    for (const { disk, nodeName, blockdev } of chains) {
      await daemon.qmp.execute('blockdev-add', blockdev);
      await daemon.qmp.execute('block-export-add', { type: 'nbd', id: nodeName, 'node-name': nodeName, name: disk });
    }
    return { nbdSocket: daemon.nbdSocket, close: () => daemon.kill() };
  } catch (error) {
    await daemon.kill();
    throw error;
  }
}
