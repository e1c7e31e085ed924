import { isInForce } from '#core/ha/manager/disarm.ts';
import { limits } from '#base/limits.ts';
import type { GuestRecord } from '#core/guest/guest-record.ts';
import type { ClusterSnapshot, NodeRecords } from '#core/ha/cluster-snapshot.ts';
import { withDefaults } from '#core/ha/ha-settings.ts';
import { expectNext, listOverdue, type Expectation, type StateDeadlines } from '#core/ha/manager/expectations.ts';
import type { AgentMode } from '#core/ha/manager/facts.ts';
import { emptyMemory, type Disarm, type GuestEntry, type NodeState } from '#core/ha/manager/memory.ts';
import { timingProfiles } from '#core/ha/timing.ts';

/** The manager's part of the cluster's view: what it knows of each node and guest, and what should have happened by now. */

export type ManagedCluster = {
  disarm: Disarm | null;
  quarantine: { afterClaims: number; windowMs: number };
};

export type ManagedNode = {
  /** null: the manager has not seen it yet. */
  state: NodeState | null;
  /** An operator asked to drain it. */
  drained: boolean;
  /** Receives no guests because it was claimed too often. */
  quarantined: boolean;
  /** How long ago it was claimed, within the quarantine's window. */
  claimedAgoMs: number[];
  agentMode: AgentMode;
  agentBecause: string | null;
};

export type ManagedGuest = Pick<GuestEntry, 'state' | 'node' | 'orderId' | 'failedNodes' | 'returnTo' | 'command' | 'because'> & {
  /** Difference of two machines' wall clocks: for people only. */
  forMs: number;
  /** Where its start failed before it went well elsewhere, and for how long it does not go back by itself; null: it goes anywhere. */
  avoids: { nodes: readonly string[]; leftMs: number } | null;
  next: Pick<Expectation, 'who' | 'next'>;
  /** Until the state should have been left, below zero: it is overdue; null: it may stay as it is. */
  leftMs: number | null;
};

export function deriveManagedCluster({ memory, settings }: ClusterSnapshot): ManagedCluster {
  const { quarantineAfter, quarantineWindowMs } = withDefaults(settings);
  return { disarm: memory?.disarm ?? null, quarantine: { afterClaims: quarantineAfter, windowMs: quarantineWindowMs } };
}

export function deriveManagedNode(node: NodeRecords, { memory, settings }: ClusterSnapshot, nowMs: number): ManagedNode {
  const flaps = memory?.flaps[node.name];
  const { quarantineWindowMs } = withDefaults(settings);
  const agoMs = (flaps?.claimedAtMs ?? []).map((atMs) => Math.max(0, nowMs - atMs));
  // What an agent said of itself ends with the boot that it said it in.
  const boot = node.heartbeat?.bootId ?? node.info?.bootId;
  const agent = node.agent !== null && node.agent.bootId === boot ? node.agent : null;
  return {
    state: memory?.nodes[node.name] ?? null,
    drained: memory?.drains.includes(node.name) ?? false,
    quarantined: flaps?.quarantined ?? false,
    claimedAgoMs: agoMs.filter((ms) => ms <= quarantineWindowMs),
    agentMode: agent?.mode ?? 'active',
    agentBecause: agent?.because ?? null,
  };
}

/** null: the manager does not manage the guest, or not yet. */
export function deriveManagedGuest({ vmid, ha }: GuestRecord, now: ClusterSnapshot, nowMs: number): ManagedGuest | null {
  if (ha === undefined) return null;
  const deadlines = stateDeadlines(now);
  const { who, next, deadlineMs } = expectNext(ha, deadlines);
  const memory = { ...emptyMemory(), guests: new Map([[String(vmid), ha]]), disarm: now.memory?.disarm ?? null };
  const overdue = listOverdue(memory, deadlines, nowMs)[0];
  // An operator's hold has no end of its own.
  const isHeld = ha.state.kind === 'frozen' && isInForce(memory.disarm);
  const untilMs = deadlineMs === null || isHeld ? null : deadlineMs - nowMs;
  const { state, node, orderId, failedNodes, returnTo, command, because } = ha;
  const avoidsMs = ha.avoids ? ha.avoids.sinceMs + limits.avoidFailedMs - nowMs : 0;
  return {
    state,
    node,
    orderId,
    failedNodes,
    returnTo,
    command,
    because,
    forMs: Math.max(0, nowMs - ha.sinceMs),
    avoids: ha.avoids && avoidsMs > 0 ? { nodes: ha.avoids.nodes, leftMs: avoidsMs } : null,
    next: { who, next },
    leftMs: overdue === undefined ? untilMs : -overdue.lateMs,
  };
}

/** By when each state should be left. The silence that a claim needs is what the slowest node's own profile says. */
function stateDeadlines({ nodes }: ClusterSnapshot): StateDeadlines {
  const claimsMs = nodes.map(({ permit }) => (permit?.state === 'granted' ? permit.claimMs : 0));
  return {
    roundMs: limits.overdueRoundMs,
    startMs: limits.guestWaitMs,
    stopMs: limits.guestShutdownMs + limits.guestKillMs + limits.overdueRoundMs,
    moveMs: limits.overdueMoveMs,
    claimMs: Math.max(timingProfiles.standard.claimMs, ...claimsMs) + limits.overdueRoundMs,
    placeMs: limits.overduePlaceMs,
    startsAfterWaitMs: limits.startsAfterWaitMs,
    returnMs: limits.overdueReturnMs,
  };
}
