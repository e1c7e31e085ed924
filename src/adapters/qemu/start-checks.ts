import { accessSync } from 'node:fs';
import { AppError } from '#base/error.ts';
import { assetPath } from '#core/guest/qemu-command-line.ts';
import type { StartGuest } from '#ports/hypervisor.ts';

/** Raises AppError missing, naming the kernel, initrd or disk whose file is not there. QEMU would say it too, but later and less plainly. */
export function checkFilesExist(order: StartGuest, dataDir: string): void {
  const { boot } = order.config;
  if (boot !== null) {
    checkFile(order.vmid, `kernel ${boot.kernel}`, assetPath(dataDir, boot.kernel));
    if (boot.initrd !== null) checkFile(order.vmid, `initrd ${boot.initrd}`, assetPath(dataDir, boot.initrd));
  }
  for (const { disk, blockdev } of order.disks) {
    for (const path of filesOf(blockdev)) checkFile(order.vmid, `disk ${disk}`, path);
  }
}

function checkFile(vmid: number, what: string, path: string): void {
  try {
    accessSync(path);
  } catch (cause) {
    throw new AppError('missing', `start guest ${vmid}: its ${what} is not on this node: ${path}`, { cause });
  }
}

/** Every file that a chain of block nodes opens, at whatever depth. */
function filesOf(node: Record<string, unknown>): string[] {
  const own = typeof node['filename'] === 'string' && node['filename'].startsWith('/') ? [node['filename']] : [];
  const below = Object.values(node).flatMap((value) => (isRecord(value) ? filesOf(value) : []));
  return [...own, ...below];
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
