import { comparePoints, type ReplicaPoint } from '#core/guest/guest-record.ts';
import type { HandedOver } from '#core/guest/process-state.ts';
import type { LeftBehind, ReplicaRecord } from '#core/replica/records.ts';
import { zfsTailName } from './names.ts';

/** One whole point: a snapshot of each disk, known by its GUID. */
export type ZfsPoint = ReplicaPoint & {
  /** Disk name to the snapshot's GUID. */
  guids: Record<string, string>;
  source: string;
  pointAtMs: number;
  appliedAtMs: number;
  configSha256: string;
  lastCycle: ReplicaRecord['lastCycle'];
};

export type HandedZfsPoint = HandedOver & Pick<ZfsPoint, 'guids' | 'source' | 'pointAtMs' | 'configSha256' | 'lastCycle'>;

/** `isReleased`: its datasets are being removed. */
export type ZfsTail = LeftBehind & { keptSinceMs: number; isReleased?: true };

/**
 * What a node holds of one guest. It is kept in properties of the guest's dataset, which ZFS changes all at once: a snapshot that no point lists
 * is on its way in, or garbage.
 *
 *     create ──► primary ──demote──► replica (its own writes are a tail) ──seal──► replica with points
 *                   └──handed over, demote──► replica at that point
 *     seal of a first point ──► replica ──promote──► primary (written above the newest point)
 */
export type ZfsManifest = {
  version: 1;
  vmid: number;
  role: 'primary' | 'replica';
  /** primary: the generation written here. replica: the newest generation that was ever accepted. */
  generation: number;
  disks: { name: string; sizeBytes: number }[];
  /** Oldest first. */
  points: ZfsPoint[];
  /** primary: the point it was promoted from. */
  promotedFrom: ZfsPoint | null;
  leftBehind: ZfsTail[];
  /** primary: sequence numbers up to here may have been used for points of this generation. */
  reservedSeq: number;
  /** primary: others hold exactly this point, and nothing was written here since. Left out: it may have been. */
  handedOver?: HandedZfsPoint;
  /** primary: its disks were written anew and are taking the place of the old ones, which become this tail. */
  swapping?: string;
  /** replica: points that other nodes hold; what is needed to go on from them is kept. */
  anchors: ReplicaPoint[];
};

export function createZfsPrimary(vmid: number, generation: number, disks: ZfsManifest['disks']): ZfsManifest {
  return {
    version: 1,
    vmid,
    role: 'primary',
    generation,
    disks,
    points: [],
    promotedFrom: null,
    leftBehind: [],
    reservedSeq: 0,
    anchors: [],
  };
}

/** A copy that has received nothing yet. */
export function createZfsReplica(vmid: number, generation: number): ZfsManifest {
  return { ...createZfsPrimary(vmid, generation, []), role: 'replica' };
}

export function newestZfsPoint(manifest: ZfsManifest): ZfsPoint | null {
  return manifest.points.at(-1) ?? null;
}

/** The manifest with one more whole point; the disks are those of that point. */
export function sealZfsPoint(manifest: ZfsManifest, disks: ZfsManifest['disks'], point: ZfsPoint): ZfsManifest {
  return {
    ...manifest,
    generation: Math.max(manifest.generation, point.generation),
    disks,
    points: [...manifest.points, point],
  };
}

/** The replica becomes the primary copy of `generation`, at `point`; points after it do not exist. */
export function promoteZfsTo(manifest: ZfsManifest, generation: number, point: ZfsPoint): ZfsManifest {
  const { handedOver: _over, ...rest } = manifest;
  const points = manifest.points.filter((entry) => comparePoints(entry, point) <= 0);
  return { ...rest, role: 'primary', generation, points, promotedFrom: point, reservedSeq: 0, anchors: [] };
}

/**
 * The former primary becomes a replica without points: everything it holds that its new home lacks is the tail. `keptSinceMs`: now. `untilAtMs`:
 * the last write seen.
 */
export function demoteZfs(manifest: ZfsManifest, keptSinceMs: number, untilAtMs: number | null): ZfsManifest {
  const name = zfsTailName(manifest.generation, null);
  const tail: ZfsTail = { name, generation: manifest.generation, sizeBytes: null, fromAtMs: null, untilAtMs, keptSinceMs };
  const { handedOver: _over, ...rest } = manifest;
  const leftBehind = [...manifest.leftBehind.filter((entry) => entry.name !== name), tail];
  return { ...rest, role: 'replica', points: [], promotedFrom: null, leftBehind, reservedSeq: 0 };
}

/**
 * A former primary that handed everything over becomes a replica at that very point; null when it had not. All it holds is in the history of
 * its new home when that began from `identicalTo`, the same point; else nobody knows, and a tail keeps it as well.
 */
export function demoteZfsToPoint(
  manifest: ZfsManifest,
  identicalTo: ReplicaPoint | null,
  keptSinceMs: number,
): ZfsManifest | null {
  const { handedOver } = manifest;
  if (handedOver === undefined) return null;
  const { copiedTo: _nodes, point, ...about } = handedOver;
  const isKeptElsewhere = identicalTo !== null && comparePoints(point, identicalTo) === 0;
  const replica = demoteZfs(manifest, keptSinceMs, handedOver.pointAtMs);
  const points = [{ ...point, ...about, appliedAtMs: handedOver.pointAtMs }];
  return { ...replica, points, leftBehind: isKeptElsewhere ? manifest.leftBehind : replica.leftBehind };
}

/** The copy as it can be promoted: a primary that handed over exactly `point` is a whole copy of that point. */
export function toPromotableZfs(manifest: ZfsManifest, point: ReplicaPoint): ZfsManifest {
  const isThisPoint = manifest.handedOver !== undefined && comparePoints(manifest.handedOver.point, point) === 0;
  return isThisPoint ? (demoteZfsToPoint(manifest, point, 0) ?? manifest) : manifest;
}

/** Before the copy is opened for writing: from now on nobody knows what else it holds. The manifest itself when it says so already. */
export function openZfsForWriting(manifest: ZfsManifest): ZfsManifest {
  const { handedOver, ...rest } = manifest;
  return handedOver === undefined ? manifest : rest;
}

/** The manifest without these points; the newest one always stays. */
export function dropZfsPoints(manifest: ZfsManifest, dropped: readonly ReplicaPoint[]): ZfsManifest {
  const newest = manifest.points.at(-1);
  const isDropped = (point: ZfsPoint): boolean => dropped.some((entry) => comparePoints(entry, point) === 0);
  return { ...manifest, points: manifest.points.filter((point) => point === newest || !isDropped(point)) };
}

/**
 * Before what lies above `base` is set aside: the points that go with it, and the tail's name. `base` null: everything goes. A tail of a demotion
 * covers them when there is one; else they get one of their own, for no point that was ever confirmed is destroyed.
 */
export function setAside(
  manifest: ZfsManifest,
  base: ReplicaPoint | null,
  live: string | null,
  keptSinceMs: number,
): { manifest: ZfsManifest; tail: string } {
  const gone = manifest.points.filter((point) => base === null || comparePoints(point, base) > 0);
  const points = manifest.points.filter((point) => !gone.includes(point));
  const newest = gone.at(-1);
  if (live !== null) return { manifest: { ...manifest, points }, tail: live };
  const generation = newest?.generation ?? manifest.generation;
  const name = zfsTailName(generation, newest?.seq ?? 0);
  const tail: ZfsTail = {
    name,
    generation,
    sizeBytes: null,
    fromAtMs: null,
    untilAtMs: newest?.pointAtMs ?? null,
    keptSinceMs,
  };
  const leftBehind = [...manifest.leftBehind.filter((entry) => entry.name !== name), tail];
  return { manifest: { ...manifest, points, leftBehind }, tail: name };
}

/**
 * A primary copy whose disks were written anew; what lay there becomes a tail. Nobody may take it for what was handed over or promoted any more. With it
 * the new content counts; `swapping` until the disks have their names.
 */
export function replaceZfsContent(
  manifest: ZfsManifest,
  old: { name: string; sizeBytes: number; fromAtMs: number; untilAtMs: number },
  disks: ZfsManifest['disks'],
): ZfsManifest {
  const { handedOver: _over, ...rest } = manifest;
  const tail: ZfsTail = { ...old, generation: manifest.generation, keptSinceMs: old.untilAtMs };
  return { ...rest, disks, promotedFrom: null, leftBehind: [...manifest.leftBehind, tail], swapping: old.name };
}

export function endSwap({ swapping: _done, ...rest }: ZfsManifest): ZfsManifest {
  return rest;
}

/** Before the first dataset of a tail is removed, so that what a crash leaves of it is known as garbage. */
export function markReleased(manifest: ZfsManifest, name: string): ZfsManifest {
  const leftBehind = manifest.leftBehind.map((tail) => (tail.name === name ? { ...tail, isReleased: true as const } : tail));
  return { ...manifest, leftBehind };
}

export function releaseZfsTail(manifest: ZfsManifest, name: string): ZfsManifest {
  return { ...manifest, leftBehind: manifest.leftBehind.filter((tail) => tail.name !== name) };
}

/** Notes what a tail holds that the point it parted from does not. */
export function noteZfsTail(
  manifest: ZfsManifest,
  name: string,
  measured: { sizeBytes: number; fromAtMs: number | null },
): ZfsManifest {
  const leftBehind = manifest.leftBehind.map((tail) => (tail.name === name ? { ...tail, ...measured } : tail));
  return { ...manifest, leftBehind };
}

/** The tails as they are told to the cluster. */
export function listTails(manifest: ZfsManifest): LeftBehind[] {
  return manifest.leftBehind.filter((tail) => tail.isReleased !== true).map(describeZfsTail);
}

function describeZfsTail({ name, generation, sizeBytes, fromAtMs, untilAtMs }: ZfsTail): LeftBehind {
  return { name, generation, sizeBytes, fromAtMs, untilAtMs };
}

/** What a node tells the cluster of the copy that it holds; null while there is none that could be promoted. */
export function describeZfsReplica(manifest: ZfsManifest, node: string): ReplicaRecord | null {
  const whole = manifest.role === 'replica' ? newestZfsPoint(manifest) : handedPoint(manifest);
  if (whole === null) return null;
  const { generation, seq, source, pointAtMs, appliedAtMs, lastCycle } = whole;
  const leftBehind = listTails(manifest);
  return { vmid: manifest.vmid, node, source, point: { generation, seq }, pointAtMs, appliedAtMs, lastCycle, leftBehind };
}

function handedPoint({ handedOver }: ZfsManifest): Omit<ZfsPoint, 'configSha256' | 'guids'> | null {
  if (handedOver === undefined) return null;
  const { point, source, pointAtMs, lastCycle } = handedOver;
  return { ...point, source, pointAtMs, appliedAtMs: pointAtMs, lastCycle };
}
