import type { GuestFacts, ManagerSettings, NodeFacts, Size } from '#core/ha/manager/facts.ts';
import { type GuestEntry, takesRoom, targetOf } from '#core/ha/manager/memory.ts';

/**
 * What the nodes that are up carry: every guest that is there or on its way counts, on its node and on its target alike. Kept
 * up to date as entries change within a round, so that each choice sees those before it.
 *
 * Sums are kept in whole numbers (millionths of a core, bytes): adding and taking away leaves no rounding behind, so nodes that
 * carry the same are equal, and ties fall to the name.
 */
export type NodeUsage = {
  name: string;
  size: Size;
  guests: number;
  microCores: number;
  memoryBytes: number;
  /** Memory that the guests claim, whatever they use. */
  claimedBytes: number;
};

export type Usage = {
  placement: ManagerSettings['placement'];
  /** Claims of memory must fit on a node. */
  mustFit: boolean;
  /**
   * Where no node of the highest rank will do, those of a lower one count; a guest keeps away from where its start failed, and stays where a
   * rival is leaving. The recorded manager does neither, and moves guests to and fro.
   */
  settles: boolean;
  /** In name order. */
  nodes: NodeUsage[];
  byName: ReadonlyMap<string, NodeUsage>;
  /** What each node rule (null: none) leaves of these nodes: the same for all its guests, so it is worked out once. */
  ranked: Map<ReadonlyMap<string, number> | null, RankedNodes>;
};

/** `preferred`: those of the highest rank present, in name order. */
export type RankedNodes = { allowed: ReadonlySet<string>; preferred: readonly string[] };

/** Nodes that guests may be placed on, still carrying nothing. */
export function emptyUsage(
  nodes: readonly NodeFacts[],
  settings: Pick<ManagerSettings, 'placement' | 'memoryMustFit' | 'refusesForbiddenMoves'>,
): Usage {
  const list = nodes
    .map(({ name, size }) => ({ name, size, guests: 0, microCores: 0, memoryBytes: 0, claimedBytes: 0 }))
    .sort((a, b) => compareNames(a.name, b.name));
  const byName = new Map(list.map((node) => [node.name, node]));
  const { placement, memoryMustFit: mustFit, refusesForbiddenMoves: settles } = settings;
  return { placement, mustFit, settles, nodes: list, byName, ranked: new Map() };
}

/** Byte order, the same on every machine. */
export function compareNames(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0;
}

/** Adds (`sign` 1) or takes away (`sign` -1) what the guest's entry puts on its node and its target. */
export function countEntry(usage: Usage, guest: GuestFacts, entry: GuestEntry, sign: 1 | -1): void {
  if (!takesRoom(entry.state)) return;
  // Balanced before its start, it never runs where it is.
  if (entry.state.kind !== 'start-requested-elsewhere') addTo(usage, entry.node, guest, sign);
  const target = targetOf(entry.state);
  if (target !== null && target !== entry.node) addTo(usage, target, guest, sign);
}

/** True when the entry counts on the node. */
export function countsOn(entry: GuestEntry, node: string): boolean {
  if (!takesRoom(entry.state)) return false;
  return targetOf(entry.state) === node || (entry.node === node && entry.state.kind !== 'start-requested-elsewhere');
}

function addTo(usage: Usage, name: string, guest: GuestFacts, sign: 1 | -1): void {
  const node = usage.byName.get(name);
  if (node === undefined) return;
  const load = loadOn(usage.placement, node.size, guest);
  node.guests += sign;
  node.microCores += sign * load.microCores;
  node.memoryBytes += sign * load.memoryBytes;
  node.claimedBytes += sign * guest.claimed.memoryBytes;
}

/** What the guest would put on a node of this size: what it was measured to use, else what it claims. */
export function loadOn(
  placement: ManagerSettings['placement'],
  nodeSize: Size,
  guest: GuestFacts,
): { microCores: number; memoryBytes: number } {
  const measured = placement === 'by-load' ? guest.measured : null;
  if (measured !== null) return { microCores: Math.round(measured.cores * 1e6), memoryBytes: measured.memoryBytes };
  const cores = guest.claimed.cores === 0 ? nodeSize.cores : guest.claimed.cores;
  return { microCores: Math.round(cores * 1e6), memoryBytes: guest.claimed.memoryBytes };
}

/** Share of the node's cores and of its memory that is used; may exceed 1. */
export function sharesOf(node: NodeUsage): { cpu: number; memory: number } {
  return { cpu: node.microCores / (node.size.cores * 1e6), memory: node.memoryBytes / node.size.memoryBytes };
}
