import type { GuestEntry } from '#core/ha/manager/memory.ts';

/** `/holdfast/guests/VMID`: a guest's configuration, its home, and the standing order for it. */

export type GuestDisk = {
  /** `disk0`, `disk1`, …; also the device id and the serial the guest sees. */
  name: string;
  sizeBytes: number;
};

export type GuestNic = {
  /** Lower-case colon form, `52:54:00:..`. */
  mac: string;
  bridge: string;
};

export type GuestConfig = {
  cores: number;
  memoryMb: number;
  disks: GuestDisk[];
  nics: GuestNic[];
  /**
   * Direct kernel boot; null: boot from disk0 by firmware. `kernel` and `initrd` name files in the node's assets folder
   * (`<data>/assets`). `holdfast.generation=N holdfast.vmid=N` is appended to the command line at each start.
   */
  boot: { kernel: string; initrd: string | null; append: string } | null;
};

/**
 * The standing order for the home node: valid only under `nodeEpoch`. It says what should be, not what to do once: an agent that restarts
 * reads it again. `run` with `promote` set says that the disks must first be promoted from a replica at least as new as that point.
 */
export type GuestOrder = {
  /** The manager's number of this order; its end is told under it (HaStatus.end). A new number is a new order. */
  id: number;
  /**
   * `move`: stop the guest, bring the copy on `to` up to date, then give the guest up (see GivenUp). `hold`: neither start nor stop it, whatever
   * it does (failed, frozen).
   */
  kind: 'run' | 'stop' | 'move' | 'hold';
  /** `move` only: the node that is to be its home. */
  to?: string;
  /** `stop` only: how long the guest may take before it is killed; 0: killed at once; left out: the usual time. */
  timeoutMs?: number;
  nodeEpoch: number;
  managerEpoch: number;
  promote: ReplicaPoint | null;
  /** A recovery: wall clock that the lost home wrote in its last heartbeat, from which the age of copies counts; else null. */
  lostAtMs: number | null;
  issuedAtMs: number;
};

/** Identity of one replicated point of a guest: all its disks at one instant. Ordered by generation, then seq. */
export type ReplicaPoint = { generation: number; seq: number };

export type GuestRecord = {
  vmid: number;
  name: string;
  config: GuestConfig;
  /** The node that owns the disks now: the only one that may run the guest and the only valid sender of its replication. */
  home: string;
  /** Grows by one each time another node becomes home by recovery; streams from older generations are refused. */
  generation: number;
  /** null until the manager has adopted the guest, and after the home's agent declined a recovery. */
  order: GuestOrder | null;
  /** Copies that their node's agent found unfit to recover from, newest last. Only a newer point there is tried again. */
  declined?: DeclinedCopy[];
  /** What the manager makes of it, written with the order that follows from it; left out until it is adopted, and while it is ignored. */
  ha?: GuestEntry;
  /** The home gave it up while alive; left out: it did not. Any new order takes it away. */
  givenUp?: GivenUp;
};

/**
 * Written by the agent of the home itself, in place of the order, once the guest has stopped there and copies are as new as its disks: the end
 * of a move, or of a node that is about to end. From then on nothing there can start it without a new order, so the manager may
 * order it elsewhere although that node is alive.
 */
export type GivenUp = {
  node: string;
  /** The order that it ended; null: the node gave it up by itself because it ends. */
  orderId: number | null;
  /** The state of its disks at the end, as copied to `copiedTo`. */
  point: ReplicaPoint;
  copiedTo: string[];
  atMs: number;
  because: string;
};

/**
 * Written by the agent of the ordered home itself, in place of the order, when the copy does not verify. It never started the guest
 * and from then on cannot: so the manager may order it elsewhere although that node is alive.
 */
export type DeclinedCopy = { node: string; point: ReplicaPoint; lostAtMs: number | null; because: string };

/** Negative when `a` is older than `b`, positive when newer, 0 when they are the same point. */
export function comparePoints(a: ReplicaPoint, b: ReplicaPoint): number {
  return a.generation - b.generation || a.seq - b.seq;
}
