import { comparePoints, type ReplicaPoint } from '#core/guest/guest-record.ts';
import type { GuestRecordFacts, NodeRecordFacts } from '#core/ha/cluster-round/facts.ts';
import type { CopyFacts } from '#core/ha/manager/facts.ts';

/** A copy that a guest may be started from, as far as its home's and its own node's words tell. */
type Copy = { node: string; point: ReplicaPoint; pointAtMs: number };

/**
 * When the home's data was last written, by the home's own clock: replicas carry the same clock at their point, so the difference is the
 * age of the data at the loss, free of clock differences between nodes.
 */
export function aliveAtMs({ record }: GuestRecordFacts, home: NodeRecordFacts | undefined, nowWallMs: number): number {
  if (record.order === null && record.givenUp !== undefined) return record.givenUp.atMs;
  if (record.order === null) return record.declined?.at(-1)?.lostAtMs ?? nowWallMs;
  return home?.heartbeat?.value.sentAtMs ?? nowWallMs;
}

/** Verified copies that may be started from, and the home's own disks when the home has come back with them. */
export function copyFactsOf(facts: GuestRecordFacts, home: NodeRecordFacts | undefined, nowWallMs: number): CopyFacts[] {
  const lostAtMs = aliveAtMs(facts, home, nowWallMs);
  const copies = listCopies(facts, home).sort((a, b) => comparePoints(a.point, b.point));
  let freshness = 0;
  const found = copies.map((copy, index): CopyFacts => {
    const before = copies[index - 1];
    if (before !== undefined && comparePoints(before.point, copy.point) !== 0) freshness += 1;
    return { node: copy.node, freshness, dataAgeMs: Math.max(0, lostAtMs - copy.pointAtMs) };
  });
  // A home that serves again and has not said yet what it holds is counted too: it is worth a wait (see homeReturnWaitMs).
  if (holdsOwnDisks(facts, home) || isWorthAWait(facts, home))
    found.push({ node: facts.record.home, freshness: Number.POSITIVE_INFINITY, dataAgeMs: 0 });
  return found;
}

/** The guest's own disks may lie on its home, which serves again and has not said yet. One that declined the guest never had any. */
export function isWorthAWait({ record }: GuestRecordFacts, home: NodeRecordFacts | undefined): boolean {
  const declined = record.order === null && record.declined?.at(-1)?.node === record.home;
  return !declined && isSettling(home);
}

/** The node holds a permit, and its agent has not said since the boot what it has. */
function isSettling(home: NodeRecordFacts | undefined): boolean {
  if (home?.permit?.value.state !== 'granted' || home.heartbeat === null) return false;
  return home.info === null || home.info.bootId !== home.heartbeat.value.bootId;
}

/** The point that the guest would start from on the node; null: no copy there that may be used. */
export function pointOn(facts: GuestRecordFacts, node: string): ReplicaPoint | null {
  return listCopies(facts, undefined).find((copy) => copy.node === node)?.point ?? null;
}

function listCopies(facts: GuestRecordFacts, home: NodeRecordFacts | undefined): Copy[] {
  const { record, replicas } = facts;
  const copies = new Map<string, Copy>(replicas.map(({ node, point, pointAtMs }) => [node, { node, point, pointAtMs }]));
  const { givenUp } = record;
  if (record.order === null && givenUp !== undefined) {
    // These nodes confirmed the point to the home; their own words in the record may come later.
    for (const node of givenUp.copiedTo) {
      const known = copies.get(node);
      if (known !== undefined && comparePoints(known.point, givenUp.point) > 0) continue;
      copies.set(node, { node, point: givenUp.point, pointAtMs: givenUp.atMs });
    }
  }
  // The home's copy counts only while the promotion that made it the home was never finished there.
  const isUnfinished = (record.order?.promote ?? null) !== null && !isSettling(home) && !holdsOwnDisks(facts, home);
  if (!isUnfinished) copies.delete(record.home);
  return [...copies.values()].filter((copy) => !isDeclined(record, copy));
}

/** The node found this copy, or a later one, unfit to start from. */
function isDeclined({ declined }: GuestRecordFacts['record'], copy: { node: string; point: ReplicaPoint }): boolean {
  const last = declined?.findLast((entry) => entry.node === copy.node);
  return last !== undefined && comparePoints(copy.point, last.point) <= 0;
}

/** Nodes that found their copy unfit and have told of no later one since. */
export function listUnfit({ record, replicas }: GuestRecordFacts): string[] {
  const nodes = new Set((record.declined ?? []).map(({ node }) => node));
  return [...nodes].filter((node) => !replicas.some((copy) => copy.node === node && !isDeclined(record, copy)));
}

/** The guest's own disks lie on its home: its agent has said so since the boot that the node serves in. */
function holdsOwnDisks({ record }: GuestRecordFacts, home: NodeRecordFacts | undefined): boolean {
  const info = home?.info ?? null;
  if (info === null || info.bootId !== home?.heartbeat?.value.bootId) return false;
  return info.primaryCopies.some((copy) => copy.vmid === record.vmid && copy.generation === record.generation);
}
