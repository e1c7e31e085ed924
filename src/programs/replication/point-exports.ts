import { join } from 'node:path';
import { isAppError } from '#base/error.ts';
import type { Qmp } from '#ports/qmp.ts';

/**
 * Points of a guest as QEMU's own NBD server shows them to this node. QEMU has one such server; it stays once it was started, for whoever stops it
 * would cut off everybody else.
 */
export const exportSocket = (guestFolder: string): string => join(guestFolder, 'point.nbd');

/** `bitmap`: of the node, told to readers. `canDiscard`: readers may say that they have read enough. */
export type PointExport = { id: string; node: string; name: string; bitmap?: string; canDiscard?: boolean };

/** Raises AppError conflict with QEMU's words. */
export async function openExport(
  qmp: Qmp,
  socketPath: string,
  { id, node, name, bitmap, canDiscard }: PointExport,
): Promise<void> {
  await qmp.execute('nbd-server-start', { addr: { type: 'unix', data: { path: socketPath } } }).catch((error: unknown) => {
    if (!isAppError(error, 'conflict')) throw error; // it runs already; if not, the export is refused
  });
  await qmp.execute('block-export-add', {
    type: 'nbd',
    id,
    'node-name': node,
    name,
    writable: canDiscard === true,
    ...(bitmap === undefined ? {} : { bitmaps: [bitmap] }),
  });
}

/** Ends the exports whose id begins with `prefix`, whoever reads them. */
export async function closeExports(qmp: Qmp, prefix: string): Promise<void> {
  const exports = await qmp.execute<{ id: string }[]>('query-block-exports');
  for (const { id } of exports.filter((entry) => entry.id.startsWith(prefix))) {
    const gone = qmp.waitForEvent((event) => event.event === 'BLOCK_EXPORT_DELETED' && event.data['id'] === id, {
      deadlineMs: 5_000,
    });
    gone.catch(() => {}); // told by the command below when it is refused
    await qmp.execute('block-export-del', { id, mode: 'hard' });
    await gone;
  }
}
