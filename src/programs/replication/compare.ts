import { planChunks } from '#core/replica/chunks.ts';
import type { Qmp } from '#ports/qmp.ts';
import { copyRuns, hashExport } from '#programs/replication/chunk-jobs.ts';
import type { FleeceDisk } from '#programs/replication/fleece.ts';
import { closeExports, openExport } from '#programs/replication/point-exports.ts';
import { replicaNodes } from '#programs/replication/point-names.ts';
import type { OpenDisk } from '#programs/replication/push.ts';

/** Exports of a compare. */
export const comparePrefix = 'cmp-';

/** Chunks written at once: one request of 1 MiB. */
const longestRun = 16;

/**
 * Reads the point from QEMU over a local NBD server, compares it chunk by chunk with the target's digests and writes what differs.
 * Returns the bytes of data that travelled. Raises AppError unavailable; what it exported is gone afterwards either way.
 */
export async function pushDifferences(
  qmp: Qmp,
  order: { disks: FleeceDisk[]; socketPath: string; openDisk: OpenDisk; targetDigests: Map<string, Uint8Array> },
  signal: AbortSignal,
): Promise<number> {
  try {
    let bytes = 0;
    for (const { name } of order.disks) {
      await openExport(qmp, order.socketPath, { id: `${comparePrefix}${name}`, node: replicaNodes.point(name), name });
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
    await closeExports(qmp, comparePrefix);
  }
}
