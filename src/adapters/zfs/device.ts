import { chmod, chown, mkdir, rmdir, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { AppError, isAppError } from '#base/error.ts';
import { limits } from '#base/limits.ts';
import { mountDataset, setDiskProperties, unmountDataset } from '#core/storage/zfs/commands.ts';
import type { Dataset } from '#core/storage/zfs/listing.ts';
import { restProperties } from './align.ts';
import { runZfs, runZfsWhenFree } from './zfs-command.ts';

export type ImageUser = { uid: number; gid: number } | null;

/** The name of a disk's file in a dataset that is a file system. */
const fileName = 'disk.raw';

export type OpenedDisk = { path: string; kind: 'volume' | 'file' };

/**
 * Makes a disk visible on this node, for its guest or for reading, and returns its path. `folder`: where file systems are mounted. Device
 * numbers change with renames, so a volume is always found by its dataset's name.
 */
export async function openDisk(
  dataset: Dataset,
  folder: string,
  options: { user: ImageUser; isWritable: boolean },
): Promise<OpenedDisk> {
  const readonly = { readonly: options.isWritable ? ('off' as const) : ('on' as const) };
  if (dataset.type === 'volume') {
    await runZfs(setDiskProperties(dataset.name, [readonly, { volmode: 'dev' }]));
    const path = `/dev/zvol/${dataset.name}`;
    await waitForDevice(path, dataset.name);
    await giveTo(path, options.user);
    return { path, kind: 'volume' };
  }
  const mountpoint = mountpointOf(dataset, folder);
  await mkdir(mountpoint, { recursive: true, mode: 0o711 });
  await runZfs(setDiskProperties(dataset.name, [readonly, { canmount: 'noauto' }, { mountpoint }]));
  await runZfs(mountDataset(dataset.name)).catch((error: unknown) => {
    // Mounted already: an earlier start of the same guest did it.
    if (!(error instanceof AppError) || !/already mounted/.test(error.message)) throw error;
  });
  const path = join(mountpoint, fileName);
  if (options.isWritable) {
    await chmod(mountpoint, 0o711);
    await giveTo(path, options.user).catch((error: unknown) => {
      if (!(error instanceof Error && 'code' in error && error.code === 'ENOENT')) throw error; // it is being made
    });
  }
  return { path, kind: 'file' };
}

/** Takes a disk away from this node again: no device, no mount, not to be written to. */
export async function closeDisk(dataset: Pick<Dataset, 'name' | 'type'>, folder: string): Promise<void> {
  if (dataset.type === 'filesystem') {
    await runZfsWhenFree(unmountDataset(dataset.name)).catch((error: unknown) => {
      if (!isAppError(error) || !/not currently mounted/.test(error.message)) throw error;
    });
    await rmdir(mountpointOf(dataset, folder)).catch(() => {}); // nothing but an empty folder goes
  }
  await runZfsWhenFree(setDiskProperties(dataset.name, restProperties(dataset.type)));
}

function mountpointOf({ name }: Pick<Dataset, 'name'>, folder: string): string {
  return join(folder, name.split('/').slice(-2).join('-'));
}

/** What QEMU is told of a disk. Volumes and, from OpenZFS 2.3 on, files are written past the page cache: what is acknowledged is in ZFS. */
export function describeZfsDisk(disk: OpenedDisk, nodeName: string, sizeBytes: number): Record<string, unknown> {
  const isVolume = disk.kind === 'volume';
  const file = {
    driver: isVolume ? 'host_device' : 'file',
    filename: disk.path,
    aio: 'threads',
    discard: 'unmap',
    cache: { direct: isVolume },
  };
  // A volume is as long as whole blocks of it; the guest sees what it was given.
  return { driver: 'raw', 'node-name': nodeName, size: sizeBytes, discard: 'unmap', cache: { direct: isVolume }, file };
}

async function waitForDevice(path: string, dataset: string): Promise<void> {
  const deadlineMs = performance.now() + limits.zfsDeviceMs;
  for (;;) {
    const found = await stat(path).catch(() => null);
    if (found?.isBlockDevice() === true) return;
    if (performance.now() > deadlineMs) {
      throw new AppError(
        'timeout',
        `open ${dataset}: ${path} did not appear within ${limits.zfsDeviceMs} ms; does udev run with the rules of ZFS?`,
      );
    }
    await delay(50);
  }
}

async function giveTo(path: string, user: ImageUser): Promise<void> {
  if (user !== null) await chown(path, user.uid, user.gid);
}
