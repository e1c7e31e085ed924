import type { ReplicationJob } from './records.ts';

const minuteMs = 60_000;
const hourMs = 3_600_000;

/**
 * Which points may go. Kept are the newest `recent`, the newest point of each of the last `minutes` minutes that have one, and the
 * newest of each of the last `hours` hours. `points`: oldest first. The newest point is never in the answer, whatever `keep` says.
 */
export function planRetention<P extends { pointAtMs: number }>(points: readonly P[], keep: ReplicationJob['keep']): P[] {
  const newestFirst = [...points].toReversed();
  const kept = new Set<P>(newestFirst.slice(0, Math.max(1, keep.recent)));
  for (const point of newestPerSlot(newestFirst, minuteMs, keep.minutes)) kept.add(point);
  for (const point of newestPerSlot(newestFirst, hourMs, keep.hours)) kept.add(point);
  return points.filter((point) => !kept.has(point));
}

function newestPerSlot<P extends { pointAtMs: number }>(newestFirst: readonly P[], slotMs: number, slots: number): P[] {
  const bySlot = new Map<number, P>();
  for (const point of newestFirst) {
    const slot = Math.floor(point.pointAtMs / slotMs);
    if (!bySlot.has(slot)) bySlot.set(slot, point);
    if (bySlot.size > slots) {
      bySlot.delete(slot);
      break;
    }
  }
  return [...bySlot.values()];
}
