import { isInForce } from '#core/ha/manager/disarm.ts';
import type { GuestEntry, GuestState, ManagerMemory } from '#core/ha/manager/memory.ts';
import { whyQuarantined } from '#core/ha/manager/quarantine.ts';

/**
 * What happens next to a guest in each state, who does it, and until when: a state that is not left by then is told to people. A
 * deadline never starts or moves anything by itself.
 */
export type Expectation = {
  who: 'manager' | 'agent' | 'operator' | 'node';
  next: string;
  /** Reading of the manager's clock; null: the guest may stay as it is. */
  deadlineMs: number | null;
};

/** How long each step may take, from the entry into its state. */
export type StateDeadlines = {
  roundMs: number;
  startMs: number;
  stopMs: number;
  moveMs: number;
  /** From the fence being asked for to the claim. */
  claimMs: number;
  /** Until somebody is told that no node takes a lost guest. */
  placeMs: number;
  /** How long a guest waits for those that it starts after. */
  startsAfterWaitMs: number;
  /** Until an agent that restarts, or a host that reboots, should be back. */
  returnMs: number;
};

export function expectNext(entry: GuestEntry, deadlines: StateDeadlines): Expectation {
  const by = (ms: number): number => entry.sinceMs + ms;
  const { state, node } = entry;
  switch (state.kind) {
    case 'start-requested':
      if (state.waitsFor !== undefined) return expectOthers(entry, state.waitsFor, 'starts', deadlines);
      return { who: 'manager', next: 'chooses where to start it', deadlineMs: by(deadlines.roundMs) };
    case 'start-requested-elsewhere':
      return { who: 'agent', next: `${node} moves it to ${state.to}, where it starts`, deadlineMs: by(deadlines.moveMs) };
    case 'active':
      return state.seenRunning
        ? { who: 'agent', next: `${node} starts it again if it ends`, deadlineMs: null }
        : { who: 'agent', next: `${node} starts it`, deadlineMs: by(deadlines.startMs) };
    case 'stop-requested':
      return { who: 'agent', next: `${node} stops it`, deadlineMs: by(state.timeoutMs ?? deadlines.stopMs) };
    case 'inactive':
      return { who: 'operator', next: 'starts it', deadlineMs: null };
    case 'moving-live':
    case 'moving-cold':
      return { who: 'agent', next: `${node} moves it to ${state.to}`, deadlineMs: by(deadlines.moveMs) };
    case 'awaiting-fence':
      return { who: 'manager', next: `claims ${node}`, deadlineMs: by(deadlines.claimMs) };
    case 'awaiting-recovery':
      if (state.waitsFor !== undefined) return expectOthers(entry, state.waitsFor, 'places', deadlines);
      return { who: 'manager', next: 'places it as soon as a node will do', deadlineMs: by(deadlines.placeMs) };
    case 'frozen':
      return { who: 'node', next: `${node} comes back, or an operator arms again`, deadlineMs: by(deadlines.returnMs) };
    case 'failed':
      return { who: 'operator', next: 'finds out why, then disables and starts it', deadlineMs: by(0) };
  }
}

/** The guest starts after others. */
function expectOthers(entry: GuestEntry, others: readonly string[], does: string, deadlines: StateDeadlines): Expectation {
  const next = `${does} it once ${others.join(', ')} ${others.length === 1 ? 'runs' : 'run'}, or after the wait`;
  return { who: 'manager', next, deadlineMs: entry.sinceMs + deadlines.startsAfterWaitMs + deadlines.roundMs };
}

type Lateness = { lateMs: number; because: string };
export type Overdue =
  | ({ kind: 'guest'; guest: string; state: GuestState['kind'] } & Lateness)
  | ({ kind: 'node'; node: string; state: 'quarantined' } & Lateness);

/** Guests whose state should have been left by now, and nodes that wait for an operator; longest first. */
export function listOverdue(memory: ManagerMemory, deadlines: StateDeadlines, nowMs: number): Overdue[] {
  const overdue = [...listOverdueGuests(memory, deadlines, nowMs), ...listQuarantined(memory, nowMs)];
  return overdue.sort((a, b) => b.lateMs - a.lateMs);
}

function listOverdueGuests(memory: ManagerMemory, deadlines: StateDeadlines, nowMs: number): Overdue[] {
  const overdue: Overdue[] = [];
  for (const [guest, entry] of memory.guests) {
    // Frozen by an operator's hold, it waits for the operator.
    if (entry.state.kind === 'frozen' && isInForce(memory.disarm)) continue;
    const { who, next, deadlineMs } = expectNext(entry, deadlines);
    if (deadlineMs === null || nowMs < deadlineMs) continue;
    const because = `${entry.state.kind} since ${nowMs - entry.sinceMs} ms (${entry.because}); next: ${who}: ${next}`;
    overdue.push({ kind: 'guest', guest, state: entry.state.kind, lateMs: nowMs - deadlineMs, because });
  }
  return overdue;
}

/** A quarantine has no end of its own: an operator is awaited from its beginning on. */
function listQuarantined(memory: ManagerMemory, nowMs: number): Overdue[] {
  return [...memory.flaps].flatMap(([node, { claimedAtMs }]): Overdue[] => {
    const because = whyQuarantined(memory, node);
    if (because === null) return [];
    const lateMs = Math.max(0, nowMs - (claimedAtMs.at(-1) ?? nowMs));
    const next = 'next: operator: finds out why it is lost so often, then releases it';
    return [{ kind: 'node', node, state: 'quarantined', lateMs, because: `it ${because}; ${next}` }];
  });
}
