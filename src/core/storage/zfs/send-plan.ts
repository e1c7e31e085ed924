import { comparePoints, type ReplicaPoint } from '#core/guest/guest-record.ts';
import { formatPoint } from '#core/replica/send-plan.ts';
import type { Version } from './listing.ts';
import { parseSnapshotName } from './names.ts';

/** What the target says of one disk. GUIDs newest first, of everything that it could go back to. */
export type TargetDisk = {
  name: string;
  guids: string[];
  partial: { token: string; toGuid: string; receivedBytes: number } | null;
};

/** What the target says it holds. */
export type ZfsTargetState = {
  role: 'primary' | 'replica' | 'absent';
  generation: number;
  point: ReplicaPoint | null;
  disks: TargetDisk[];
};

export type OwnDisk = { name: string; versions: readonly Version[] };

export type DiskBase = { disk: string; base: { kind: 'snapshot' | 'bookmark'; name: string; guid: string } | null };

export type ZfsSendPlan =
  | { kind: 'delta' | 'full'; bases: DiskBase[]; because: string }
  /** Go on with the point whose stream was cut. */
  | { kind: 'resume'; point: ReplicaPoint; because: string }
  | { kind: 'refuse'; because: string };

/**
 * How to bring the target up: from the newest thing that both sides have, found by GUID for each disk, whatever its name; snapshots of ours before
 * bookmarks. Raises nothing. A full copy is planned only when there is nothing in common, and says why.
 */
export function planZfsSend(
  generation: number,
  ours: readonly OwnDisk[],
  target: ZfsTargetState,
  resumeFromBytes: number,
): ZfsSendPlan {
  if (target.role === 'primary') return refuse('the target holds a primary copy: it must be demoted first');
  if (target.generation > generation) return refuse(`the target has seen generation ${target.generation}, this is ${generation}`);
  const resumed = planResume(ours, target, resumeFromBytes);
  if (resumed !== null) return resumed;
  const bases = ours.map((disk) => ({ disk: disk.name, base: findBase(disk, target) }));
  const missing = bases.filter((entry) => entry.base === null).map((entry) => entry.disk);
  if (missing.length === 0) {
    const from = [...new Set(bases.map((entry) => entry.base?.name))].join(', ');
    return { kind: 'delta', bases, because: `both have ${from}` };
  }
  if (target.role === 'absent') return { kind: 'full', bases, because: 'the target has no copy yet' };
  const isEmpty = target.disks.every((disk) => disk.guids.length === 0);
  const lost = `${missing.join(' and ')}: nothing that this node and the target have in common; what lies there is set aside first`;
  return { kind: 'full', bases, because: isEmpty ? 'the target has no whole point' : lost };
}

function findBase(disk: OwnDisk, target: ZfsTargetState): DiskBase['base'] {
  const theirs = target.disks.find((candidate) => candidate.name === disk.name)?.guids ?? [];
  for (const guid of theirs) {
    const same = disk.versions.filter((version) => version.guid === guid);
    const found = same.find((version) => version.kind === 'snapshot') ?? same[0];
    if (found !== undefined) return { kind: found.kind, name: found.name, guid };
  }
  return null;
}

/** A cut stream is worth going on with when much of it has arrived and its point is still here, whole. */
function planResume(ours: readonly OwnDisk[], target: ZfsTargetState, resumeFromBytes: number): ZfsSendPlan | null {
  const partials = target.disks.flatMap((disk) => (disk.partial === null ? [] : [{ disk: disk.name, ...disk.partial }]));
  const received = partials.reduce((sum, partial) => sum + partial.receivedBytes, 0);
  if (partials.length === 0 || received < resumeFromBytes) return null;
  const names = partials.map(({ disk, toGuid }) => {
    const versions = ours.find((candidate) => candidate.name === disk)?.versions ?? [];
    return versions.find((version) => version.kind === 'snapshot' && version.guid === toGuid)?.name ?? null;
  });
  const point = names[0] === undefined || names[0] === null ? null : parseSnapshotName(names[0]);
  const isOne = names.every((name) => name === names[0]);
  const isWhole = ours.every((disk) => disk.versions.some((version) => version.kind === 'snapshot' && version.name === names[0]));
  if (point === null || !isOne || !isWhole) return null;
  // Without it every other disk could not go on from where it is either.
  if (target.point !== null && comparePoints(point, target.point) <= 0) return null;
  return { kind: 'resume', point, because: `${received} bytes of ${formatPoint(point)} have arrived already` };
}

function refuse(because: string): ZfsSendPlan {
  return { kind: 'refuse', because };
}
