import { compileFor, planRound } from '#core/ha/manager/round.ts';
import type { CompiledRules } from '#core/ha/manager/compiled-rules.ts';
import type { Decision } from '#core/ha/manager/draft.ts';
import type { GuestFacts, ManagerFacts, NodeFacts, OrderResult } from '#core/ha/manager/facts.ts';
import { type GuestEntry, type ManagerMemory, targetOf } from '#core/ha/manager/memory.ts';
import { compareNames } from '#core/ha/manager/usage.ts';

/**
 * What would happen if these nodes were lost now: the manager's own rounds, on facts in which they are gone and claimed.
 *
 *   facts without the lost nodes ──planRound──> memory ──> facts of the next round, in which every order went well
 *        ^                                                       │
 *        └── until nothing changes, then once more after all ────┘
 *            waits (fresher copies, starts after others) are over
 *
 * Told of guests that are wanted started. Nothing is measured and nothing is written.
 */
export type LossForecast = {
  /** Who would run on another node. `dataAgeMs`: of the copy it would start from; null: it would start from its own disks. */
  placed: { guest: string; from: string; to: string; because: string; dataAgeMs: number | null }[];
  unplaced: { guest: string; from: string; because: string }[];
  /** Who would be left alone. */
  stays: string[];
};

/** `lost` names the nodes. A name that no node has changes nothing. */
export function forecastLoss(facts: ManagerFacts, memory: ManagerMemory, lost: readonly string[]): LossForecast {
  const start = withoutNodes(facts, new Set(lost));
  const run = runToRest({ facts: start, memory, told: new Map(), because: null }, compileFor(facts), lost);
  const later = { ...run, facts: { ...run.facts, nowMs: run.facts.nowMs + longestWaitMs(facts) + 1 } };
  return describe(facts, memory, lost, runToRest(later, compileFor(facts), lost));
}

type Told = { placed: boolean; node: string; because: string };

type Run = {
  facts: ManagerFacts;
  memory: ManagerMemory;
  /** The newest that was said of each guest: why it was placed, or why it was not. */
  told: ReadonlyMap<string, Told>;
  /** Why a round ended early. */
  because: string | null;
};

/** Rounds of one forecast at most: a chain of guests that start after each other takes two rounds for each of them. */
const maxRounds = 200;

function runToRest(first: Run, rules: CompiledRules, lost: readonly string[]): Run {
  let run = first;
  for (let round = 0; round < maxRounds; round += 1) {
    const plan = planRound(run.facts, run.memory, rules);
    // Ends of orders are first told of in the second round.
    const isAtRest = round > 0 && describeMemory(plan.memory) === describeMemory(run.memory);
    const told = new Map([...run.told, ...listTold(plan.decisions)]);
    run = { facts: nextFacts(run.facts, run.memory, plan.memory, lost), memory: plan.memory, told, because: plan.because };
    if (isAtRest) return run;
  }
  return run;
}

function listTold(decisions: readonly Decision[]): [string, Told][] {
  return decisions.flatMap((decision): [string, Told][] => {
    if (decision.kind !== 'recovered' && decision.kind !== 'no-recovery-target') return [];
    const { guest, node, because } = decision;
    return [[guest, { placed: decision.kind === 'recovered', node, because }]];
  });
}

function describeMemory({ guests }: ManagerMemory): string {
  const lines = [...guests].map(([id, { node, state }]) => {
    const isSeen = state.kind === 'active' && state.seenRunning;
    return `${id} ${node} ${state.kind} ${isSeen}`;
  });
  return lines.join('\n');
}

/** The nodes are off and claimed; no copy there can be reached, and somebody who is left leads. */
function withoutNodes(facts: ManagerFacts, lost: ReadonlySet<string>): ManagerFacts {
  const nodes = facts.nodes.map((node): NodeFacts => {
    if (!lost.has(node.name)) return node;
    return {
      ...node,
      present: false,
      lostMs: Infinity,
      permit: 'claimed',
      confirmedOff: true,
      claimedAtMs: null,
      claimedEpoch: null,
      earlierClaims: [],
    };
  });
  const guests = facts.guests.map((guest): GuestFacts => {
    const { copies } = guest;
    return copies === undefined ? guest : { ...guest, copies: copies.filter((copy) => !lost.has(copy.node)) };
  });
  const left = nodes.filter((node) => node.present).map((node) => node.name);
  const self = left.includes(facts.self) ? facts.self : (left.sort(compareNames)[0] ?? facts.self);
  return { ...facts, self, nodes, guests, commands: [], settings: { ...facts.settings, autoRebalance: null } };
}

/** Every order of the round went well, but for moves to nodes that are gone. */
function nextFacts(facts: ManagerFacts, before: ManagerMemory, after: ManagerMemory, lost: readonly string[]): ManagerFacts {
  const results = new Map<number, OrderResult>();
  for (const { orderId, state } of after.guests.values())
    results.set(orderId, lost.includes(targetOf(state) ?? '') ? 'failed' : 'ok');
  const guests = facts.guests.map((guest): GuestFacts => {
    const entry = after.guests.get(guest.id);
    if (entry === undefined || entry.orderId === before.guests.get(guest.id)?.orderId) return guest;
    return { ...guest, home: entry.node, orderOver: false, givenUp: false };
  });
  return { ...facts, guests, results };
}

function longestWaitMs({ guests, settings }: ManagerFacts): number {
  return guests.reduce((longest, guest) => Math.max(longest, guest.betterCopyWaitMs ?? 0), settings.startsAfterWaitMs);
}

function describe(facts: ManagerFacts, before: ManagerMemory, lost: readonly string[], run: Run): LossForecast {
  const forecast: LossForecast = { placed: [], unplaced: [], stays: [] };
  const started = facts.guests.filter((guest) => guest.want === 'started').sort((a, b) => compareNames(a.id, b.id));
  for (const guest of started) {
    const entry = run.memory.guests.get(guest.id);
    const from = before.guests.get(guest.id)?.node ?? guest.home;
    if (entry !== undefined && entry.node === from && !isDown(entry, lost)) forecast.stays.push(guest.id);
    else if (entry?.state.kind === 'active' && !lost.includes(entry.node))
      forecast.placed.push(describePlaced(guest, from, entry, run));
    else forecast.unplaced.push({ guest: guest.id, from, because: whyUnplaced(guest.id, entry, run) });
  }
  return forecast;
}

/** The guest waits for a place, or sits on a node that is gone. */
function isDown({ node, state }: GuestEntry, lost: readonly string[]): boolean {
  return lost.includes(node) || state.kind === 'awaiting-fence' || state.kind === 'awaiting-recovery';
}

function describePlaced(guest: GuestFacts, from: string, entry: GuestEntry, { told }: Run): LossForecast['placed'][number] {
  const recovery = told.get(guest.id);
  if (recovery?.placed !== true) return { guest: guest.id, from, to: entry.node, because: entry.because, dataAgeMs: null };
  const copy = guest.copies?.find(({ node }) => node === recovery.node);
  return { guest: guest.id, from, to: entry.node, because: recovery.because, dataAgeMs: copy?.dataAgeMs ?? null };
}

function whyUnplaced(guest: string, entry: GuestEntry | undefined, { told, because }: Run): string {
  const refusal = told.get(guest);
  if (refusal?.placed === false) return refusal.because;
  if (because !== null) return because;
  return entry === undefined ? 'it is not managed' : `it is ${entry.state.kind}: ${entry.because}`;
}
