import type { DirStorage } from '#adapters/dir/dir-storage.ts';
import { chunkBytes, countDiffering } from '#core/replica/chunks.ts';
import { hashExport } from '#programs/replication/chunk-jobs.ts';
import { fetchDigests, type ControlClient } from '#programs/replication/control-client.ts';

/**
 * Finds out how much of a left-behind tail on another node differs from the point that was promoted on this one, and tells that node.
 * Both sides hash their own image; only digests travel. Returns what was found in words; null when nothing is left to measure.
 */
export async function measureTail(
  order: { control: ControlClient; storage: DirStorage; vmid: number; generation: number; node: string },
  signal: AbortSignal,
): Promise<string | null> {
  const { control, storage, vmid, generation } = order;
  const { unmeasuredTail: tail } = await control.call('state', { vmid });
  const manifest = await storage.readManifest(vmid);
  if (tail === null || manifest === null || manifest.promotedFrom === null) return null;
  const { depths, pointAtMs: fromAtMs } = manifest.promotedFrom;
  const image = await storage.serveImage(vmid, (held) => held.promotedFrom?.depths ?? null, `promoted-${order.node}`);
  try {
    let sizeBytes = 0;
    const disks: { name: string; sizeBytes: number }[] = [];
    for (const disk of manifest.disks.filter((entry) => entry.name in depths)) {
      const diskBytes = disk.layers.at(-1)?.sizeBytes ?? 0;
      disks.push({ name: disk.name, sizeBytes: diskBytes });
      const ask = (firstChunk: number, count: number) =>
        control.call('hashTail', { vmid, name: tail.name, disk: disk.name, firstChunk, count });
      const theirs = await fetchDigests(diskBytes, ask, signal);
      const ours = await hashExport({ socketPath: image.nbdSocket, exportName: disk.name }, signal);
      sizeBytes += countDiffering(ours, theirs) * chunkBytes;
    }
    await control.call('measured', { vmid, generation, name: tail.name, sizeBytes, fromAtMs, disks });
    return `${tail.name} on ${order.node} holds ${sizeBytes} bytes that differ from the promoted point`;
  } finally {
    await image.close();
  }
}
