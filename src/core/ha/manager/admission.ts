import type { CompiledRules } from '#core/ha/manager/compiled-rules.ts';
import type { GuestFacts, NodeFacts } from '#core/ha/manager/facts.ts';
import { compareNames } from '#core/ha/manager/usage.ts';
import { formatDuration } from '#core/text/duration.ts';
import { formatSize } from '#core/text/size.ts';

/**
 * Would everything that must run still fit after the loss of each node?
 *
 *   for each node: its started guests, by start order, then the largest first ──> the node with the most memory left that the rules,
 *   the rivals and the copies allow ──> who finds none is told, with the reason
 *
 * The plan is one that works, if it finds one; a cleverer packing might still fit what this one does not.
 */
export type LossPlan = {
  node: string;
  placed: { guest: string; to: string }[];
  unplaced: { guest: string; because: string }[];
};

export type AdmissionFacts = { nodes: readonly NodeFacts[]; guests: readonly GuestFacts[]; rules: CompiledRules };

/** One plan for the loss of each node that is present, in name order. */
export function planLosses(facts: AdmissionFacts): LossPlan[] {
  const present = facts.nodes.filter((node) => node.present).map((node) => node.name);
  return present.sort(compareNames).map((node) => planLoss(facts, [node]));
}

/**
 * What runs where after the loss of `lost`, all at once. `node` of the result names them, joined by commas. Only memory counts: cores can
 * be shared, memory cannot.
 */
export function planLoss(facts: AdmissionFacts, lost: readonly string[]): LossPlan {
  const open = facts.nodes.filter((node) => node.present && node.refusal === null && !lost.includes(node.name));
  const freeBytes = new Map(open.map((node) => [node.name, node.size.memoryBytes]));
  const places = new Map<string, string>();
  const homeless: GuestFacts[] = [];
  for (const guest of facts.guests) {
    if (guest.want !== 'started') continue;
    if (lost.includes(guest.home)) homeless.push(guest);
    else settle(guest, guest.home, freeBytes, places);
  }
  const plan: LossPlan = { node: lost.join(', '), placed: [], unplaced: [] };
  for (const guest of homeless.sort(byUrgency)) {
    const choice = choosePlace(facts, guest, open, freeBytes, places);
    if (choice.to === null) {
      plan.unplaced.push({ guest: guest.id, because: choice.because });
      continue;
    }
    settle(guest, choice.to, freeBytes, places);
    plan.placed.push({ guest: guest.id, to: choice.to });
  }
  return plan;
}

export type Admission = { kind: 'fits' } | { kind: 'refused'; because: string };

/** May the guest be started? Refused when after some loss a guest would not fit that fits, or need not fit, without it. */
export function admitGuest(facts: AdmissionFacts, guest: GuestFacts): Admission {
  const without = facts.guests.filter((other) => other.id !== guest.id);
  const added = [...without, { ...guest, want: 'started' as const }];
  for (const node of facts.nodes.filter((entry) => entry.present)) {
    const before = new Set(planLoss({ ...facts, guests: without }, [node.name]).unplaced.map((entry) => entry.guest));
    const newly = planLoss({ ...facts, guests: added }, [node.name]).unplaced.filter((entry) => !before.has(entry.guest));
    const [first] = newly;
    if (first === undefined) continue;
    return {
      kind: 'refused',
      because: `after the loss of ${node.name}, guest ${first.guest} would have no place: ${first.because}`,
    };
  }
  return { kind: 'fits' };
}

function byUrgency(a: GuestFacts, b: GuestFacts): number {
  const order = (a.startOrder ?? 0) - (b.startOrder ?? 0);
  return order || b.claimed.memoryBytes - a.claimed.memoryBytes || compareNames(a.id, b.id);
}

function settle(guest: GuestFacts, node: string, freeBytes: Map<string, number>, places: Map<string, string>): void {
  places.set(guest.id, node);
  const free = freeBytes.get(node);
  if (free !== undefined) freeBytes.set(node, free - guest.claimed.memoryBytes);
}

function choosePlace(
  { rules }: AdmissionFacts,
  guest: GuestFacts,
  open: readonly NodeFacts[],
  freeBytes: ReadonlyMap<string, number>,
  places: ReadonlyMap<string, string>,
): { to: string | null; because: string } {
  const rivals = new Set((rules.apart.get(guest.id) ?? []).map((rival) => places.get(rival)));
  const companion = (rules.together.get(guest.id) ?? []).map((other) => places.get(other)).find((node) => node !== undefined);
  const reasons: string[] = [];
  let best: { name: string; free: number } | null = null;
  for (const { name } of open) {
    const free = freeBytes.get(name) ?? 0;
    const refusal = whyNot(guest, name, free, rules.ranks.get(guest.id), rivals, companion);
    if (refusal !== null) reasons.push(`${name}: ${refusal}`);
    else if (best === null || free > best.free) best = { name, free };
  }
  if (best !== null) return { to: best.name, because: 'most memory left' };
  return { to: null, because: reasons.length > 0 ? reasons.join('; ') : 'no node is left' };
}

function whyNot(
  guest: GuestFacts,
  node: string,
  freeBytes: number,
  ranks: ReadonlyMap<string, number> | undefined,
  rivals: ReadonlySet<string | undefined>,
  companion: string | undefined,
): string | null {
  if (ranks !== undefined && !ranks.has(node)) return 'its node rule forbids it';
  if (rivals.has(node)) return 'a guest to be kept apart from it is there';
  if (companion !== undefined && companion !== node) return `it stays together with guests on ${companion}`;
  if (guest.copies !== undefined) {
    const copy = guest.copies.find((entry) => entry.node === node);
    if (copy === undefined) return 'no verified copy';
    const limitMs = guest.maxDataAgeMs ?? null;
    if (limitMs !== null && copy.dataAgeMs > limitMs)
      return `its copy is ${formatDuration(copy.dataAgeMs)} old, the limit is ${formatDuration(limitMs)}`;
  }
  const needed = guest.claimed.memoryBytes;
  return freeBytes < needed ? `${formatSize(Math.max(0, freeBytes))} of memory free, ${formatSize(needed)} needed` : null;
}
