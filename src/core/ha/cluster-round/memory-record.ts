import type { GuestRecord } from '#core/guest/guest-record.ts';
import type { HaMemory } from '#core/ha/records.ts';
import { emptyMemory, type ManagerMemory } from '#core/ha/manager/memory.ts';

/** The manager's memory from its two places: the guests' entries from their records, the rest from its own. */
export function openMemory(record: HaMemory | null, guests: readonly { record: GuestRecord }[]): ManagerMemory {
  const entries = guests.flatMap(({ record: { vmid, ha } }) => (ha === undefined ? [] : [[String(vmid), ha] as const]));
  // Numbers of orders in the guests' records count too: a lost memory must not give one out again.
  const nextOrderId = Math.max(record?.nextOrderId ?? 1, ...entries.map(([, entry]) => entry.orderId + 1));
  if (record === null) return { ...emptyMemory(), guests: new Map(entries), nextOrderId };
  return {
    nodes: new Map(Object.entries(record.nodes)),
    guests: new Map(entries),
    drains: new Set(record.drains),
    disarm: record.disarm,
    unguarded: new Set(record.unguarded),
    imbalancedRounds: record.imbalancedRounds,
    nextOrderId,
    flaps: new Map(Object.entries(record.flaps)),
  };
}

/** The record of everything but the guests' entries; equal memories give equal text. */
export function closeMemory(memory: ManagerMemory): HaMemory {
  return {
    nodes: Object.fromEntries([...memory.nodes].sort(byName)),
    drains: [...memory.drains].sort(),
    disarm: memory.disarm,
    unguarded: [...memory.unguarded].sort(),
    imbalancedRounds: memory.imbalancedRounds,
    nextOrderId: memory.nextOrderId,
    flaps: Object.fromEntries(
      [...memory.flaps].sort(byName).map(([node, flap]) => [node, { ...flap, claimedAtMs: [...flap.claimedAtMs] }]),
    ),
  };
}

function byName([a]: [string, unknown], [b]: [string, unknown]): number {
  return a < b ? -1 : 1;
}
