import type { NewContent } from '#ports/guest-storage.ts';
import type { DiskChain } from '#ports/hypervisor.ts';
import type { ImageUser } from './command.ts';
import { startStorageDaemon, type ConnectQmp } from './storage-daemon.ts';

/** An image that is served read-only over NBD, one export a disk. */
export type ServedImage = { nbdSocket: string; close(): Promise<void> };

/** Disks that are served for writing. */
export type WritableImage = {
  nbdSocket: string;
  /** What was written to the disk is durable when it returns. */
  flush(disk: string): Promise<void>;
  /** In order: everything is closed when it returns. */
  quit(): Promise<void>;
  kill(): Promise<void>;
};

type Deps = { user: ImageUser; connectQmp: ConnectQmp };

/** Serves disks read-only from a storage daemon of their own in the folder `directory`. */
export async function serveDisks(directory: string, chains: DiskChain[], deps: Deps): Promise<ServedImage> {
  const daemon = await startServing(directory, chains, false, deps);
  return { nbdSocket: daemon.nbdSocket, close: () => daemon.kill() };
}

/** Serves disks for writing, as `serveDisks`. */
export async function serveWritable(
  directory: string,
  chains: DiskChain[],
  deps: Deps & { flushExport: (socketPath: string, exportName: string) => Promise<void> },
): Promise<WritableImage> {
  const daemon = await startServing(directory, chains, true, deps);
  const { nbdSocket } = daemon;
  return {
    nbdSocket,
    flush: (disk) => deps.flushExport(nbdSocket, disk),
    quit: () => daemon.quit(),
    kill: () => daemon.kill(),
  };
}

/** Has all disks of `content` written, durably, and ends the server. Returns how many bytes came out different. */
export async function writeContent(image: WritableImage, { disks, write }: Pick<NewContent, 'disks' | 'write'>): Promise<number> {
  try {
    let changedBytes = 0;
    for (const { name } of disks) {
      changedBytes += await write(name, { socketPath: image.nbdSocket, exportName: name });
      await image.flush(name);
    }
    await image.quit();
    return changedBytes;
  } catch (error) {
    await image.kill();
    throw error;
  }
}

async function startServing(directory: string, chains: DiskChain[], writable: boolean, deps: Deps) {
  const daemon = await startStorageDaemon(directory, 'image.nbd', deps);
  try {
    for (const { disk, nodeName, blockdev } of chains) {
      await daemon.qmp.execute('blockdev-add', blockdev);
      const about = { type: 'nbd', id: nodeName, 'node-name': nodeName, name: disk, writable };
      await daemon.qmp.execute('block-export-add', about);
    }
    return daemon;
  } catch (error) {
    await daemon.kill();
    throw error;
  }
}
