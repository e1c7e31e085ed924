import { comparePoints, type ReplicaPoint } from '#core/guest/guest-record.ts';
import type { HandedOver } from '#core/guest/process-state.ts';
import type { LeftBehind, ReplicaRecord } from '#core/replica/records.ts';

/**
 * One file of a disk. The lowest layer of a disk is raw and whole; each one above is a qcow2 overlay that holds differences.
 * A seal (`sealed`) describes a layer nobody writes any more; null while a guest or a merge writes it.
 */
export type Layer = {
  file: string;
  format: 'raw' | 'qcow2';
  /** Size of the disk the guest sees, not of the file. */
  sizeBytes: number;
  sealed: { fileBytes: number; metadataSha256: string } | null;
};

/** Layers bottom to top. */
export type DiskLayers = { name: string; layers: Layer[] };

/** How many layers, counted from the bottom, make the image: disk name to count. */
export type Depths = Record<string, number>;

/** One whole point: all disks of the guest at one instant. */
export type KeptPoint = ReplicaPoint & {
  depths: Depths;
  source: string;
  pointAtMs: number;
  appliedAtMs: number;
  configSha256: string;
  /** What it took to bring it here. */
  lastCycle: ReplicaRecord['lastCycle'];
};

/** What is known of the point that a primary copy equals; see HandedOver. */
export type HandedPoint = HandedOver & Pick<KeptPoint, 'source' | 'pointAtMs' | 'configSha256' | 'lastCycle'>;

/** A tail stays in the stack as the lower layers on which later points rest. */
export type PinnedTail = LeftBehind & { depths: Depths };

/**
 * What a node holds of one guest; the file `manifest.json` is the single truth, a layer file that it does not list is garbage.
 *
 *     create ──► primary ──demote──► replica (tail pinned) ──seal──► replica with points
 *                   └──handed over, demote──► replica at that point
 *     seal of a first point ──► replica ──promote──► primary (new layer above the newest point)
 */
export type Manifest = {
  version: 1;
  vmid: number;
  role: 'primary' | 'replica';
  /** primary: the generation written here. replica: the newest generation that was ever accepted. */
  generation: number;
  disks: DiskLayers[];
  /** Oldest first. A replica's newest point is always the top of every disk's stack. */
  points: KeptPoint[];
  /** primary: the point it was promoted from. */
  promotedFrom: KeptPoint | null;
  leftBehind: PinnedTail[];
  /** primary: sequence numbers up to here may have been used for points of this generation. */
  reservedSeq: number;
  /** primary: others hold exactly this point, and nothing was written here since. Left out: it may have been. */
  handedOver?: HandedPoint;
  /** primary: how often it was opened for writing since it was promoted, counted to 2. Left out: it was not promoted, or was opened more often. */
  opened?: number;
};

/** How many layers each disk has now. */
export function currentDepths(manifest: Manifest): Depths {
  return Object.fromEntries(manifest.disks.map((disk) => [disk.name, disk.layers.length]));
}

/** The newest whole point; null when there is none. */
export function newestPoint(manifest: Manifest): KeptPoint | null {
  return manifest.points.at(-1) ?? null;
}

/** The layers of each disk that make up the image at `depths`. */
export function layersAt(manifest: Manifest, depths: Depths): DiskLayers[] {
  return Object.entries(depths).map(([name, depth]) => {
    const disk = manifest.disks.find((candidate) => candidate.name === name);
    return { name, layers: (disk?.layers ?? []).slice(0, depth) };
  });
}

/** Every file the manifest needs. */
export function listFiles(manifest: Manifest): Set<string> {
  return new Set(manifest.disks.flatMap((disk) => disk.layers.map((layer) => layer.file)));
}

/** The first copy of a new guest. */
export function createPrimary(vmid: number, generation: number, disks: DiskLayers[]): Manifest {
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
  };
}

/** A copy that has received nothing yet. */
export function createReplica(vmid: number, generation: number): Manifest {
  return { ...createPrimary(vmid, generation, []), role: 'replica' };
}

/** The manifest with one more layer on each of `added`'s disks and, when `point` is given, that new whole point. */
export function sealPoint(
  manifest: Manifest,
  added: { disk: string; layer: Layer }[],
  point: Omit<KeptPoint, 'depths'>,
): Manifest {
  const disks = manifest.disks.map((disk) => ({ name: disk.name, layers: [...disk.layers] }));
  for (const { disk, layer } of added) {
    const found = disks.find((candidate) => candidate.name === disk);
    if (found === undefined) disks.push({ name: disk, layers: [layer] });
    else found.layers.push(layer);
  }
  const depths: Depths = {};
  for (const { disk } of added) depths[disk] = disks.find((candidate) => candidate.name === disk)?.layers.length ?? 0;
  return {
    ...manifest,
    generation: Math.max(manifest.generation, point.generation),
    disks,
    points: [...manifest.points, { ...point, depths }],
  };
}

/**
 * The replica becomes the primary copy of `generation`, with one writable layer above `point` on each disk. A tail that is the same image as the
 * point is let go: it goes on as the beginning of what is written now.
 */
export function promoteTo(
  manifest: Manifest,
  generation: number,
  point: KeptPoint,
  added: { disk: string; layer: Layer }[],
): Manifest {
  const disks = layersAt(manifest, point.depths).map((disk) => ({
    name: disk.name,
    layers: [...disk.layers, ...added.filter((entry) => entry.disk === disk.name).map((entry) => entry.layer)],
  }));
  const leftBehind = manifest.leftBehind.filter((tail) => !isSameImage(tail.depths, point.depths));
  return { ...manifest, role: 'primary', generation, disks, promotedFrom: point, reservedSeq: 0, opened: 0, leftBehind };
}

function isSameImage(a: Depths, b: Depths): boolean {
  const names = Object.keys(a);
  return names.length === Object.keys(b).length && names.every((name) => a[name] === b[name]);
}

/** The name under which the writes of a former primary of `generation` are kept. */
export function tailName(generation: number): string {
  return `left-behind-g${generation}`;
}

/**
 * The former primary becomes a replica without points: everything it holds is the tail, on which the next points will rest.
 * `untilAtMs`: the last write seen.
 */
export function demoteToReplica(manifest: Manifest, untilAtMs: number | null): Manifest {
  const tail: PinnedTail = {
    name: tailName(manifest.generation),
    generation: manifest.generation,
    sizeBytes: null,
    fromAtMs: null,
    untilAtMs,
    depths: currentDepths(manifest),
  };
  const { handedOver: _over, opened: _opened, ...rest } = manifest;
  return {
    ...rest,
    role: 'replica',
    points: [],
    promotedFrom: null,
    leftBehind: [...manifest.leftBehind.filter((entry) => entry.name !== tail.name), tail],
    reservedSeq: 0,
  };
}

/** Notes that others hold what lies here. */
export function noteHandedOver(manifest: Manifest, handedOver: HandedPoint): Manifest {
  return { ...manifest, handedOver };
}

/** Before the copy is opened for writing: from now on nobody knows what else it holds. The manifest itself when it says so already. */
export function openForWriting(manifest: Manifest): Manifest {
  const { handedOver, opened, ...rest } = manifest;
  if (handedOver === undefined && opened === undefined) return manifest;
  const disks = rest.disks.map(({ name, layers }) => ({
    name,
    layers: layers.map((layer, index) => (index === layers.length - 1 ? { ...layer, sealed: null } : layer)),
  }));
  return { ...rest, disks, ...(opened === undefined || opened >= 2 ? {} : { opened: opened + 1 }) };
}

/** The point after which all writes to this primary come from whoever opened it last; null: others may have written before. */
export function baseOfWrites(manifest: Manifest): KeptPoint | null {
  return manifest.opened === 1 ? manifest.promotedFrom : null;
}

/**
 * A former primary that handed everything over becomes a replica at that very point. All it holds is in the history of its new home when that
 * began from `identicalTo`, the same point; else nobody knows, and a tail keeps it as well. null when it had not handed everything over.
 */
export function demoteToPoint(manifest: Manifest, identicalTo: ReplicaPoint | null, untilAtMs: number | null): Manifest | null {
  const { handedOver } = manifest;
  if (handedOver === undefined) return null;
  const isKeptElsewhere = identicalTo !== null && comparePoints(handedOver.point, identicalTo) === 0;
  const { point, source, pointAtMs, configSha256, lastCycle } = handedOver;
  const depths = currentDepths(manifest);
  const kept: KeptPoint = { ...point, depths, source, pointAtMs, appliedAtMs: pointAtMs, configSha256, lastCycle };
  const replica = demoteToReplica(manifest, untilAtMs);
  return { ...replica, points: [kept], leftBehind: isKeptElsewhere ? manifest.leftBehind : replica.leftBehind };
}

/** The copy as it can be promoted: a primary that handed over exactly `point` is a whole copy of that point, nothing else is changed. */
export function toPromotable(manifest: Manifest, point: ReplicaPoint): Manifest {
  const { handedOver } = manifest;
  const isThisPoint = handedOver !== undefined && comparePoints(handedOver.point, point) === 0;
  return isThisPoint ? (demoteToPoint(manifest, point, null) ?? manifest) : manifest;
}

/** The manifest without that tail's pin; its layers are then merged like any others. */
export function releaseTail(manifest: Manifest, name: string): Manifest {
  return { ...manifest, leftBehind: manifest.leftBehind.filter((tail) => tail.name !== name) };
}

/**
 * Notes what a tail holds that the promoted point does not. `disks`: all that were compared. A tail that was found equal in every one of
 * its disks is let go: what it holds lies in the history of the guest's home.
 */
export function noteTailSize(
  manifest: Manifest,
  name: string,
  { disks, ...measured }: { sizeBytes: number; fromAtMs: number; disks: { name: string; sizeBytes: number }[] },
): Manifest {
  const tail = manifest.leftBehind.find((entry) => entry.name === name);
  const isCompared = ({ name: disk, layers }: DiskLayers): boolean =>
    disks.some((entry) => entry.name === disk && entry.sizeBytes === layers.at(-1)?.sizeBytes);
  if (measured.sizeBytes === 0 && tail !== undefined && layersAt(manifest, tail.depths).every(isCompared)) {
    return releaseTail(manifest, name);
  }
  const leftBehind = manifest.leftBehind.map((tail) => (tail.name === name ? { ...tail, ...measured } : tail));
  return { ...manifest, leftBehind };
}

/** A tail as it is told to the cluster. */
export function describeTail(tail: PinnedTail): LeftBehind {
  const { name, generation, sizeBytes, fromAtMs, untilAtMs } = tail;
  return { name, generation, sizeBytes, fromAtMs, untilAtMs };
}

/**
 * What a node tells the cluster of the copy that it holds; null while there is none that could be promoted. A primary that was handed over counts:
 * nothing was written to it since that point, and its successor may turn out unfit.
 */
export function describeReplica(manifest: Manifest, node: string): ReplicaRecord | null {
  const whole = manifest.role === 'replica' ? newestPoint(manifest) : describeHandedOver(manifest);
  if (whole === null) return null;
  return {
    vmid: manifest.vmid,
    node,
    source: whole.source,
    point: { generation: whole.generation, seq: whole.seq },
    pointAtMs: whole.pointAtMs,
    appliedAtMs: whole.appliedAtMs,
    lastCycle: whole.lastCycle,
    leftBehind: manifest.leftBehind.map(describeTail),
  };
}

function describeHandedOver({ handedOver }: Manifest): Omit<KeptPoint, 'depths' | 'configSha256'> | null {
  if (handedOver === undefined) return null;
  const { point, source, pointAtMs, lastCycle } = handedOver;
  return { ...point, source, pointAtMs, appliedAtMs: pointAtMs, lastCycle };
}
