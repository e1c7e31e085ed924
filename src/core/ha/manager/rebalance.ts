import type { Command, RebalanceSettings } from '#core/ha/manager/facts.ts';
import { guestFactsOf, guestIds, type RoundDraft } from '#core/ha/manager/draft.ts';
import {
  type Candidate,
  chooseBruteForce,
  chooseByTopsis,
  imbalanceOf,
  type NodeShare,
} from '#core/ha/manager/rebalance-choice.ts';
import { allowsNode } from '#core/ha/manager/selection.ts';
import { loadOn, sharesOf } from '#core/ha/manager/usage.ts';

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
  const { guest, to } = best.candidate;
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
      case 'start-requested':
      case 'active':
      case 'stop-requested':
      case 'inactive':
      case 'frozen':
      case 'failed':
        continue;
    }
  }
  return false;
}

function choose(
  draft: RoundDraft,
  settings: RebalanceSettings,
  shares: NodeShare[],
): { candidate: Candidate; imbalance: number } | null {
  const candidates = listCandidates(draft);
  switch (settings.method) {
    case 'bruteforce':
      return chooseBruteForce(shares, candidates);
    case 'topsis':
      return chooseByTopsis(shares, candidates);
  }
}

/** Every guest that leads its set, on every node its rules allow; in id order, then target order. */
function listCandidates(draft: RoundDraft): Candidate[] {
  const { nodes } = draft.usage;
  const indexOf = new Map(nodes.map((node, index) => [node.name, index]));
  const candidates: Candidate[] = [];
  for (const id of guestIds(draft)) {
    const set = [id, ...(draft.rules.together.get(id) ?? [])].filter((member) => isMovable(draft, member));
    const entry = draft.guests.get(id);
    // The first of a set speaks for it.
    if (entry === undefined || set[0] !== id || set.some((member) => member < id)) continue;
    const source = indexOf.get(entry.node);
    if (source === undefined) continue;
    for (const [target, node] of nodes.entries()) {
      if (target === source || !mayMoveTo(draft, set, node.name)) continue;
      candidates.push({ guest: id, source, target, to: node.name, ...weigh(draft, set, source, target) });
    }
  }
  return candidates;
}

function isMovable(draft: RoundDraft, id: string): boolean {
  return draft.guests.get(id)?.state.kind === 'active';
}

/** No rule is broken by it, and no better-ranked node would pull the guest back. */
function mayMoveTo(draft: RoundDraft, set: string[], node: string): boolean {
  return set.every((member) => {
    if (!allowsNode(draft, member, node)) return false;
    const ranks = draft.rules.ranks.get(member);
    if (ranks === undefined) return true;
    const highest = Math.max(...draft.usage.nodes.map(({ name }) => ranks.get(name) ?? -Infinity));
    return ranks.get(node) === highest;
  });
}

/** What leaves the source and what arrives at the target, as shares of each. */
function weigh(draft: RoundDraft, set: string[], source: number, target: number): { leaves: NodeShare; arrives: NodeShare } {
  const leaves = { cpu: 0, memory: 0 };
  const arrives = { cpu: 0, memory: 0 };
  for (const member of set) {
    const guest = guestFactsOf(draft, member);
    for (const [share, index] of [
      [leaves, source],
      [arrives, target],
    ] as const) {
      const node = draft.usage.nodes[index];
      if (node === undefined) continue;
      const moved = sharesOf({ ...node, ...loadOn(draft.usage.placement, node.size, guest) });
      share.cpu += moved.cpu;
      share.memory += moved.memory;
    }
  }
  return { leaves, arrives };
}
