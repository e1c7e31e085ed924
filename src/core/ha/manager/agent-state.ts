import type { AgentMode, OrderResult } from '#core/ha/manager/facts.ts';
import { isActiveWork, type ManagerMemory, targetOf } from '#core/ha/manager/memory.ts';
import type { EndPlan } from '#core/ha/manager/shutdown-policy.ts';

/**
 * The agent of a node.
 *
 *            work here, permit won                       drain asked for
 *   idle ─────────────────────────> serving ──────────────────────────────> draining ──no work left──> permit given back
 *     ^                              │   ^                                      │
 *     └──── disarmed, jobs ended ────┘   └── renewed again ── lease-lost <──────┘ fence asked for, or renewal failed
 *
 * A guest runs only under the permit; the watchdog is open as long as the permit is held, and petted after each renewal only.
 */
export type AgentPhase = 'idle' | 'serving' | 'lease-lost' | 'draining';

export type AgentState = {
  phase: AgentPhase;
  mode: AgentMode;
  /** It holds the permit and an open watchdog, as far as it knows. */
  armed: boolean;
  /** It was asked to end. */
  end: EndPlan | null;
  /** The stops of a shutdown: not begun, all done, or one of them failed. */
  stops: 'none' | 'done' | 'failed';
  /** Ends of orders that the manager has not replaced yet. */
  results: ReadonlyMap<number, OrderResult>;
  /** Starts that failed in a row on this node, by guest. */
  failedStarts: ReadonlyMap<string, number>;
};

/** An agent that has just started. */
export function freshAgent(): AgentState {
  return { phase: 'idle', mode: 'active', armed: false, end: null, stops: 'none', results: new Map(), failedStarts: new Map() };
}

/** How many guests keep this node's agent at work: those here and those on their way here. */
export function countActiveWork(memory: ManagerMemory, node: string): number {
  let count = 0;
  for (const { state, node: here } of memory.guests.values()) {
    if (isActiveWork(state) && (here === node || targetOf(state) === node)) count += 1;
  }
  return count;
}
