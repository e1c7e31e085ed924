import type { ReplicaPoint } from '#core/guest/guest-record.ts';

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
  | { state: 'granted'; epoch: number; bootId: string; claimMs: number; grantedAtMs: number }
  | {
      state: 'revoked';
      epoch: number;
      revokedEpoch: number;
      proof: ClaimProof;
      managerEpoch: number;
      revokedAtMs: number;
      /** The manager that claimed the node had asked its controller to cut the power: whoever leads later gives it back. */
      powerCut?: boolean;
    };

/**
 * `/holdfast/nodes/NAME/release`: the manager asks the node's guard to give the permit back (its agent is silent for too long). While
 * the key is there no renewal succeeds; the guard kills the guests and deletes the key in the transaction that revokes its permit.
 */
export type ReleaseOrder = { reason: string; managerEpoch: number; askedAtMs: number };

/** What the guard is doing with the HA guests. */
export type GuardPhase = 'serving' | 'frozen' | 'releasing';

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
};

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
  /** The replicated point that this generation began from and its wall clock; null: it began from the guest's own disks. */
  promoted: { point: ReplicaPoint; pointAtMs: number } | null;
};

/** `/holdfast/ha/events/ID`: one recorded step of the manager, for the timeline and the auditor. `id` sorts by time. */
export type HaEvent = {
  id: string;
  atMs: number;
  kind: 'claimed' | 'ordered' | 'declined' | 'deferred' | 'took-lead';
  node: string;
  vmid: number | null;
  managerEpoch: number;
  text: string;
  proof: ClaimProof | null;
};
