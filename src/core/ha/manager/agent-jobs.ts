import type { AgentState } from '#core/ha/manager/agent-state.ts';
import type { OrderResult } from '#core/ha/manager/facts.ts';
import type { GuestEntry, ManagerMemory } from '#core/ha/manager/memory.ts';
import { compareNames } from '#core/ha/manager/usage.ts';

/** What an agent has to do for one guest. `orderId` null: enforced every round, nobody waits for its result. */
export type AgentJob = {
  guest: string;
  orderId: number | null;
  action:
    | { kind: 'start' }
    | { kind: 'stop'; timeoutMs: number | null }
    /** `unlessRunning`: a move before a start is pointless when the guest runs already. */
    | { kind: 'move'; to: string; live: boolean; unlessRunning: boolean };
};

/** The orders for guests on this node that have no result yet, in id order. */
export function planJobs(self: string, manager: ManagerMemory, state: AgentState): AgentJob[] {
  const jobs: AgentJob[] = [];
  for (const [guest, entry] of manager.guests) {
    if (entry.node !== self) continue;
    const job = jobOf(guest, entry);
    if (job !== null && (job.orderId === null || !state.results.has(job.orderId))) jobs.push(job);
  }
  return jobs.sort((a, b) => compareNames(a.guest, b.guest));
}

/** The stops of a shutdown: every guest that the manager has on this node. */
export function planStops(self: string, manager: ManagerMemory): AgentJob[] {
  return [...manager.guests]
    .filter(([, entry]) => entry.node === self)
    .map(([guest]): AgentJob => ({ guest, orderId: null, action: { kind: 'stop', timeoutMs: null } }))
    .sort((a, b) => compareNames(a.guest, b.guest));
}

function jobOf(guest: string, { state, orderId }: GuestEntry): AgentJob | null {
  switch (state.kind) {
    case 'active':
      return { guest, orderId, action: { kind: 'start' } };
    case 'stop-requested':
      return { guest, orderId, action: { kind: 'stop', timeoutMs: state.timeoutMs } };
    case 'inactive':
      return { guest, orderId: null, action: { kind: 'stop', timeoutMs: null } };
    case 'moving-live':
      return { guest, orderId, action: { kind: 'move', to: state.to, live: true, unlessRunning: false } };
    case 'moving-cold':
      return { guest, orderId, action: { kind: 'move', to: state.to, live: false, unlessRunning: false } };
    case 'start-requested-elsewhere':
      return { guest, orderId, action: { kind: 'move', to: state.to, live: false, unlessRunning: true } };
    case 'start-requested':
    case 'awaiting-fence':
    case 'awaiting-recovery':
    case 'frozen':
    case 'failed':
      return null;
  }
}

/** Takes note of how a job ended. A start that failed is tried again here, one try a round, before its result is told. */
export function noteJob(state: AgentState, job: AgentJob, result: OrderResult, localRetries: number): AgentState {
  if (job.orderId === null) return state;
  const failedStarts = new Map(state.failedStarts);
  if (job.action.kind === 'start') {
    const failed = failedStarts.get(job.guest) ?? 0;
    if (result === 'failed' && failed < localRetries) {
      failedStarts.set(job.guest, failed + 1);
      return { ...state, failedStarts };
    }
    failedStarts.delete(job.guest);
  }
  return { ...state, failedStarts, results: new Map(state.results).set(job.orderId, result) };
}

/** Forgets results that no order of the manager asks for any more. */
export function dropOldResults(state: AgentState, manager: ManagerMemory): AgentState {
  if (state.results.size === 0) return state;
  const asked = new Set<number>();
  for (const entry of manager.guests.values()) asked.add(entry.orderId);
  const results = new Map([...state.results].filter(([orderId]) => asked.has(orderId)));
  return results.size === state.results.size ? state : { ...state, results };
}
