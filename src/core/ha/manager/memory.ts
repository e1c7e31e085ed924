import type { Command } from '#core/ha/manager/facts.ts';

/**
 * What the manager knows from round to round: one record, written by the leader only, read by every agent. A new leader starts
 * from it.
 *
 *   start-requested ──> active <──> moving-live / moving-cold        failed (left by `disabled` only)
 *        │  ▲             │  ▲
 *        │  │             │  └── frozen (its agent restarts, or hold)
 *        ▼  │             ▼
 *   start-requested-   stop-requested ──> inactive ──> start-requested
 *     elsewhere
 *   any state on a lost node ──> awaiting-fence ──> awaiting-recovery ──> active / stop-requested on another node
 *   given up by its node, or its order's epoch is over ──> awaiting-recovery
 */
export type GuestState =
  /** `waitsFor`: guests that it starts after and that do not run yet; left out: nobody (start-groups.ts). */
  | { kind: 'start-requested'; waitsFor?: readonly string[] }
  /** Balanced before its start: moved while it does not run. */
  | { kind: 'start-requested-elsewhere'; to: string }
  /**
   * `seenRunning`: the last start order succeeded. `recovered`: the first start after a recovery is still awaited. `moveFailed`: it was to move and
   * could not; left out: it was not.
   */
  | { kind: 'active'; seenRunning: boolean; recovered: boolean; moveFailed?: true }
  | { kind: 'stop-requested'; timeoutMs: number | null }
  | { kind: 'inactive' }
  | { kind: 'moving-live'; to: string }
  | { kind: 'moving-cold'; to: string }
  | { kind: 'awaiting-fence' }
  | { kind: 'awaiting-recovery'; waitsFor?: readonly string[] }
  | { kind: 'frozen' }
  | { kind: 'failed' };

export type QueuedCommand = Extract<Command, { kind: 'move' | 'stop' }>;

export type GuestEntry = {
  state: GuestState;
  /** Where it is, or was when its node was lost. */
  node: string;
  /** The order that its agent is to carry out; a new number is a new order. */
  orderId: number;
  /** Nodes where its start failed since the last good start. */
  failedNodes: readonly string[];
  /** Nodes where its start failed before the last good one, and when that was: for a while it does not go back there of the manager's accord. */
  avoids?: { nodes: readonly string[]; sinceMs: number } | null;
  /** The drained node that it returns to. */
  returnTo: string | null;
  command: QueuedCommand | null;
  sinceMs: number;
  because: string;
};

export type NodeState = 'up' | 'unreachable' | 'fencing' | 'draining' | 'removed';

/** `waiting`: accepted, but something is still recovered or moved. `in-force`: agents let go. `complete`: all of them did. */
export type Disarm = { mode: 'hold' | 'hands-off'; stage: 'waiting' | 'in-force' | 'complete' };

/**
 * Wall-clock times of a node's newest claims, oldest first, and whether it is kept away because of them (quarantine.ts). `epoch`: the
 * newest that was claimed and noted.
 */
export type Flap = { claimedAtMs: readonly number[]; quarantined: boolean; epoch?: number };

export type ManagerMemory = {
  nodes: ReadonlyMap<string, NodeState>;
  guests: ReadonlyMap<string, GuestEntry>;
  /** Nodes that an operator asked to drain; kept over reboots. */
  drains: ReadonlySet<string>;
  disarm: Disarm | null;
  /**
   * Nodes whose agents let go while guests ran on (disarmed, or the agent restarted), until a watchdog is seen open there again. Silence
   * proves nothing about them: no watchdog ends a guest that runs on behind a cut link.
   */
  unguarded: ReadonlySet<string>;
  imbalancedRounds: number;
  nextOrderId: number;
  flaps: ReadonlyMap<string, Flap>;
};

/** The memory of a cluster that has never been led. */
export function emptyMemory(): ManagerMemory {
  return {
    nodes: new Map(),
    guests: new Map(),
    drains: new Set(),
    disarm: null,
    unguarded: new Set(),
    imbalancedRounds: 0,
    nextOrderId: 1,
    flaps: new Map(),
  };
}

/** The node that the guest is on its way to, or null. */
export function targetOf(state: GuestState): string | null {
  switch (state.kind) {
    case 'start-requested-elsewhere':
    case 'moving-live':
    case 'moving-cold':
      return state.to;
    case 'start-requested':
    case 'active':
    case 'stop-requested':
    case 'inactive':
    case 'awaiting-fence':
    case 'awaiting-recovery':
    case 'frozen':
    case 'failed':
      return null;
  }
}

/** True while the guest takes up room, for load and for affinity: in every state but inactive and start-requested. */
export function takesRoom(state: GuestState): boolean {
  return state.kind !== 'inactive' && state.kind !== 'start-requested';
}

/** True while the guest keeps the agents of its node and of its target at work. */
export function isActiveWork(state: GuestState): boolean {
  switch (state.kind) {
    case 'inactive':
    case 'frozen':
    case 'failed':
    case 'start-requested':
      return false;
    case 'start-requested-elsewhere':
    case 'active':
    case 'stop-requested':
    case 'moving-live':
    case 'moving-cold':
    case 'awaiting-fence':
    case 'awaiting-recovery':
      return true;
  }
}
