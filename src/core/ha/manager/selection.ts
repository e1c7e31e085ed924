import type { GuestFacts } from '#core/ha/manager/facts.ts';
import { type GuestEntry, type GuestState, takesRoom, targetOf } from '#core/ha/manager/memory.ts';
import { type Placement, setWithRoom, whyNoRoom } from '#core/ha/manager/room.ts';
import { scoreNodes } from '#core/ha/manager/scores.ts';
import { compareNames, countsOn, type RankedNodes, type Usage } from '#core/ha/manager/usage.ts';

/**
 * Where a guest belongs.
 *
 *   nodes that are up ──> where the memory fits ──> those its node rule allows, the highest rank present ──> without rivals ──> where its companions are
 *     ──> the drained node it returns to, else where it is, else the lowest score
 */

/**
 * `stay`: a normal round, the guest keeps its place unless a rule says otherwise. `best`: it has no place now. `next`: its start
 * failed here, so another node is tried.
 */
export type SelectionMode = 'stay' | 'best' | 'next';

/**
 * Returns the node, or null when no node that is up will do. `sites` narrows the nodes to those that can start the guest at all
 * (where a copy of its disks lies); null: every node can.
 */
export function selectNode(
  placement: Placement,
  guest: GuestFacts,
  entry: GuestEntry,
  mode: SelectionMode,
  sites: ReadonlySet<string> | null = null,
): string | null {
  if (mode === 'stay' && sites === null && isUnruled(placement, guest.id, entry)) {
    if (placement.usage.byName.has(entry.node)) return entry.node;
  }
  const fit = sites ?? fitSites(placement, guest, entry);
  // Most of the time memory is no matter, so the rest is looked at only when it turns out to be.
  const node = selectAmong(placement, guest, entry, mode, fit);
  if (node === null || !placement.usage.mustFit) return node;
  const set = setWithRoom(placement, guest.id);
  if (hasRoom(placement, set, entry, node)) return node;
  const roomy = selectAmong(placement, guest, entry, mode, sitesWithRoom(placement, set, entry, fit));
  // Who is down starts without its companions rather than not at all.
  if (roomy !== null || mode === 'stay' || set.length === 1) return roomy;
  return selectAmong(placement, guest, entry, mode, sitesWithRoom(placement, [guest.id], entry, fit));
}

/** True when the guest would stay where it is, were it not for a rival there. */
export function onlyYields(placement: Placement, guest: GuestFacts, entry: GuestEntry): boolean {
  if (!placement.usage.settles || !findRivalNodes(placement, guest.id, true).has(entry.node)) return false;
  return selectAmong(placement, guest, entry, 'stay', fitSites(placement, guest, entry), true) === entry.node;
}

/** Without those whose copy was found unfit: the guest would be stopped for a move that comes to nothing. null: every node is fit. */
function fitSites({ usage }: Placement, { unfitNodes = [] }: GuestFacts, { node: here }: GuestEntry): ReadonlySet<string> | null {
  if (unfitNodes.length === 0) return null;
  return new Set([...usage.byName.keys()].filter((name) => name === here || !unfitNodes.includes(name)));
}

/** Those of the sites on which the guests fit together. */
function sitesWithRoom(
  placement: Placement,
  guests: readonly string[],
  entry: GuestEntry,
  sites: ReadonlySet<string> | null,
): ReadonlySet<string> {
  const known = sites ?? placement.usage.byName.keys();
  return new Set([...known].filter((name) => hasRoom(placement, guests, entry, name)));
}

/** The node that a guest takes room on already is not too small for its companions to stay where they are. */
function hasRoom(placement: Placement, guests: readonly string[], entry: GuestEntry, node: string): boolean {
  return countsOn(entry, node) || whyNoRoom(placement, guests, node) === null;
}

/** `isAlone`: as if no rival were where the guest is. */
function selectAmong(
  placement: Placement,
  guest: GuestFacts,
  entry: GuestEntry,
  mode: SelectionMode,
  sites: ReadonlySet<string> | null,
  isAlone = false,
): string | null {
  const { allowed, preferred } = rankNodes(placement, guest.id, sites);
  if (preferred.length === 0) return null;
  const companions = countCompanions(placement, guest.id);
  const here = entry.node;
  const rivalNodes = findRivalNodes(placement, guest.id, mode === 'stay' && entry.state.kind === 'active');
  const runs = entry.state.kind === 'active' && entry.state.seenRunning;
  const isLeft = placement.usage.settles && mode === 'stay' && runs && isLeftByRivals(placement, guest.id, here);
  if (isLeft || isAlone) rivalNodes.delete(here);
  if (mode === 'stay' && !guest.failback && allowed.has(here) && (companions.has(here) || !rivalNodes.has(here))) return here;

  const isFree = (node: string) => !rivalNodes.has(node) && !(mode === 'next' && entry.failedNodes.includes(node));
  const listBest = (isGood: (node: string) => boolean): readonly string[] => {
    const best = preferred.filter((node) => isGood(node));
    if (best.length > 0 || !placement.usage.settles) return best;
    return highestOf(placement.rules.ranks.get(guest.id), [...allowed].filter(isGood));
  };
  const avoided = mode === 'stay' && placement.usage.settles ? listAvoided(entry) : [];
  let nodes = listBest((node) => isFree(node) && !avoided.includes(node));
  if (nodes.length === 0) nodes = listBest(isFree);
  nodes = keepFullest(nodes, companions, mode === 'stay' ? here : null);
  // Companions that are still to be placed come to where it is now; it would have to come back for them.
  const returns = mode !== 'stay' || !hasUnplacedCompanion(placement, guest.id);
  if (returns && entry.returnTo !== null && nodes.includes(entry.returnTo)) return entry.returnTo;
  if (mode === 'stay' && nodes.includes(here)) return here;
  return chooseByScore(placement, guest, entry, mode, nodes);
}

/** True when no rule and no return speaks about the guest: most guests in most rounds, so this path is kept cheap. */
function isUnruled({ rules, usage }: Placement, guest: string, entry: GuestEntry): boolean {
  if (entry.returnTo !== null && usage.byName.has(entry.returnTo)) return false;
  return !rules.ranks.has(guest) && !rules.together.has(guest) && !rules.apart.has(guest);
}

/** The nodes that are up, that can start the guest, and that its node rule allows. */
function rankNodes({ rules, usage }: Placement, guest: string, sites: ReadonlySet<string> | null): RankedNodes {
  const rule = rules.ranks.get(guest) ?? null;
  if (sites !== null) return applyRule(usage, rule, sites);
  const known = usage.ranked.get(rule) ?? applyRule(usage, rule, null);
  usage.ranked.set(rule, known);
  return known;
}

function applyRule(usage: Usage, rule: ReadonlyMap<string, number> | null, sites: ReadonlySet<string> | null): RankedNodes {
  const names = usage.nodes.map((node) => node.name).filter((name) => sites === null || sites.has(name));
  const allowed = names.filter((name) => rule === null || rule.has(name));
  return { allowed: new Set(allowed), preferred: highestOf(rule ?? undefined, allowed) };
}

/** Those of the highest rank. */
function highestOf(rule: ReadonlyMap<string, number> | undefined, nodes: string[]): string[] {
  const highest = Math.max(...nodes.map((name) => rule?.get(name) ?? 0));
  return nodes.filter((name) => (rule?.get(name) ?? 0) === highest);
}

/** What rules and rivals are looked up in. */
type RuledPlacement = Pick<Placement, 'rules' | 'guests' | 'usage' | 'turnedBack'>;

/** True when the guest's node rule allows the node and no rival of it is there or heading there. */
export function allowsNode(placement: RuledPlacement, guest: string, node: string): boolean {
  const rule = placement.rules.ranks.get(guest);
  return (rule === undefined || rule.has(node)) && !findRivalNodes(placement, guest).has(node);
}

/** Why each of the nodes that receive guests is no place for the guest with its companions. */
export function listRefusals(placement: Placement, guest: string): string[] {
  const set = setWithRoom(placement, guest);
  const unfit = placement.guestFacts.get(guest)?.unfitNodes ?? [];
  return placement.usage.nodes.flatMap(({ name }) => {
    if (unfit.includes(name)) return [`${name}: its copy was found unfit to start from`];
    const because = allowsNode(placement, guest, name) ? whyNoRoom(placement, set, name) : 'the rules forbid it';
    return because === null ? [] : [`${name}: ${because}${set.length > 1 ? ' with its companions' : ''}`];
  });
}

function hasUnplacedCompanion(placement: Placement, guest: string): boolean {
  return (placement.rules.together.get(guest) ?? []).some((other) => {
    const entry = placement.guests.get(other);
    return entry !== undefined && hasNoPlace(entry.state);
  });
}

/** True when companions of the guest are elsewhere, or about to be, and none is on the node. */
export function hasCompanionsElsewhere(placement: Omit<Placement, 'usage'>, guest: string, node: string): boolean {
  const companions = countCompanions(placement, guest);
  return companions.size > 0 && !companions.has(node);
}

/** How many companions each node holds or is about to hold. */
function countCompanions(placement: Omit<Placement, 'usage'>, guest: string): Map<string, number> {
  const counts = new Map<string, number>();
  for (const other of placement.rules.together.get(guest) ?? []) {
    const entry = placement.guests.get(other);
    if (entry === undefined || !takesRoom(entry.state)) continue;
    const node = targetOf(entry.state) ?? entry.node;
    // It starts elsewhere: where it was let go of, nobody would be with it.
    const facts = placement.guestFacts.get(other);
    if (facts?.givenUp === true && facts.home === node) continue;
    counts.set(node, (counts.get(node) ?? 0) + 1);
  }
  return counts;
}

/** Nodes where a rival is or is heading to. `isOfRunning`: asked for a guest that runs, and gives way only to those that run too. */
export function findRivalNodes(placement: RuledPlacement, guest: string, isOfRunning = false): Map<string, string> {
  const nodes = new Map<string, string>();
  for (const rival of placement.rules.apart.get(guest) ?? []) {
    const entry = placement.guests.get(rival);
    const turnedBackFrom = placement.usage.settles ? placement.turnedBack.get(rival) : undefined;
    if (turnedBackFrom !== undefined) nodes.set(turnedBackFrom, rival);
    if (entry === undefined || !takesRoom(entry.state) || hasNoPlace(entry.state)) continue;
    // On its way before its start, it does not run where it comes from. Should it have to stay there it looks for another place first.
    const isLeaving = entry.state.kind === 'start-requested-elsewhere' && (isOfRunning || placement.usage.settles);
    if (!isLeaving) nodes.set(entry.node, rival);
    const target = targetOf(entry.state);
    if (target !== null) nodes.set(target, rival);
  }
  return nodes;
}

/** Nodes where its start failed, lately or since the last good one. Its companions may be there: it would be moved to and fro. */
export function listAvoided({ failedNodes, avoids, node }: GuestEntry): readonly string[] {
  return [...failedNodes, ...(avoids?.nodes ?? [])].filter((name) => name !== node);
}

/** True when each rival that is on the node is on its way to another: who leaves too would leave it to nobody. */
function isLeftByRivals({ rules, guests }: Placement, guest: string, node: string): boolean {
  return (rules.apart.get(guest) ?? []).every((rival) => {
    const entry = guests.get(rival);
    if (entry === undefined || !countsOn(entry, node)) return true;
    const target = targetOf(entry.state);
    return target !== null && target !== node;
  });
}

/** It runs nowhere, and is placed by these rules before it does. As a rival it keeps nobody from anywhere. */
function hasNoPlace({ kind }: GuestState): boolean {
  return kind === 'awaiting-recovery' || kind === 'start-requested';
}

/** Where most companions are. Among equals its own node, or a guest that has just joined some would leave them for others; else the first by name. */
function keepFullest(nodes: readonly string[], companions: ReadonlyMap<string, number>, here: string | null): readonly string[] {
  let fullest: string | null = null;
  let most = 0;
  for (const node of nodes) {
    const count = companions.get(node) ?? 0;
    if (count > most || (count === most && count > 0 && node === here)) [fullest, most] = [node, count];
  }
  return fullest === null ? nodes : [fullest];
}

function chooseByScore(
  placement: Placement,
  guest: GuestFacts,
  entry: GuestEntry,
  mode: SelectionMode,
  nodes: readonly string[],
): string | null {
  if (nodes.length <= 1) return nodes[0] ?? null;
  const scores = scoreNodes(placement.usage, guest);
  const ordered = nodes.toSorted((a, b) => (scores.get(a) ?? 0) - (scores.get(b) ?? 0) || compareNames(a, b));
  if (mode !== 'next') return ordered[0] ?? null;
  const at = ordered.indexOf(entry.node);
  return ordered[at + 1] ?? ordered[0] ?? null;
}
