import { assert } from '#base/assert.ts';
import type { Command, RebalanceSettings } from '#core/ha/manager/facts.ts';
import { entryOf, guestFactsOf, isRefused, restsAfterMove, type RoundDraft } from '#core/ha/manager/draft.ts';
import {
  chooseBruteForce,
  chooseByTopsis,
  imbalanceOf,
  type Move,
  type Mover,
  type NodeShare,
} from '#core/ha/manager/rebalance-choice.ts';
import { freeBytesOn } from '#core/ha/manager/room.ts';
import { findRivalNodes, listAvoided } from '#core/ha/manager/selection.ts';
import { loadOn, type NodeUsage, sharesOf } from '#core/ha/manager/usage.ts';

/**
 * Evens out the nodes while the cluster is otherwise quiet: at most one move (of a guest with all that stay together with it) after
 * the imbalance was too high for `holdRounds` rounds, and only if it gains enough.
 */
export function planRebalance(draft: RoundDraft): Extract<Command, { kind: 'move' }> | null {
  const { autoRebalance: settings, placement } = draft.facts.settings;
  if (settings === null || placement === 'count' || isAnythingMoving(draft)) return null;
  const shares = draft.usage.nodes.map((node) => sharesOf(node));
  const before = imbalanceOf(shares);
  if (before <= settings.threshold) {
    draft.imbalancedRounds = 0;
    return null;
  }
  draft.imbalancedRounds += 1;
  if (draft.imbalancedRounds < settings.holdRounds) return null;
  draft.imbalancedRounds = 0;
  const best = choose(draft, settings, shares);
  if (best === null || (before - best.imbalance) / before < settings.minRelativeGain) return null;
  const { guest } = best;
  const to = draft.usage.nodes[best.target]?.name;
  assert(to !== undefined, `a rebalance chose node number ${best.target} of ${shares.length}`);
  const because = `imbalance ${before.toFixed(2)} would become ${best.imbalance.toFixed(2)}`;
  draft.decisions.push({ kind: 'rebalance', guest, to, imbalanceBefore: before, imbalanceAfter: best.imbalance, because });
  return { kind: 'move', guest, live: guestFactsOf(draft, guest).movesLive, to };
}

function isAnythingMoving(draft: RoundDraft): boolean {
  for (const { state, command } of draft.guests.values()) {
    if (command !== null) return true;
    switch (state.kind) {
      case 'start-requested-elsewhere':
      case 'moving-live':
      case 'moving-cold':
      case 'awaiting-fence':
      case 'awaiting-recovery':
        return true;
      case 'active':
        // What has just been recovered is let run first.
        if (!state.seenRunning) return true;
        continue;
      case 'start-requested':
      case 'stop-requested':
      case 'inactive':
      case 'frozen':
      case 'failed':
        continue;
    }
  }
  return false;
}

function choose(draft: RoundDraft, settings: RebalanceSettings, shares: NodeShare[]): Move | null {
  const movers = listMovers(draft);
  switch (settings.method) {
    case 'bruteforce':
      return chooseBruteForce(shares, movers);
    case 'topsis':
      return chooseByTopsis(shares, movers);
  }
}

/** Every running guest that speaks for its set, with the nodes that the rules of the whole set allow; in id order. */
function listMovers(draft: RoundDraft): Mover[] {
  const { nodes } = draft.usage;
  const indexOf = new Map(nodes.map((node, index) => [node.name, index]));
  const othersOf = nodes.map((_, source) => [...nodes.keys()].filter((target) => target !== source));
  const sizes = groupSizes(draft);
  const freeBytes = draft.usage.nodes.map((node) => freeBytesOn(draft, node));
  const movers: Mover[] = [];
  for (const id of draft.ids) {
    const entry = draft.guests.get(id);
    const source = entry === undefined || !isMovable(draft, id) ? undefined : indexOf.get(entry.node);
    if (source === undefined) continue;
    const set = [id, ...(draft.rules.together.get(id) ?? []).filter((member) => isMovable(draft, member))];
    // Nobody is pulled off a node that is refused for the moment.
    if (set.some((member) => isRefused(draft, draft.guests.get(member)?.node ?? ''))) continue;
    if (set.some((member) => restsAfterMove(draft, entryOf(draft, member)))) continue;
    // The first of a set speaks for it.
    if (set.some((member) => member < id)) continue;
    const others = othersOf[source] ?? [];
    const isUnruled = set.length === 1 && !draft.rules.ranks.has(id) && !draft.rules.apart.has(id);
    const targets = listRoomy(draft, set, isUnruled ? others : listAllowed(draft, set, others), freeBytes);
    const unfit = set.flatMap((member) => [
      ...(guestFactsOf(draft, member).unfitNodes ?? []),
      ...listAvoided(entryOf(draft, member)),
    ]);
    const fit = unfit.length === 0 ? targets : targets.filter((target) => !unfit.includes(nodes[target]?.name ?? ''));
    const shares = sizes.samples.map((node) => shareOf(draft, set, node));
    const arrives = sizes.groupOf.map((group) => shares[group] ?? { cpu: 0, memory: 0 });
    movers.push({ guest: id, source, targets: fit, leaves: arrives[source] ?? { cpu: 0, memory: 0 }, arrives });
  }
  return movers;
}

/** Nodes of the same size, told by the first of each group: a guest's share is worked out once for all of them. */
function groupSizes(draft: RoundDraft): { samples: NodeUsage[]; groupOf: number[] } {
  const samples: NodeUsage[] = [];
  const groupOf = draft.usage.nodes.map((node) => {
    const group = samples.findIndex(({ size }) => size.cores === node.size.cores && size.memoryBytes === node.size.memoryBytes);
    return group === -1 ? samples.push(node) - 1 : group;
  });
  return { samples, groupOf };
}

function isMovable(draft: RoundDraft, id: string): boolean {
  return draft.guests.get(id)?.state.kind === 'active';
}

/** Nodes to which no rule of the set forbids to move it, and from which no better-ranked node would pull it back. */
function listAllowed(draft: RoundDraft, set: string[], others: readonly number[]): readonly number[] {
  const { nodes } = draft.usage;
  return set.reduce<readonly number[]>((targets, member) => {
    const rivals = findRivalNodes(draft, member);
    const ranks = draft.rules.ranks.get(member);
    const highest = ranks === undefined ? 0 : Math.max(...nodes.map(({ name }) => ranks.get(name) ?? -Infinity));
    return targets.filter((target) => {
      const name = nodes[target]?.name ?? '';
      return !rivals.has(name) && (ranks === undefined || ranks.get(name) === highest);
    });
  }, others);
}

/** Nodes on which the set's memory fits. */
function listRoomy(
  draft: RoundDraft,
  set: string[],
  targets: readonly number[],
  freeBytes: readonly number[],
): readonly number[] {
  const claimedBytes = set.reduce((sum, member) => sum + guestFactsOf(draft, member).claimed.memoryBytes, 0);
  const fits = (target: number): boolean => claimedBytes <= (freeBytes[target] ?? 0);
  return targets.every(fits) ? targets : targets.filter(fits);
}

/** What the set takes of a node of this size. */
function shareOf(draft: RoundDraft, set: string[], node: NodeUsage): NodeShare {
  const sum = { microCores: 0, memoryBytes: 0 };
  for (const member of set) {
    const load = loadOn(draft.usage.placement, node.size, guestFactsOf(draft, member));
    sum.microCores += load.microCores;
    sum.memoryBytes += load.memoryBytes;
  }
  return sharesOf({ ...node, ...sum });
}
