import type { ReplicaPoint } from '#core/guest/guest-record.ts';
import type { AgentMode, Command, OrderResult, RebalanceSettings } from '#core/ha/manager/facts.ts';
import type { Disarm, NodeState } from '#core/ha/manager/memory.ts';
import type { Rule } from '#core/ha/manager/rules.ts';
import type { ShutdownPolicy } from '#core/ha/manager/shutdown-policy.ts';

/**
 * The shapes of the cluster's record that failover depends on. Times ending in `AtMs` are wall clock, for people only: no
 * decision is taken from them. `...BootMs` is the boot-time clock of one machine and means nothing on another.
 */

/** `/holdfast/cluster`: which cluster this store belongs to. Programs refuse a store whose id differs from their node.toml. */
export type ClusterRecord = { id: string; name: string; createdAtMs: number };

/** Why a claim may be made: one of the four proofs of failover.md. Kept with the revoked permit. */
export type ClaimProof =
  | { kind: 'silence'; heartbeatSeq: number; silentMs: number; claimMs: number; observer: string }
  | { kind: 'power-off'; heartbeatSeq: number; controller: string; readsApartMs: number; observer: string }
  | { kind: 'new-boot'; oldBootId: string; newBootId: string }
  | { kind: 'released'; reason: string };

/**
 * `/holdfast/nodes/NAME/permit`. A guard takes a permit (granted) under a new epoch; the manager revokes it (epoch + 1).
 * Epochs only grow: an epoch that was revoked is never granted again.
 */
export type Permit =
  /** `claimMs`: silence that the node's own timing profile needs before a claim; a manager with a quicker profile waits it out. */
  | { state: 'granted'; epoch: number; bootId: string; claimMs: number; grantedAtMs: number; pastClaims?: PastClaim[] }
  | {
      state: 'revoked';
      epoch: number;
      revokedEpoch: number;
      proof: ClaimProof;
      managerEpoch: number;
      revokedAtMs: number;
      /** The manager that claimed the node had asked its controller to cut the power: whoever leads later gives it back. */
      powerCut?: boolean;
      pastClaims?: PastClaim[];
    };

/** A claim of the node before this permit, kept by its guard: whoever leads counts it even if nobody wrote it down in time. */
export type PastClaim = { epoch: number; atMs: number };

/**
 * `/holdfast/nodes/NAME/release`: the manager asks the node's guard to give the permit back (its agent is silent for too long). While
 * the key is there no renewal succeeds; the guard kills the guests and deletes the key in the transaction that revokes its permit.
 */
export type ReleaseOrder = { reason: string; managerEpoch: number; askedAtMs: number };

/**
 * What the guard is doing with the HA guests. `disarmed`: it guards nothing, its watchdog is closed or about to be; its silence proves
 * nothing. The guard lets go only after a heartbeat of this phase was acknowledged.
 */
export type GuardPhase = 'serving' | 'frozen' | 'releasing' | 'disarmed';

/** `/holdfast/nodes/NAME/heartbeat`: one write a renewal, through the quorum, by that node's guard only. */
export type Heartbeat = {
  seq: number;
  epoch: number;
  bootId: string;
  phase: GuardPhase;
  /** Milliseconds since the agent last said it is alive; null: not seen since this boot. */
  agentSilentMs: number | null;
  /** What the agent last said of its load, for people and for placement. */
  load: { guestsRunning: number; memoryUsedMb: number } | null;
  sentAtMs: number;
};

/** `/holdfast/manager`: who leads. Changes only at a takeover, so its modRevision fences every write of a deposed leader. */
export type ManagerRecord = { node: string; epoch: number; sinceAtMs: number };

/** `/holdfast/nodes/NAME/info`: what a node has, written by its agent at start and when it changes. */
export type NodeInfo = {
  name: string;
  address: string;
  relayPort: number;
  bootId: string;
  accelerator: 'kvm' | 'tcg';
  qemuVersion: string;
  cores: number;
  memoryMb: number;
  watchdog: { device: string; timeoutMs: number } | null;
  /** Guests whose newest own (primary) copy lies on this node, with the generation of that copy. */
  primaryCopies: { vmid: number; generation: number }[];
  /** Why this node cannot serve HA, in words; empty when it can. */
  problems: string[];
};

/** `/holdfast/nodes/NAME/bmc`: a management controller. The password lies in a file on each node, never in the store. */
export type BmcRecord = {
  kind: 'ipmilan';
  address: string;
  port: number;
  user: string;
  passwordFile: string;
  /** RMCP+ cipher suite number; left out: the best one the controller says it knows. */
  cipherSuite?: number;
};

/** What the operator wants of a guest. `ignored`: Holdfast does not manage it at all. */
export type WantedState = 'started' | 'stopped' | 'disabled' | 'ignored';

/** `/holdfast/ha/resources/VMID` */
export type HaResource = {
  vmid: number;
  want: WantedState;
  /** Refuse to recover onto a copy older than this; null: any verified copy will do. */
  maxDataAgeMs: number | null;
  /** Starts tried again on the same node after one failed; left out: 1. */
  localRetries?: number;
  /** Starts tried on other nodes after one failed; left out: 1. */
  otherNodeTries?: number;
  /** A better-ranked node that comes back pulls the guest back; left out: true. */
  failback?: boolean;
  /** How long a recovery waits for a fresher copy on a node that is away; left out: not at all. */
  betterCopyWaitMs?: number;
  /** Guests of a lower number are recovered first; left out: 0. */
  startOrder?: number;
  /** Guests that must run before this one is recovered; left out: none. */
  startsAfter?: number[];
};

/** What the cluster does with guests when a node is asked to end; `/holdfast/ha/settings`. Everything left out has its default. */
export type HaSettings = {
  placement?: 'count' | 'by-size' | 'by-load';
  balanceOnStart?: boolean;
  autoRebalance?: RebalanceSettings | null;
  shutdownPolicy?: ShutdownPolicy;
  /** A node claimed this often within `quarantineWindowMs` receives no guests until an operator says so; 0: never. */
  quarantineAfter?: number;
  quarantineWindowMs?: number;
};

/** `/holdfast/ha/memory`: what the manager knows from round to round, but for the guests' entries, which are in their records. */
export type HaMemory = {
  nodes: Record<string, NodeState>;
  drains: string[];
  disarm: Disarm | null;
  unguarded: string[];
  imbalancedRounds: number;
  nextOrderId: number;
  /** Wall-clock times of the newest claims of each node, whether it is kept away because of them, and the newest epoch among them. */
  flaps: Record<string, { claimedAtMs: number[]; quarantined: boolean; epoch?: number }>;
};

/** `/holdfast/ha/rules/ID`: a placement rule; `id` is the last part of the key. */
export type HaRule = Rule;

/**
 * `/holdfast/ha/commands/ID`: an operator's command, taken by the manager.
 *
 *   (cli creates) waiting ──a round takes it, in the commit of what follows from it──> accepted | refused ──cli reads──> deleted
 *        └── cli deletes the record: withdrawn, nothing was done
 */
export type HaCommand = {
  /** Sorts by time, as a request's id. */
  id: string;
  command: Command;
  createdAtMs: number;
  state: 'waiting' | 'accepted' | 'refused';
  /** The manager's reason; empty while it waits. */
  because: string;
};

/** `/holdfast/nodes/NAME/agent`: what the node's agent says of itself; absent: active. Written by that agent only. */
export type AgentRecord = {
  mode: AgentMode;
  /** A mode other than `active` ends with the boot that it was said in. */
  bootId: string;
  because: string;
  atMs: number;
};

/** `/holdfast/nodes/NAME/load`: what the guests of a node use, averaged since its agent looked last. Written by that agent only. */
export type NodeLoad = { atMs: number; guests: GuestUse[] };
/** `cores`: CPU seconds a second. `memoryBytes`: what its QEMU keeps in memory. */
export type GuestUse = { vmid: number; cores: number; memoryBytes: number };

/** `/holdfast/nodes/NAME/disarm`: the manager tells the node's guard not to guard (no freeze, watchdog closed) until the key is gone. */
export type DisarmOrder = { mode: Disarm['mode']; managerEpoch: number; askedAtMs: number };

/** `/holdfast/ha/status/VMID`: what the home node's agent last did with the guest. */
export type HaStatus = {
  vmid: number;
  node: string;
  generation: number;
  nodeEpoch: number;
  state: 'starting' | 'running' | 'stopped' | 'failed' | 'waiting';
  because: string;
  /** Wall clock of the last change; for the timeline. */
  atMs: number;
  /** When this generation's QEMU process was spawned and when its first `RESUME`/running was seen. */
  qemuStartedAtMs: number | null;
  /** How long that start took, a promotion included, from the agent's first step to the guest's first instruction; left out: not known. */
  startTookMs?: number;
  /** The replicated point that this generation began from and its wall clock; null: it began from the guest's own disks. */
  promoted: { point: ReplicaPoint; pointAtMs: number } | null;
  /** How the order `orderId` ended under `nodeEpoch`; left out: it has not ended. A standing order may end again, with another result. */
  end?: { orderId: number; result: OrderResult };
};

/** `/holdfast/ha/events/ID`: one recorded step of the manager, for the timeline and the auditor. `id` sorts by time. */
export type HaEvent = {
  id: string;
  atMs: number;
  kind: 'claimed' | 'ordered' | 'declined' | 'given-up' | 'deferred' | 'took-lead' | 'state' | 'command' | 'node';
  node: string;
  vmid: number | null;
  managerEpoch: number;
  text: string;
  proof: ClaimProof | null;
};
