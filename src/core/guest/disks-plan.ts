import type { GuestAction, GuestPlanFacts } from '#core/guest/guest-plan.ts';
import { comparePoints, type GuestRecord } from '#core/guest/guest-record.ts';

/** What has to happen before the disks here can be opened as the guest's own; null: nothing. */
export function openPrimary(facts: GuestPlanFacts, record: GuestRecord): GuestAction | null {
  const { copy } = facts;
  if (copy?.role === 'primary' && copy.generation === record.generation) return null;
  const promote = record.order?.promote ?? null;
  if (promote !== null && copy?.role === 'primary' && copy.generation < record.generation) {
    return planDemote(facts, record, 'it comes back to where it once ran');
  }
  if (promote !== null) return { kind: 'promote', because: `from point ${promote.generation}/${promote.seq}` };
  const found = copy === null ? 'no copy of it lies here' : `a ${copy.role} copy of generation ${copy.generation} lies here`;
  return {
    kind: 'refuse',
    because: `the disks of guest ${record.vmid}, generation ${record.generation}, are missing on ${facts.self}: ${found}`,
  };
}

/**
 * The new home's disks are proven to contain all that is here only when it follows this generation directly, from the very point that
 * was handed over: all points of a generation come from its one primary copy, and after that one nothing was written.
 */
export function planDemote(facts: GuestPlanFacts, record: GuestRecord, because: string): GuestAction {
  const handed = facts.copy?.handedOver?.point ?? null;
  const promote = record.order?.promote ?? null;
  const isProven =
    handed !== null &&
    promote !== null &&
    record.generation === handed.generation + 1 &&
    facts.copy?.generation === handed.generation &&
    comparePoints(handed, promote) === 0;
  return { kind: 'demote', identicalTo: isProven ? handed : null, because };
}
