import { assert } from '#base/assert.ts';
import type { CompiledRules } from '#core/ha/manager/compiled-rules.ts';
import type { Command, GuestFacts, ManagerFacts, NodeFacts, OrderResult } from '#core/ha/manager/facts.ts';
import {
  type Disarm,
  type Flap,
  type GuestEntry,
  type GuestState,
  type ManagerMemory,
  type NodeState,
  targetOf,
} from '#core/ha/manager/memory.ts';
import { whyQuarantined } from '#core/ha/manager/quarantine.ts';
import { countEntry, emptyUsage, type Usage } from '#core/ha/manager/usage.ts';

/**
 * The memory while a round works on it, with what the round has decided so far. Entries are replaced, never changed, and every
 * replacement goes through `enter` or `amend`, which keep the usage right.
 */
export type RoundDraft = {
  facts: ManagerFacts;
  rules: CompiledRules;
  nodeFacts: ReadonlyMap<string, NodeFacts>;
  guestFacts: ReadonlyMap<string, GuestFacts>;
  nodes: Map<string, NodeState>;
  guests: Map<string, GuestEntry>;
  /**
   * Guests whose move this round has given up, and where to. Until that is written they may arrive there all the same, so nobody is placed beside
   * such a rival in the same round.
   */
  turnedBack: Map<string, string>;
  /**
   * In the first pass a guest that would only give way to a rival waits: the rival may leave for a reason of its own, and nobody would be left where
   * both were. True once one has waited.
   */
  isFirstPass: boolean;
  hasYielder: boolean;
  /** The guests' ids in byte order, once it is settled who is managed. */
  ids: string[];
  drains: Set<string>;
  disarm: Disarm | null;
  unguarded: Set<string>;
  imbalancedRounds: number;
  nextOrderId: number;
  /** Orders from this number on are given in this round: no fact speaks of them yet. */
  firstNewOrderId: number;
  flaps: Map<string, Flap>;
  usage: Usage;
  /** What quarantined nodes carry that would receive guests otherwise: the last resort of a recovery. */
  reserve: Usage;
  /** Guests that start after each other in circles; null: not looked for yet. */
  startCycles: ReadonlyMap<string, readonly string[]> | null;
  steps: ManagerStep[];
  decisions: Decision[];
};

/** What the round asks to be written, in this order, besides the new memory. Nothing after a failed step may be written. */
export type ManagerStep =
  | { kind: 'claim'; node: string; because: string }
  /** The guest's record names another node from now on: its generation grows, locks that died with the node are dropped. */
  | { kind: 'rehome'; guest: string; from: string; to: string; because: string }
  /** The operator's stop: the guest is wanted stopped from now on. */
  | { kind: 'want-stopped'; guest: string; because: string };

/** One line for people and for the tests: what was decided about what, and why. */
export type Decision =
  | { kind: 'node'; node: string; was: NodeState | null; state: NodeState; because: string }
  | { kind: 'guest'; guest: string; node: string; was: GuestState['kind']; state: GuestState; because: string }
  | {
      kind: 'adopted' | 'forgotten' | 'no-recovery-target' | 'recovered' | 'cannot-leave' | 'cannot-start';
      guest: string;
      node: string;
      because: string;
    }
  /** `waits`: for others to run; `over`: it waited long enough; `circle`: they would wait for each other. */
  | {
      kind: 'starts-after';
      guest: string;
      node: string;
      stage: 'waits' | 'over' | 'circle';
      others: readonly string[];
      because: string;
    }
  | { kind: 'start-failed'; guest: string; node: string; next: 'other-node' | 'gave-up'; because: string }
  | { kind: 'dragged'; guest: string; to: string; with: string; because: string }
  | { kind: 'returns'; guest: string; to: string; because: string }
  | { kind: 'command'; command: Command; refusal: CommandRefusal | null; because: string }
  | { kind: 'rebalance'; guest: string; to: string; imbalanceBefore: number; imbalanceAfter: number; because: string }
  | { kind: 'quarantine'; node: string; quarantined: boolean; because: string }
  | { kind: 'disarm'; stage: Disarm['stage'] | 'armed'; because: string };

/** Why a command is not carried out; people read `because`, programs this. */
export type CommandRefusal =
  | 'not-managed'
  | 'target-not-up'
  | 'target-unfit'
  | 'already-there'
  | 'rule-forbids'
  | 'rival-there'
  | 'wrong-state'
  | 'not-now';

export function openDraft(facts: ManagerFacts, memory: ManagerMemory, rules: CompiledRules): RoundDraft {
  return {
    facts,
    rules,
    nodeFacts: new Map(facts.nodes.map((node) => [node.name, node])),
    guestFacts: new Map(facts.guests.map((guest) => [guest.id, guest])),
    nodes: new Map(memory.nodes),
    guests: new Map(memory.guests),
    turnedBack: new Map(),
    isFirstPass: true,
    hasYielder: false,
    ids: [],
    drains: new Set(memory.drains),
    disarm: memory.disarm,
    unguarded: new Set(memory.unguarded),
    imbalancedRounds: memory.imbalancedRounds,
    nextOrderId: memory.nextOrderId,
    firstNewOrderId: memory.nextOrderId,
    flaps: new Map(memory.flaps),
    usage: emptyUsage([], facts.settings),
    reserve: emptyUsage([], facts.settings),
    startCycles: null,
    steps: [],
    decisions: [],
  };
}

export function closeDraft(draft: RoundDraft): ManagerMemory {
  const { nodes, guests, drains, disarm, unguarded, imbalancedRounds, nextOrderId, flaps } = draft;
  return { nodes, guests, drains, disarm, unguarded, imbalancedRounds, nextOrderId, flaps };
}

/** Counts every guest anew, over the nodes that may receive guests now. */
export function recountUsage(draft: RoundDraft): void {
  const able = draft.facts.nodes.filter(({ name }) => draft.nodes.get(name) === 'up' && whyUnable(draft, name) === null);
  draft.usage = emptyUsage(
    able.filter(({ name }) => whyQuarantined(draft, name) === null),
    draft.facts.settings,
  );
  draft.reserve = emptyUsage(
    able.filter(({ name }) => whyQuarantined(draft, name) !== null),
    draft.facts.settings,
  );
  for (const [id, entry] of draft.guests) count(draft, id, entry, 1);
}

function count(draft: RoundDraft, id: string, entry: GuestEntry, sign: 1 | -1): void {
  const guest = guestFactsOf(draft, id);
  countEntry(draft.usage, guest, entry, sign);
  if (draft.reserve.nodes.length > 0) countEntry(draft.reserve, guest, entry, sign);
}

/** The node is up and may receive guests. */
export function isOpen(draft: RoundDraft, node: string): boolean {
  return draft.nodes.get(node) === 'up' && whyRefused(draft, node) === null;
}

/** Why the node receives no guests although it may be up; null: it receives them. */
export function whyRefused(draft: RoundDraft, node: string): string | null {
  return whyUnable(draft, node) ?? whyQuarantined(draft, node);
}

/** Why the node cannot take guests, trusted or not; null: it can. */
export function whyUnable(draft: RoundDraft, node: string): string | null {
  const facts = draft.nodeFacts.get(node);
  if (facts === undefined) return 'is not a node of the cluster';
  if (facts.refusal !== null) return facts.refusal;
  // Its agent stops the guests that it has, or freezes them: one that was put there would not run.
  return facts.agentMode === 'shutdown' || facts.agentMode === 'restart' ? 'is about to end or restart' : null;
}

/** The node is up and keeps the guests that run there, but receives none. Nobody who runs there leaves because of it. */
export function isRefused(draft: RoundDraft, node: string): boolean {
  return draft.nodes.get(node) === 'up' && !isOpen(draft, node);
}

export function guestFactsOf(draft: RoundDraft, id: string): GuestFacts {
  const facts = draft.guestFacts.get(id);
  assert(facts !== undefined, `the manager's memory names guest ${id}, which is not among the facts`);
  return facts;
}

export function entryOf(draft: RoundDraft, id: string): GuestEntry {
  const entry = draft.guests.get(id);
  assert(entry !== undefined, `guest ${id} is not in the manager's memory`);
  return entry;
}

/** How the entry's order ended; undefined while it is not told. */
export function resultOf(draft: RoundDraft, entry: GuestEntry): OrderResult | undefined {
  return draft.facts.results.get(entry.orderId);
}

/** True when the node has been lost for so long that its guests may be recovered, once it is claimed. */
export function isLongLost(draft: RoundDraft, node: string): boolean {
  const facts = draft.nodeFacts.get(node);
  if (facts === undefined) return true;
  return !facts.present && facts.lostMs >= draft.facts.settings.fenceAfterMs;
}

/** It was to move, could not, and is left alone for a while. */
export function restsAfterMove(draft: RoundDraft, entry: GuestEntry): boolean {
  const { state } = entry;
  return state.kind === 'active' && state.moveFailed === true && isYounger(draft, entry, draft.facts.settings.moveRetryMs);
}

/** It has been in its state for less than that. A clock that was set back, or that of another node, never makes a wait longer. */
export function isYounger(draft: RoundDraft, { sinceMs }: GuestEntry, waitMs: number): boolean {
  return isWithin(draft, sinceMs, waitMs);
}

/** The same for a time of its own, wall clock in ms. */
export function isWithin({ facts }: RoundDraft, sinceMs: number, waitMs: number): boolean {
  const ageMs = facts.nowMs - sinceMs;
  return ageMs >= 0 && ageMs < waitMs;
}

/** Moves a guest to another state under a new order; a queued command ends with the state it was given in. */
export function enter(
  draft: RoundDraft,
  id: string,
  state: GuestState,
  because: string,
  patch: Partial<Pick<GuestEntry, 'node' | 'failedNodes' | 'returnTo' | 'avoids'>> = {},
): void {
  const was = entryOf(draft, id);
  const target = targetOf(was.state);
  if (target !== null && state.kind === 'awaiting-recovery') draft.turnedBack.set(id, target);
  replace(draft, id, {
    ...was,
    ...patch,
    state,
    command: null,
    orderId: draft.nextOrderId++,
    sinceMs: draft.facts.nowMs,
    because,
  });
  draft.decisions.push({ kind: 'guest', guest: id, node: patch.node ?? was.node, was: was.state.kind, state, because });
}

/** Changes what is remembered of a guest without leaving its state. */
export function amend(draft: RoundDraft, id: string, patch: Partial<GuestEntry>): void {
  replace(draft, id, { ...entryOf(draft, id), ...patch });
}

function replace(draft: RoundDraft, id: string, next: GuestEntry): void {
  const was = draft.guests.get(id);
  draft.guests.set(id, next);
  if (was !== undefined && was.state === next.state && was.node === next.node) return;
  if (was !== undefined) count(draft, id, was, -1);
  count(draft, id, next, 1);
}
