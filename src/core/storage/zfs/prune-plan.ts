import { comparePoints, type ReplicaPoint } from '#core/guest/guest-record.ts';
import type { Version } from './listing.ts';
import { parsePointBookmark, parseSnapshotName, parseTargetBookmark } from './names.ts';

/** What may go from one disk, oldest first. `toBookmark`: a bookmark is made of the snapshot before it goes. */
export type PrunePlan = { snapshots: { name: string; bookmark: ReplicaPoint | null }[]; bookmarks: string[] };

/**
 * What the guest's home may drop. It keeps the newest snapshot, that of each target's last confirmed point (this node may become a target itself
 * and then needs a snapshot to go back to), what is on its way, and, until every other node has confirmed something of this generation, all that
 * it had when it became home: nobody knows from which of it those others can go on.
 */
export function planSourcePrune(
  versions: readonly Version[],
  facts: {
    generation: number;
    /** The other nodes of the cluster, and the newest point that each has confirmed. */
    confirmed: ReadonlyMap<string, ReplicaPoint | null>;
    /** On its way to somebody, or cut on its way. */
    inFlight: readonly ReplicaPoint[];
    promotedFrom: ReplicaPoint | null;
    /** The pool is short of space: of what waits for other nodes only bookmarks stay. */
    isTight: boolean;
  },
): PrunePlan {
  const { generation, confirmed, inFlight, promotedFrom, isTight } = facts;
  const points = [...confirmed.values()];
  const isSettled = points.length > 0 && points.every((point) => point !== null && point.generation === generation);
  const kept = [...points, ...inFlight].filter((point) => point !== null);
  if (!isSettled && !isTight && promotedFrom !== null) kept.push(promotedFrom);
  const snapshots = ownSnapshots(versions);
  const newest = snapshots.at(-1);
  const goes = snapshots.filter(
    ({ version, point }) =>
      version !== newest?.version &&
      isFree(version) &&
      !kept.some((entry) => comparePoints(entry, point) === 0) &&
      (isSettled || isTight || point.generation === generation),
  );
  const bookmarkFor = (point: ReplicaPoint): ReplicaPoint | null => (isSettled || point.generation === generation ? null : point);
  return {
    snapshots: goes.map(({ version, point }) => ({ name: version.name, bookmark: bookmarkFor(point) })),
    bookmarks: versions
      .filter((version) => version.kind === 'bookmark' && isSpent(version.name, confirmed, isSettled))
      .map(({ name }) => name),
  };
}

/** A target's bookmark goes when a later one is there, or the node has left; a point's when everybody has gone on from it. */
function isSpent(name: string, confirmed: ReadonlyMap<string, ReplicaPoint | null>, isSettled: boolean): boolean {
  const target = parseTargetBookmark(name);
  if (target === null) return isSettled && parsePointBookmark(name) !== null;
  if (!confirmed.has(target.node)) return true;
  const point = confirmed.get(target.node) ?? null;
  return point !== null && comparePoints(target.point, point) !== 0;
}

/**
 * What a replica may drop of the points that its retention no longer wants: never one of the two newest, never one that a tail rests on or that
 * somebody holds. Of one that another node still holds a bookmark stays, so that this node could go on from it as a home.
 */
export function planReplicaPrune(
  versions: readonly Version[],
  facts: { points: readonly ReplicaPoint[]; anchors: readonly ReplicaPoint[] },
): PrunePlan {
  const snapshots = ownSnapshots(versions);
  const spared = new Set(snapshots.slice(-2).map(({ version }) => version));
  const has = (list: readonly ReplicaPoint[], point: ReplicaPoint): boolean =>
    list.some((entry) => comparePoints(entry, point) === 0);
  const goes = snapshots.filter(({ version, point }) => !spared.has(version) && isFree(version) && !has(facts.points, point));
  return {
    snapshots: goes.map(({ version, point }) => ({ name: version.name, bookmark: has(facts.anchors, point) ? point : null })),
    bookmarks: versions
      .filter((version) => {
        const point = version.kind === 'bookmark' ? parsePointBookmark(version.name) : null;
        const target = version.kind === 'bookmark' ? parseTargetBookmark(version.name)?.point : undefined;
        const kept = point ?? target ?? null;
        return kept !== null && !has(facts.anchors, kept);
      })
      .map(({ name }) => name),
  };
}

function ownSnapshots(versions: readonly Version[]): { version: Version; point: ReplicaPoint }[] {
  return versions.flatMap((version) => {
    const point = version.kind === 'snapshot' ? parseSnapshotName(version.name) : null;
    return point === null ? [] : [{ version, point }];
  });
}

/** No clone rests on it; our own hold is let go before, one of somebody else is not. */
function isFree(version: Version): boolean {
  return version.clones.length === 0 && version.holds === 0;
}
