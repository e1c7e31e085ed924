import type { GuestRecord, ReplicaPoint } from '#core/guest/guest-record.ts';
import type { ClusterSnapshot, NodeRecords } from '#core/ha/cluster-snapshot.ts';
import {
  deriveManagedCluster,
  deriveManagedGuest,
  deriveManagedNode,
  type ManagedCluster,
  type ManagedGuest,
  type ManagedNode,
} from '#core/ha/cluster-view-ha.ts';
import { targetOf } from '#core/ha/manager/memory.ts';
import type { ClaimProof, HaStatus, WantedState } from '#core/ha/records.ts';
import { defaultReplicationJob, type LeftBehind } from '#core/replica/records.ts';

/**
 * The cluster as an operator sees it: derived from two snapshots taken about a second apart.
 *
 *   snapshot, a moment later snapshot ──> node conditions ──> guest conditions ──> copies with their age ──> verdict.ts
 *
 * Whether a node lives is told by its heartbeat being written between the two, never by the clocks in the records. Durations
 * that come from records (`forMs`, `ageMs`) are differences of wall clocks of two machines: for people only.
 */
export type ClusterView = {
  /** False: the store could not be read, so everything but `members` is empty and means nothing. */
  readable: boolean;
  cluster: string | null;
  members: { name: string; endpoint: string; healthy: boolean; leader: boolean }[];
  manager: { node: string; epoch: number; alive: boolean } | null;
  ha: ManagedCluster;
  nodes: NodeView[];
  guests: GuestView[];
  tails: TailView[];
};

type NodeCondition =
  /** Its heartbeat was written while we watched. */
  | { kind: 'serving' | 'frozen' | 'releasing' | 'disarmed' }
  /** It holds its permit, but no heartbeat came while we watched. `disarmed`: so said its last one, and no silence will claim it. */
  | { kind: 'silent'; forMs: number | null; disarmed: boolean }
  /** Its permit was revoked: its guests may be placed elsewhere. */
  | { kind: 'fenced'; forMs: number; proof: ClaimProof }
  /** It never held a permit. */
  | { kind: 'joining' };

export type NodeView = {
  name: string;
  condition: NodeCondition;
  epoch: number | null;
  /** null: not known (the node is not alive, or the agent was not seen since its boot). */
  agentSilentMs: number | null;
  /** Its agent has told what the node has; otherwise address, accelerator, watchdog and memory are not known. */
  introduced: boolean;
  address: string | null;
  accelerator: string | null;
  watchdog: { device: string; timeoutMs: number } | null;
  hasController: boolean;
  load: { guestsRunning: number; memoryUsedMb: number } | null;
  memoryMb: number | null;
  problems: string[];
  ha: ManagedNode;
};

type GuestState =
  | 'running'
  /** Its node is silent or frozen: the guest is frozen or dead until the node returns or is claimed. */
  | 'frozen'
  /** Its node was fenced and it has no new home yet. */
  | 'lost'
  | 'starting'
  | 'stopped'
  | 'failed'
  | 'waiting';

export type GuestView = {
  vmid: number;
  name: string;
  home: string;
  generation: number;
  want: WantedState;
  state: GuestState;
  because: string;
  replicated: boolean;
  intervalMs: number;
  maxDataAgeMs: number | null;
  /** What the manager makes of it; null: it does not manage it, or not yet. */
  ha: ManagedGuest | null;
  /** One for every node but the home. */
  copies: CopyView[];
};

export type CopyView = {
  node: string;
  /** The node that holds it answers now. */
  reachable: boolean;
  /** The newest whole point and how old its data is; null: no verified copy there. */
  newest: { point: ReplicaPoint; ageMs: number; cycle: { kind: string; bytes: number; tookMs: number; pausedMs: number } } | null;
};

export type TailView = LeftBehind & { vmid: number; node: string };

type ViewOptions = {
  members: ClusterView['members'];
  /** Why the manager could not place a guest, newest first; by guest. */
  deferrals: Map<number, string>;
  nowMs: number;
};

/** Derives the view from two snapshots, `earlier` and `now`. */
export function deriveView(earlier: ClusterSnapshot, now: ClusterSnapshot, options: ViewOptions): ClusterView {
  const nodes = now.nodes.map((node) =>
    deriveNode(
      node,
      earlier.nodes.find((before) => before.name === node.name),
      now,
      options.nowMs,
    ),
  );
  const leader = nodes.find((node) => node.name === now.manager?.node);
  return {
    readable: true,
    cluster: now.cluster?.name ?? null,
    members: options.members,
    manager:
      now.manager === null
        ? null
        : { node: now.manager.node, epoch: now.manager.epoch, alive: leader !== undefined && isAlive(leader.condition) },
    ha: deriveManagedCluster(now),
    nodes,
    guests: now.guests.map((guest) => deriveGuest(guest, now, nodes, options)),
    tails: now.replicas.flatMap((copy) => copy.leftBehind.map((tail) => ({ ...tail, vmid: copy.vmid, node: copy.node }))),
  };
}

/** What can be said when the store could not be read: only which members answer. */
export function unreadableView(members: ClusterView['members']): ClusterView {
  const ha: ManagedCluster = { disarm: null, quarantine: { afterClaims: 0, windowMs: 0 } };
  return { readable: false, cluster: null, members, manager: null, ha, nodes: [], guests: [], tails: [] };
}

/** True while the node's guard renews. */
export function isAlive(condition: NodeCondition): boolean {
  return ['serving', 'frozen', 'releasing', 'disarmed'].includes(condition.kind);
}

/** Names of nodes that hold a permit but wrote no heartbeat between the two snapshots. */
export function listSilent(earlier: ClusterSnapshot, now: ClusterSnapshot): string[] {
  return now.nodes
    .filter((node) => node.permit?.state === 'granted')
    .filter(
      (node) =>
        !hasNewHeartbeat(
          earlier.nodes.find((before) => before.name === node.name),
          node,
        ),
    )
    .map((node) => node.name);
}

function hasNewHeartbeat(before: NodeRecords | undefined, node: NodeRecords): boolean {
  return node.heartbeat !== null && before !== undefined && node.heartbeatRevision !== before.heartbeatRevision;
}

function deriveNode(node: NodeRecords, before: NodeRecords | undefined, now: ClusterSnapshot, nowMs: number): NodeView {
  const condition = deriveCondition(node, before, nowMs);
  return {
    name: node.name,
    condition,
    epoch: node.permit?.epoch ?? null,
    agentSilentMs: isAlive(condition) ? (node.heartbeat?.agentSilentMs ?? null) : null,
    introduced: node.info !== null,
    address: node.info?.address ?? null,
    accelerator: node.info?.accelerator ?? null,
    watchdog: node.info?.watchdog ?? null,
    hasController: node.bmc !== null,
    load: isAlive(condition) ? (node.heartbeat?.load ?? null) : null,
    memoryMb: node.info?.memoryMb ?? null,
    problems: node.info?.problems ?? [],
    ha: deriveManagedNode(node, now, nowMs),
  };
}

function deriveCondition(node: NodeRecords, before: NodeRecords | undefined, nowMs: number): NodeCondition {
  if (node.permit === null) return { kind: 'joining' };
  if (node.permit.state === 'revoked') {
    return { kind: 'fenced', forMs: Math.max(0, nowMs - node.permit.revokedAtMs), proof: node.permit.proof };
  }
  if (node.heartbeat === null || !hasNewHeartbeat(before, node)) {
    const forMs = node.heartbeat === null ? null : Math.max(0, nowMs - node.heartbeat.sentAtMs);
    return { kind: 'silent', forMs, disarmed: node.heartbeat?.phase === 'disarmed' };
  }
  return { kind: node.heartbeat.phase };
}

function deriveGuest(guest: GuestRecord, now: ClusterSnapshot, nodes: NodeView[], options: ViewOptions): GuestView {
  const resource = now.resources.find((entry) => entry.vmid === guest.vmid);
  const job = now.jobs.find((entry) => entry.vmid === guest.vmid) ?? defaultReplicationJob;
  const home = nodes.find((node) => node.name === guest.home);
  const status = now.statuses.find(
    (entry) => entry.vmid === guest.vmid && entry.node === guest.home && entry.generation === guest.generation,
  );
  const want = resource?.want ?? 'ignored';
  const ha = deriveManagedGuest(guest, now, options.nowMs);
  return {
    vmid: guest.vmid,
    name: guest.name,
    home: guest.home,
    generation: guest.generation,
    want,
    ...deriveGuestState({ guest, want, ha, status, home, deferral: options.deferrals.get(guest.vmid) ?? null }),
    replicated: job.enabled,
    intervalMs: job.intervalMs,
    maxDataAgeMs: resource?.maxDataAgeMs ?? null,
    ha,
    copies: nodes.filter((node) => node.name !== guest.home).map((node) => deriveCopy(guest, node, now, options.nowMs)),
  };
}

type StateClues = {
  guest: GuestRecord;
  want: WantedState;
  ha: ManagedGuest | null;
  status: HaStatus | undefined;
  home: NodeView | undefined;
  deferral: string | null;
};

type SeenState = { state: GuestState; because: string };

function deriveGuestState(clues: StateClues): SeenState {
  const { guest, want, ha, status, home } = clues;
  if (home === undefined) return { state: 'lost', because: `its home ${guest.home} is not known to the cluster` };
  if (home.condition.kind === 'fenced' || home.condition.kind === 'joining') return deriveOnLostHome(clues);
  if (status?.state === 'running' || status?.state === 'starting') return deriveIfItRan(status, home);
  if (ha?.state.kind === 'failed' && want !== 'ignored') return { state: 'failed', because: failure(ha, status) };
  if (want !== 'started' && guest.order?.kind !== 'run') {
    return { state: 'stopped', because: status?.because ?? 'it was not started here' };
  }
  // Stopped on purpose, because its node ends: nobody is to start it elsewhere.
  if (ha?.state.kind === 'frozen') return { state: 'frozen', because: home.ha.agentBecause ?? ha.because };
  const to = ha === null ? null : targetOf(ha.state);
  if (to !== null) return { state: 'waiting', because: `it is on its way to ${to}` };
  if (guest.givenUp !== undefined)
    return { state: 'waiting', because: `${guest.givenUp.node} gave it up: ${guest.givenUp.because}` };
  if (status !== undefined) return { state: status.state, because: status.because };
  return {
    state: 'waiting',
    because: guest.order === null ? 'the manager has not adopted it yet' : `${guest.home} has not taken its order up yet`,
  };
}

function deriveOnLostHome({ guest, want, ha, deferral }: StateClues): SeenState {
  if (want !== 'started') return { state: 'stopped', because: `its home ${guest.home} is down` };
  // It waits for its node on purpose: nobody is to place it elsewhere.
  if (ha?.state.kind === 'frozen') return { state: 'frozen', because: ha.because };
  if (ha?.state.kind === 'failed') return { state: 'failed', because: ha.because };
  return { state: 'lost', because: deferral ?? `its home ${guest.home} was fenced; the manager is to place it` };
}

function deriveIfItRan(status: HaStatus, home: NodeView): SeenState {
  // A disarmed guard guards nothing, so nothing freezes its guests either.
  if (home.condition.kind !== 'serving' && home.condition.kind !== 'disarmed') {
    return { state: 'frozen', because: `its home ${home.name} is ${home.condition.kind}` };
  }
  if (status.nodeEpoch !== home.epoch) {
    return {
      state: 'waiting',
      because: `${home.name} began epoch ${home.epoch}; the guest ran under epoch ${status.nodeEpoch}`,
    };
  }
  return { state: status.state, because: status.because };
}

function failure(ha: ManagedGuest, status: HaStatus | undefined): string {
  return status?.state === 'failed' && status.because !== ha.because ? `${ha.because}; ${status.because}` : ha.because;
}

function deriveCopy(guest: GuestRecord, node: NodeView, now: ClusterSnapshot, nowMs: number): CopyView {
  const copy = now.replicas.find((entry) => entry.vmid === guest.vmid && entry.node === node.name);
  return {
    node: node.name,
    reachable: isAlive(node.condition),
    newest: copy === undefined ? null : { point: copy.point, ageMs: Math.max(0, nowMs - copy.pointAtMs), cycle: copy.lastCycle },
  };
}
