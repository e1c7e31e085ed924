import { findDroppedRules } from '#core/ha/manager/rule-checks.ts';
import type { Rule } from '#core/ha/manager/rules.ts';
import { mergeTogether } from '#core/ha/manager/together-sets.ts';

/**
 * What the placement rules mean once checked and combined.
 *
 *   rules ──> those that contradict each other are dropped ──> overlapping together-rules merge into sets
 *         ──> a member's node rule binds its set ──> a member's rivals are rivals of its set, one hop only
 */
export type CompiledRules = {
  /** Ranks of the nodes that a guest's rule allows. Guests without a rule are not in the map. */
  ranks: ReadonlyMap<string, ReadonlyMap<string, number>>;
  /** Other members of the guest's set, in id order. */
  together: ReadonlyMap<string, readonly string[]>;
  apart: ReadonlyMap<string, readonly string[]>;
  /** Rules that are not enforced because they contradict others, with the reason. */
  dropped: { rule: string; because: string }[];
};

/** Checks and combines the rules for a cluster of these nodes. Cost grows with the rules, so callers keep the result until something changes. */
export function compileRules(rules: readonly Rule[], nodes: readonly string[]): CompiledRules {
  const enabled = rules.filter((rule) => rule.enabled);
  const dropped = findDroppedRules(enabled, nodes);
  const offenders = new Set(dropped.map((entry) => entry.rule));
  const kept = enabled.filter((rule) => !offenders.has(rule.id));
  const sets = mergeTogether(kept.filter((rule) => rule.kind === 'keep-together'));
  const setOf = new Map<string, readonly string[]>();
  for (const { members } of sets) for (const member of members) setOf.set(member, members);
  return {
    ranks: compileRanks(kept, setOf, nodes),
    together: new Map([...setOf].map(([guest, members]) => [guest, members.filter((member) => member !== guest)])),
    apart: compileApart(kept, setOf),
    dropped,
  };
}

function compileRanks(
  rules: readonly Rule[],
  setOf: ReadonlyMap<string, readonly string[]>,
  nodes: readonly string[],
): Map<string, ReadonlyMap<string, number>> {
  const ranks = new Map<string, ReadonlyMap<string, number>>();
  for (const rule of rules) {
    if (rule.kind !== 'prefer-nodes') continue;
    const ofNode = new Map<string, number>(rule.hard ? [] : nodes.map((node) => [node, -1]));
    for (const { node, rank } of rule.nodes) ofNode.set(node, rank);
    for (const guest of rule.guests) for (const member of setOf.get(guest) ?? [guest]) ranks.set(member, ofNode);
  }
  return ranks;
}

function compileApart(rules: readonly Rule[], setOf: ReadonlyMap<string, readonly string[]>): Map<string, readonly string[]> {
  const direct = new Map<string, Set<string>>();
  for (const rule of rules) {
    if (rule.kind !== 'keep-apart') continue;
    for (const one of rule.guests) for (const other of rule.guests) if (one !== other) add(direct, one, other);
  }
  const rivals = new Map<string, Set<string>>();
  for (const [guest, others] of direct) {
    for (const member of setOf.get(guest) ?? [guest]) {
      for (const other of others) {
        add(rivals, member, other);
        add(rivals, other, member);
      }
    }
  }
  return new Map([...rivals].map(([guest, others]) => [guest, [...others].sort()]));
}

function add(map: Map<string, Set<string>>, key: string, value: string): void {
  const set = map.get(key);
  if (set === undefined) map.set(key, new Set([value]));
  else set.add(value);
}
