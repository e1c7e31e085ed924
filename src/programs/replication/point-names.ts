/**
 * Names of what a point is made of inside QEMU. Points of two kinds may be open on one disk at a time: the one for other nodes lasts a cycle, the
 * one for a backup as long as its target takes.
 *
 *     device ─► cbw-disk0 (replication, when open) ─► bak-cbw-disk0 (backup, when open) ─► act-disk0
 */
export type PointNames = {
  scratch(disk: string): string;
  /** Keeps old data before the guest overwrites it. */
  filter(disk: string): string;
  /** What is read. */
  point(disk: string): string;
  /** The filter of the other kind that may stand between ours and the disk. */
  below(disk: string): string | null;
  /** The bitmap on the disk that follows the guest's writes. */
  tracking: string;
  /** The bitmap of what changed up to the point that is being read. */
  cycle: string;
  /** The smallest piece that the bitmaps tell apart. */
  granularity: number;
};

/** A disk's own node, and the one that writes to another node. */
export const nodes = {
  active: (disk: string) => `act-${disk}`,
  target: (disk: string) => `tgt-${disk}`,
} as const;

/** What is told of a point that QEMU gave up; it says so to nobody but whoever reads on. */
export const pointGone =
  'the point is gone: old data could not be kept in time; is the disk under the scratch folder slow or full?';

/** The job that pushes a disk's changes to another node, and its bitmap. */
export const push = 'push';

/** A point for a node; its overlay there has clusters of the same size as the pieces. */
export function replicaNames(node: string): PointNames {
  return { ...replicaNodes, tracking: `rep-${node}`, cycle: `cyc-${node}`, granularity: 65_536 };
}

export const replicaNodes = {
  scratch: (disk: string) => `scr-${disk}`,
  filter: (disk: string) => `cbw-${disk}`,
  point: (disk: string) => `acc-${disk}`,
  below: (disk: string) => backupNodes.filter(disk),
} as const;

/** A point for backups to one place, which takes whole chunks of 4 MiB. `place`: see core/guest-backup. */
export function backupNames(place: string): PointNames {
  return { ...backupNodes, tracking: `bak-${place}`, cycle: `bcy-${place}`, granularity: 4 << 20 };
}

export const backupNodes = {
  scratch: (disk: string) => `bak-scr-${disk}`,
  filter: (disk: string) => `bak-cbw-${disk}`,
  point: (disk: string) => `bak-acc-${disk}`,
  below: () => null,
} as const;
