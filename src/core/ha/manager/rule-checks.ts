import { mergeTogether, type TogetherSet } from '#core/ha/manager/together-sets.ts';
import type { ApartRule, NodeRule, Rule } from '#core/ha/manager/rules.ts';

/**
 * Finds rules that cannot all hold. Every check looks at all enabled rules, so the answer does not depend on the order of checks:
 * who is in a contradiction is dropped, all others stay.
 */
export type DroppedRule = { rule: string; because: string };

/** Returns each rule to drop once, with the first reason found. */
export function findDroppedRules(rules: readonly Rule[], nodes: readonly string[]): DroppedRule[] {
  const parts: RuleParts = {
    node: rules.filter((rule) => rule.kind === 'prefer-nodes'),
    apart: rules.filter((rule) => rule.kind === 'keep-apart'),
    sets: mergeTogether(rules.filter((rule) => rule.kind === 'keep-together')),
    rules,
  };
  const found = [
    ...checkTwoNodeRules(parts),
    ...checkTooFewGuests(parts),
    ...checkApartCount(parts, nodes),
    ...checkTogetherAndApart(parts),
    ...checkRankedWithAffinity(parts),
    ...checkTogetherAcrossNodeRules(parts),
    ...checkApartConfined(parts),
  ];
  const dropped = new Map<string, DroppedRule>();
  for (const entry of found) if (!dropped.has(entry.rule)) dropped.set(entry.rule, entry);
  return [...dropped.values()];
}

type RuleParts = { node: NodeRule[]; apart: ApartRule[]; sets: TogetherSet[]; rules: readonly Rule[] };

function drop(rules: Iterable<string>, because: string): DroppedRule[] {
  return [...rules].map((rule) => ({ rule, because }));
}

function shares(guests: readonly string[], others: readonly string[]): number {
  const set = new Set(others);
  return guests.filter((guest) => set.has(guest)).length;
}

function checkTwoNodeRules({ node }: RuleParts): DroppedRule[] {
  const rulesOf = Map.groupBy(
    node.flatMap((rule) => [...new Set(rule.guests)].map((guest) => ({ guest, rule: rule.id }))),
    (entry) => entry.guest,
  );
  return [...rulesOf].flatMap(([guest, entries]) =>
    entries.length < 2
      ? []
      : drop(
          entries.map((entry) => entry.rule),
          `guest ${guest} is in more than one node rule`,
        ),
  );
}

function checkTooFewGuests({ rules }: RuleParts): DroppedRule[] {
  return rules.flatMap((rule) =>
    rule.kind !== 'prefer-nodes' && new Set(rule.guests).size < 2 ? drop([rule.id], 'it names fewer than two guests') : [],
  );
}

function checkApartCount({ apart }: RuleParts, nodes: readonly string[]): DroppedRule[] {
  return apart.flatMap((rule) =>
    new Set(rule.guests).size > nodes.length
      ? drop([rule.id], `${rule.guests.length} guests cannot stay apart on ${nodes.length} nodes`)
      : [],
  );
}

function checkTogetherAndApart({ apart, sets }: RuleParts): DroppedRule[] {
  return sets.flatMap((set) =>
    apart.flatMap((rule) =>
      shares(rule.guests, set.members) >= 2
        ? drop([rule.id, ...set.rules], `two guests of ${rule.id} are to be kept both together and apart`)
        : [],
    ),
  );
}

/** A set cannot follow several ranks at once: which node is better would depend on who is asked. */
function checkRankedWithAffinity({ node, apart, sets }: RuleParts): DroppedRule[] {
  const groups = [...apart.map((rule) => ({ members: rule.guests, rules: [rule.id] })), ...sets];
  return node.flatMap((rule) => {
    if (new Set(rule.nodes.map(({ rank }) => rank)).size < 2) return [];
    const touched = groups.filter((group) => shares(group.members, rule.guests) > 0);
    return touched.flatMap((group) =>
      drop([rule.id, ...group.rules], `${rule.id} has several ranks and a guest of an affinity rule`),
    );
  });
}

function checkTogetherAcrossNodeRules({ node, sets }: RuleParts): DroppedRule[] {
  return sets.flatMap((set) => {
    const touched = node.filter((rule) => shares(rule.guests, set.members) > 0).map((rule) => rule.id);
    return touched.length < 2 ? [] : drop([...touched, ...set.rules], 'guests to be kept together are in different node rules');
  });
}

function checkApartConfined({ node, apart }: RuleParts): DroppedRule[] {
  return apart.flatMap((rule) => {
    const touching = node.filter((entry) => entry.hard && shares(entry.guests, rule.guests) > 0);
    const confined = new Set(touching.flatMap((entry) => entry.guests.filter((guest) => rule.guests.includes(guest))));
    const room = new Set(touching.flatMap((entry) => entry.nodes.map(({ node: name }) => name)));
    if (room.size >= confined.size) return [];
    return drop(
      [rule.id, ...touching.map((entry) => entry.id)],
      `${confined.size} guests to be kept apart may use only ${room.size} nodes`,
    );
  });
}
