import type { ReplicaPoint } from '#core/guest/guest-record.ts';
import type { ReplicaRecord, ReplicationJob } from '#core/replica/records.ts';
import type { RunningGuest } from '#ports/hypervisor.ts';
import type { Calls, TargetState } from '#programs/replication/messages.ts';
import type { GuestSender } from '#programs/replication/sender.ts';

/**
 * How copies are kept and how changes travel. Schedule, fairness, bandwidth, retry, authority and the age of data are the same for every driver;
 * this is all that differs.
 */
export type ReplicationDriver = {
  /** Ends what an earlier process of ours left. */
  recover(): Promise<void>;
  /** Guests of which anything is held here. */
  listHeld(): Promise<number[]>;
  /** What this node tells the cluster of the copy here; null: nothing of it could be promoted. */
  describe(vmid: number): Promise<ReplicaRecord | null>;
  /** What a sender is told of the copy here. */
  readState(vmid: number): Promise<TargetState>;
  /** Opens a new point; one that was on its way before is dropped. Raises AppError conflict for a stale sender and then changes nothing. */
  begin(request: Calls['begin']['ask'] & { peer: string }): Promise<IncomingPoint>;
  /** Drops points past the retention rule. */
  thin(vmid: number, keep: ReplicationJob['keep']): Promise<void>;
  closeAll(): Promise<void>;
  createSender(guest: RunningGuest): GuestSender;
  /** How two copies are compared chunk by chunk; null: this driver knows what differs without reading. */
  chunks: ChunkDesk | null;
};

/** A point on its way in. Whatever happens before `seal` returns leaves the copy at the point before. */
export type IncomingPoint = {
  readonly vmid: number;
  readonly point: ReplicaPoint;
  received(disk: string): Promise<boolean>;
  seal(about: AboutPoint): Promise<void>;
  abort(): Promise<void>;
};

export type AboutPoint = {
  source: string;
  pointAtMs: number;
  appliedAtMs: number;
  configSha256: string;
  lastCycle: ReplicaRecord['lastCycle'];
};

export type ChunkDesk = {
  hashIncoming(incoming: IncomingPoint, disk: string, signal: AbortSignal): Promise<Uint8Array>;
  openTail(
    vmid: number,
    name: string,
    label: string,
  ): Promise<{ hash(disk: string, signal: AbortSignal): Promise<Uint8Array>; close(): Promise<void> }>;
  noteTailSize(
    vmid: number,
    name: string,
    measured: Omit<Calls['measured']['ask'], 'vmid' | 'generation' | 'name'>,
  ): Promise<void>;
};
