import { compileRules } from '#core/ha/manager/compiled-rules.ts';
import type { CompiledRules } from '#core/ha/manager/compiled-rules.ts';
import { queueMove, takeCommands } from '#core/ha/manager/commands.ts';
import { planDisarm } from '#core/ha/manager/disarm.ts';
import {
  closeDraft,
  type Decision,
  enter,
  guestFactsOf,
  type ManagerStep,
  openDraft,
  recountUsage,
  type RoundDraft,
} from '#core/ha/manager/draft.ts';
import type { GuestFacts, ManagerFacts } from '#core/ha/manager/facts.ts';
import { freezeIfRestarting, stepGuest } from '#core/ha/manager/guest-steps.ts';
import type { GuestState, ManagerMemory } from '#core/ha/manager/memory.ts';
import { fenceNodes, updateNodeStates } from '#core/ha/manager/node-states.ts';
import { noteToldClaims } from '#core/ha/manager/quarantine.ts';
import { planRebalance } from '#core/ha/manager/rebalance.ts';
import { compareNames } from '#core/ha/manager/usage.ts';

/**
 * One round of the manager: facts and the memory of the last round in, the next memory and what must be written besides out.
 *
 *   nodes ──> adopt and forget guests ──> usage ──> commands ──> disarm (may end it) ──> rebalance
 *     ──> { a step for every guest, in id order ──> fence what guests wait for } until nothing changes
 *
 * The caller writes `steps` in order, then `memory`, each on condition that it still leads. Given the same arguments the round is the same.
 */
export type RoundPlan = {
  memory: ManagerMemory;
  steps: ManagerStep[];
  decisions: Decision[];
  /** Why the round ended early; null: it went through all its parts. */
  because: string | null;
};

/** `rules` are the compiled `facts.rules`, for callers that keep them between rounds. */
export function planRound(facts: ManagerFacts, memory: ManagerMemory, rules: CompiledRules = compileFor(facts)): RoundPlan {
  const draft = openDraft(facts, memory, rules);
  updateNodeStates(draft);
  noteToldClaims(draft);
  const self = draft.nodes.get(facts.self);
  if (self !== 'up' && self !== 'draining') return close(draft, `${facts.self} does not see itself as up`);
  adoptAndForget(draft);
  draft.ids = [...draft.guests.keys()].sort(compareNames);
  recountUsage(draft);
  takeCommands(draft);
  if (planDisarm(draft)) return close(draft, 'disarmed');
  const move = planRebalance(draft);
  if (move !== null) queueMove(draft, move);
  return close(draft, stepUntilQuiet(draft) ? null : `it did not come to rest in ${maxPasses} passes`);
}

/** The rules of these facts, compiled. */
export function compileFor(facts: Pick<ManagerFacts, 'rules' | 'nodes'>): CompiledRules {
  return compileRules(
    facts.rules,
    facts.nodes.map((node) => node.name),
  );
}

function close(draft: RoundDraft, because: string | null): RoundPlan {
  return { memory: closeDraft(draft), steps: draft.steps, decisions: draft.decisions, because };
}

function adoptAndForget(draft: RoundDraft): void {
  for (const [id, entry] of draft.guests) {
    const guest = draft.guestFacts.get(id);
    if (guest !== undefined && guest.want !== 'ignored') continue;
    draft.guests.delete(id);
    const because = guest === undefined ? 'its record is gone' : 'it is to be ignored';
    draft.decisions.push({ kind: 'forgotten', guest: id, node: entry.node, because });
  }
  for (const guest of draft.facts.guests) {
    if (guest.want === 'ignored' || draft.guests.has(guest.id)) continue;
    draft.guests.set(guest.id, {
      state: adoptedState(guest),
      node: guest.home,
      orderId: draft.nextOrderId++,
      failedNodes: [],
      returnTo: null,
      command: null,
      sinceMs: draft.facts.nowMs,
      because: `it is new and wanted ${guest.want}`,
    });
    draft.decisions.push({ kind: 'adopted', guest: guest.id, node: guest.home, because: `it is wanted ${guest.want}` });
  }
}

/** One that runs already is left where it is, whatever the rules say by now. */
function adoptedState({ want, runs }: GuestFacts): GuestState {
  if (want !== 'started') return { kind: 'stop-requested', timeoutMs: null };
  return runs === true ? { kind: 'active', seenRunning: false, recovered: false } : { kind: 'start-requested' };
}

/** True once a pass changed nothing. */
function stepUntilQuiet(draft: RoundDraft): boolean {
  const { ids } = draft;
  // Each pass that repeats has moved a guest on, and no state is entered twice in a round; the cap only guards against a mistake.
  for (let pass = 0; pass < maxPasses; pass += 1) {
    let changed = false;
    draft.isFirstPass = pass === 0;
    for (const id of inStartOrder(draft, ids)) {
      const before = draft.guests.get(id)?.state.kind;
      stepGuest(draft, id);
      freezeIfRestarting(draft, id);
      if (draft.guests.get(id)?.state.kind !== before) changed = true;
    }
    if (fenceNodes(draft) && awaitRecovery(draft, ids)) changed = true;
    if (!changed && !(draft.isFirstPass && draft.hasYielder)) return true;
  }
  return false;
}

/** Passes of one round. Six states at most lie between adoption and recovery. */
const maxPasses = 12;

/** Guests that await recovery take their turn by start order, so that what others need finds room first. */
function inStartOrder(draft: RoundDraft, ids: string[]): string[] {
  const waits = (id: string): boolean => draft.guests.get(id)?.state.kind === 'awaiting-recovery';
  if (!ids.some(waits)) return ids;
  const order = (id: string): number => (waits(id) ? (guestFactsOf(draft, id).startOrder ?? 0) : 0);
  return ids.toSorted((a, b) => order(a) - order(b) || compareNames(a, b));
}

/** Guests of nodes whose permits are claimed now look for a new node. */
function awaitRecovery(draft: RoundDraft, ids: string[]): boolean {
  let changed = false;
  for (const id of ids) {
    const entry = draft.guests.get(id);
    if (entry?.state.kind !== 'awaiting-fence' || draft.nodes.get(entry.node) === 'fencing') continue;
    enter(draft, id, { kind: 'awaiting-recovery' }, `${entry.node} is fenced`);
    changed = true;
  }
  return changed;
}
