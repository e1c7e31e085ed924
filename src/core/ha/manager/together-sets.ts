import type { TogetherRule } from '#core/ha/manager/rules.ts';

/** Guests that stay on one node: the members of rules that overlap, and those rules. */
export type TogetherSet = { members: string[]; rules: string[] };

/** Merges keep-together rules that share a guest, directly or by way of others. Members and rules are in id order. */
export function mergeTogether(rules: readonly TogetherRule[]): TogetherSet[] {
  const leaderOf = new Map<string, string>();
  for (const rule of rules) {
    const first = rule.guests[0];
    if (first === undefined) continue;
    for (const guest of rule.guests) join(leaderOf, first, guest);
  }
  const sets = new Map<string, { members: Set<string>; rules: string[] }>();
  for (const rule of rules) {
    const first = rule.guests[0];
    if (first === undefined) continue;
    const leader = findLeader(leaderOf, first);
    const set = sets.get(leader) ?? { members: new Set(), rules: [] };
    sets.set(leader, set);
    for (const guest of rule.guests) set.members.add(guest);
    set.rules.push(rule.id);
  }
  return [...sets.values()].map((set) => ({ members: [...set.members].sort(), rules: set.rules.sort() }));
}

function join(leaderOf: Map<string, string>, one: string, other: string): void {
  const a = findLeader(leaderOf, one);
  const b = findLeader(leaderOf, other);
  leaderOf.set(b, a);
}

function findLeader(leaderOf: Map<string, string>, guest: string): string {
  let leader = guest;
  for (;;) {
    const next = leaderOf.get(leader);
    if (next === undefined || next === leader) return leader;
    // Path halving keeps long chains of overlapping rules cheap.
    leaderOf.set(leader, leaderOf.get(next) ?? next);
    leader = next;
  }
}
