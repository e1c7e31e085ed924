import { comparePoints, type ReplicaPoint } from '#core/guest/guest-record.ts';

/** What the sender knows about the bitmap it keeps for one target. */
export type BitmapBasis = {
  /** The bitmap holds every write after this point; null: it counts from an instant that no point was taken at. */
  base: ReplicaPoint | null;
  /** A point that was sent but whose acknowledgement was lost: the bitmap holds every write after `base`, so after this one too. */
  pending: ReplicaPoint | null;
};

/** What the target says it holds. */
export type TargetCopy = {
  role: 'primary' | 'replica' | 'absent';
  /** Newest generation it has accepted. */
  generation: number;
  point: ReplicaPoint | null;
  disks: { name: string; sizeBytes: number }[];
};

export type SendPlan =
  | { kind: 'delta'; because: string }
  | { kind: 'compare'; because: string }
  | { kind: 'refuse'; because: string };

/** Whether the target can be brought up by what the bitmap holds, or must be compared chunk by chunk. Never a blind full copy. */
export function planSend(
  generation: number,
  disks: readonly { name: string; sizeBytes: number }[],
  basis: BitmapBasis | null,
  copy: TargetCopy,
): SendPlan {
  if (copy.role === 'primary') return refuse('the target holds a primary copy: it must be demoted first');
  if (copy.generation > generation) return refuse(`the target has seen generation ${copy.generation}, this is ${generation}`);
  if (copy.point === null)
    return compare(copy.role === 'absent' ? 'the target has no copy yet' : 'the target has no whole point');
  if (basis === null) return compare('no bitmap has followed the writes of this guest');
  if (!sameDisks(disks, copy.disks)) return compare('disks were added, removed or resized since the last point');
  for (const known of [basis.base, basis.pending]) {
    if (known !== null && comparePoints(known, copy.point) === 0) {
      return { kind: 'delta', because: `the target is at ${formatPoint(known)}, from which the bitmap counts` };
    }
  }
  const from = basis.base === null ? 'the start of the guest' : formatPoint(basis.base);
  return compare(`the target is at ${formatPoint(copy.point)}, but the bitmap counts from ${from}`);
}

/** A point in words: `generation/seq`. */
export function formatPoint(point: ReplicaPoint): string {
  return `${point.generation}/${point.seq}`;
}

function sameDisks(
  a: readonly { name: string; sizeBytes: number }[],
  b: readonly { name: string; sizeBytes: number }[],
): boolean {
  const text = (disks: readonly { name: string; sizeBytes: number }[]) =>
    disks
      .map((disk) => `${disk.name}:${disk.sizeBytes}`)
      .toSorted()
      .join();
  return text(a) === text(b);
}

function compare(because: string): SendPlan {
  return { kind: 'compare', because };
}

function refuse(because: string): SendPlan {
  return { kind: 'refuse', because };
}

/** Why a sender must not write to this copy; null: it may. `seen`: what the copy's manifest says, null when there is none. */
export function refuseSender(
  sent: ReplicaPoint,
  seen: { role: 'primary' | 'replica'; generation: number; newest: ReplicaPoint | null } | null,
): string | null {
  if (seen === null) return null;
  if (seen.role === 'primary') return 'this node holds a primary copy of the guest';
  if (sent.generation < seen.generation) {
    return `the sender's generation ${sent.generation} is older than generation ${seen.generation}, which was accepted before`;
  }
  if (seen.newest !== null && comparePoints(sent, seen.newest) <= 0) {
    return `point ${formatPoint(sent)} is not newer than ${formatPoint(seen.newest)}, which is held`;
  }
  return null;
}
