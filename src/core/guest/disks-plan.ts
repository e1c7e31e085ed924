import type { GuestAction, GuestPlanFacts } from '#core/guest/guest-plan.ts';
import { comparePoints, type GuestRecord, type ReplicaPoint } from '#core/guest/guest-record.ts';

/** What has to happen before the disks here can be opened as the guest's own; null: nothing. */
export function openPrimary(facts: GuestPlanFacts, record: GuestRecord): GuestAction | null {
  const { copy } = facts;
  if (copy?.role === 'primary' && copy.generation === record.generation) return null;
  const promote = record.order?.promote ?? null;
  const handed = handedOver(facts);
  // A primary that handed over just this point is promoted as it is: at no instant is it a copy that others may write over.
  const isThisPoint = promote !== null && handed !== null && comparePoints(handed, promote) === 0;
  if (promote !== null && copy?.role === 'primary' && copy.generation < record.generation && !isThisPoint) {
    return { kind: 'demote', identicalTo: null, because: 'it comes back to where it once ran' };
  }
  if (promote !== null) return { kind: 'promote', because: `from point ${promote.generation}/${promote.seq}` };
  const found = copy === null ? 'no copy of it lies here' : `a ${copy.role} copy of generation ${copy.generation} lies here`;
  return {
    kind: 'refuse',
    because: `the disks of guest ${record.vmid}, generation ${record.generation}, are missing on ${facts.self}: ${found}`,
  };
}

/**
 * What becomes of a primary copy whose guest has another home now. The new home's disks contain all that is here only when it follows this
 * generation directly and has begun from the very point that was handed over: all points of a generation come from its one primary copy,
 * and after that one nothing was written. Until it has begun its copy may turn out unfit, and this one be all there is. A guest that is to come
 * back before is let in all the same: what was handed over stays here as a whole point.
 */
export function planFormerHome(facts: GuestPlanFacts, record: GuestRecord): GuestAction {
  const handed = handedOver(facts);
  const promote = record.order?.promote ?? null;
  const isNext = handed !== null && record.generation === handed.generation + 1;
  // Without an order the successor has declined, or lets go in turn.
  const isSuccessor = isNext && (record.order === null || (promote !== null && comparePoints(handed, promote) === 0));
  const isComing = record.order?.kind === 'move' && record.order.to === facts.self;
  if (isSuccessor && facts.began === null && !isComing) {
    return { kind: 'none', because: `${record.home} has not begun from what was handed over` };
  }
  const isProven = isSuccessor && facts.began !== null && comparePoints(facts.began, handed) === 0;
  const because = `${record.home} is home of guest ${record.vmid} since generation ${record.generation}`;
  return { kind: 'demote', identicalTo: isProven ? handed : null, because };
}

/** The point that others hold too and that is all there is in the primary copy here; null: there may be more in it. */
function handedOver({ copy }: GuestPlanFacts): ReplicaPoint | null {
  const point = copy?.handedOver?.point ?? null;
  return point !== null && copy?.generation === point.generation ? point : null;
}
