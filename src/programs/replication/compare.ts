import { rm } from 'node:fs/promises';
import { planChunks } from '#core/replica/chunks.ts';
import type { Qmp } from '#ports/qmp.ts';
import { copyRuns, hashExport } from '#programs/replication/chunk-jobs.ts';
import { nodes, type FleeceDisk } from '#programs/replication/fleece.ts';
import type { OpenDisk } from '#programs/replication/push.ts';

/** Chunks written at once: one request of 1 MiB. */
const longestRun = 16;

/**
 * Reads the point from QEMU over a local NBD server, compares it chunk by chunk with the target's digests and writes what differs.
 * Returns the bytes of data that travelled. Raises AppError unavailable; the NBD server in QEMU is gone afterwards either way.
 */
export async function pushDifferences(
  qmp: Qmp,
  order: { disks: FleeceDisk[]; socketPath: string; openDisk: OpenDisk; targetDigests: Map<string, Uint8Array> },
  signal: AbortSignal,
): Promise<number> {
  await rm(order.socketPath, { force: true });
  await qmp.execute('nbd-server-start', { addr: { type: 'unix', data: { path: order.socketPath } } });
  try {
    let bytes = 0;
    for (const { name } of order.disks) {
      await qmp.execute('block-export-add', { type: 'nbd', id: `cmp-${name}`, 'node-name': nodes.point(name), name });
      const from = { socketPath: order.socketPath, exportName: name };
      const source = await hashExport(from, signal);
      const runs = planChunks(source, order.targetDigests.get(name) ?? new Uint8Array(), longestRun);
      if (runs.length === 0) continue;
      const tunnel = await order.openDisk(name);
      try {
        bytes += await copyRuns(from, { socketPath: tunnel.path, exportName: name }, runs, signal);
      } finally {
        await tunnel.close();
      }
    }
    return bytes;
  } finally {
    await stopServer(qmp, order.socketPath);
  }
}

/** Stops QEMU's NBD server with its exports; harmless when none runs. */
export async function stopServer(qmp: Qmp, socketPath: string): Promise<void> {
  const exports = await qmp.execute<{ id: string; 'shutting-down': boolean }[]>('query-block-exports');
  const ours = exports.filter((entry) => entry.id.startsWith('cmp-'));
  for (const { id } of ours) {
    const gone = qmp.waitForEvent((event) => event.event === 'BLOCK_EXPORT_DELETED' && event.data['id'] === id, {
      deadlineMs: 5_000,
    });
    gone.catch(() => {}); // told by the command below when it is refused
    await qmp.execute('block-export-del', { id, mode: 'hard' });
    await gone;
  }
  await qmp.execute('nbd-server-stop').catch(() => {}); // refused when it does not run
  await rm(socketPath, { force: true });
}
