import { arrivingNodes } from '#core/storage/arrival.ts';
import type { ArrivingDisk } from '#ports/guest-storage.ts';
import type { Qmp } from '#ports/qmp.ts';
import { nodes } from '#programs/replication/point-names.ts';

/**
 * Lets a running guest read from the lowest layers, in which everything is by now, instead of what served them. Cut off anywhere it may be done again,
 * and does nothing more once it is done. Raises AppError.
 */
export async function readFromBases(qmp: Qmp, disks: readonly ArrivingDisk[]): Promise<void> {
  for (const disk of disks) await readFromBase(qmp, disk);
}

async function readFromBase(qmp: Qmp, { name, path }: ArrivingDisk): Promise<void> {
  const names = arrivingNodes(name);
  const found = await qmp.execute<{ 'node-name': string }[]>('query-named-block-nodes', { flat: true });
  const present = new Set(found.map((node) => node['node-name']));
  if (!present.has(names.content)) return;
  const file = { driver: 'file', filename: path, aio: 'threads', discard: 'unmap', 'read-only': true };
  if (!present.has(names.base))
    await qmp.execute('blockdev-add', { driver: 'raw', 'node-name': names.base, 'read-only': true, discard: 'unmap', file });
  // What is not named here falls back to QEMU's defaults: it is what the disk was opened with (adapters/dir/layer-files).
  const active = { driver: 'qcow2', 'node-name': nodes.active(name), 'read-only': false, discard: 'unmap' };
  await qmp.execute('blockdev-reopen', { options: [{ ...active, file: names.ownFile, backing: names.base }] });
}

/** A guest that was stopped because data of its disks did not come in time; not one whose disks here are full, or that was stopped on purpose. */
export async function waitsForData(qmp: Qmp): Promise<boolean> {
  const { status } = await qmp.execute<{ status: string }>('query-status');
  if (status !== 'io-error') return false;
  const devices = await qmp.execute<{ 'io-status'?: string }[]>('query-block');
  return (
    devices.some((device) => device['io-status'] === 'failed') && devices.every((device) => device['io-status'] !== 'nospace')
  );
}
