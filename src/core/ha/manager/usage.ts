import type { GuestFacts, ManagerSettings, NodeFacts, Size } from '#core/ha/manager/facts.ts';
import { type GuestEntry, takesRoom, targetOf } from '#core/ha/manager/memory.ts';

/**
 * What the nodes that are up carry: every guest that is there or on its way counts, on its node and on its target alike. Kept
 * up to date as entries change within a round, so that each choice sees those before it.
 *
 * Sums are kept in whole numbers (millionths of a core, bytes): adding and taking away leaves no rounding behind, so nodes that
 * carry the same are equal, and ties fall to the name.
 */
export type NodeUsage = { name: string; size: Size; guests: number; microCores: number; memoryBytes: number };

export type Usage = {
  placement: ManagerSettings['placement'];
  /** In name order. */
  nodes: NodeUsage[];
  byName: ReadonlyMap<string, NodeUsage>;
};

/** Nodes that guests may be placed on, still carrying nothing. */
export function emptyUsage(nodes: readonly NodeFacts[], placement: ManagerSettings['placement']): Usage {
  const list = nodes
    .map(({ name, size }) => ({ name, size, guests: 0, microCores: 0, memoryBytes: 0 }))
    .sort((a, b) => compareNames(a.name, b.name));
  return { placement, nodes: list, byName: new Map(list.map((node) => [node.name, node])) };
}

/** Byte order, the same on every machine. */
export function compareNames(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0;
}

/** Adds (`sign` 1) or takes away (`sign` -1) what the guest's entry puts on its node and its target. */
export function countEntry(usage: Usage, guest: GuestFacts, entry: GuestEntry, sign: 1 | -1): void {
  if (!takesRoom(entry.state)) return;
  // Balanced before its start, it never runs where it is.
  if (entry.state.kind !== 'start-requested-elsewhere') addTo(usage, entry.node, guest, entry, sign);
  const target = targetOf(entry.state);
  if (target !== null && target !== entry.node) addTo(usage, target, guest, entry, sign);
}

function addTo(usage: Usage, name: string, guest: GuestFacts, entry: GuestEntry, sign: 1 | -1): void {
  const node = usage.byName.get(name);
  if (node === undefined) return;
  const load = loadOn(usage.placement, node.size, guest, entry);
  node.guests += sign;
  node.microCores += sign * load.microCores;
  node.memoryBytes += sign * load.memoryBytes;
}

/** What the guest would put on a node of this size. */
export function loadOn(
  placement: ManagerSettings['placement'],
  nodeSize: Size,
  guest: GuestFacts,
  entry: GuestEntry,
): { microCores: number; memoryBytes: number } {
  const isMeasured = placement === 'by-load' && guest.measured !== null && isSeenRunning(entry);
  const size = isMeasured && guest.measured !== null ? guest.measured : guest.claimed;
  const cores = !isMeasured && size.cores === 0 ? nodeSize.cores : size.cores;
  return { microCores: Math.round(cores * 1e6), memoryBytes: size.memoryBytes };
}

function isSeenRunning(entry: GuestEntry): boolean {
  switch (entry.state.kind) {
    case 'active':
      return entry.state.seenRunning;
    case 'moving-live':
    case 'stop-requested':
    case 'frozen':
      return true;
    case 'start-requested':
    case 'start-requested-elsewhere':
    case 'inactive':
    case 'moving-cold':
    case 'awaiting-fence':
    case 'awaiting-recovery':
    case 'failed':
      return false;
  }
}

/** Share of the node's cores and of its memory that is used; may exceed 1. */
export function sharesOf(node: NodeUsage): { cpu: number; memory: number } {
  return { cpu: node.microCores / (node.size.cores * 1e6), memory: node.memoryBytes / node.size.memoryBytes };
}
