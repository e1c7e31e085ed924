import type { ReplicaPoint } from '#core/guest/guest-record.ts';

/** `/holdfast/replication/VMID`: how a guest's disks are copied. Without a record the defaults below hold. */
export type ReplicationJob = {
  vmid: number;
  /** Wanted time between two points, 1000 and up. */
  intervalMs: number;
  /** Payload limit to each target; null: none. */
  rateBytesPerSecond: number | null;
  /** How many applied points to keep on the targets: the newest `recent`, then one per minute, then one per hour. */
  keep: { recent: number; minutes: number; hours: number };
  enabled: boolean;
  /** The guest's own agent brings its file systems to rest for the instant of each point. Left out: it does not. */
  freeze?: boolean;
  /** Left-behind tails are removed after so many days; null or left out: only a person removes them. */
  keepTailsDays?: number | null;
};

export const defaultReplicationJob: Omit<ReplicationJob, 'vmid'> = {
  intervalMs: 60_000,
  rateBytesPerSecond: null,
  keep: { recent: 4, minutes: 3, hours: 2 },
  enabled: true,
};

/** A kept tail: writes of a former home that never reached the copy that was promoted. Removed by a person only, unless the guest's job says otherwise. */
export type LeftBehind = {
  /** `left-behind-g<generation>` of the tail's own generation. */
  name: string;
  generation: number;
  /** Bytes that differ from the promoted point, measured; null until measured. */
  sizeBytes: number | null;
  /** The promoted point's time and the last write seen on the tail. */
  fromAtMs: number | null;
  untilAtMs: number | null;
};

/**
 * `/holdfast/replicas/VMID/NODE`: the newest verified copy that NODE holds, written by NODE's agent after the manifest is
 * committed (rename + fsync). Data age = now - pointAtMs, the source's wall clock when the guest was at that point.
 */
export type ReplicaRecord = {
  vmid: number;
  node: string;
  source: string;
  point: ReplicaPoint;
  pointAtMs: number;
  appliedAtMs: number;
  /** What the last cycle took and moved, for people. `full`: with nothing in common there was nothing to compare either. */
  lastCycle: { kind: 'compare' | 'delta' | 'full'; bytes: number; tookMs: number; pausedMs: number };
  leftBehind: LeftBehind[];
};
