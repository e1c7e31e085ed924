import { type GuestPlanFacts, planGuestAction, type GuestAction } from '#core/guest/guest-plan.ts';
import { planStatus } from '#core/guest/order-end.ts';
import { planGuard, startGuard } from '#core/ha/guard-rules.ts';
import { type LeadDecision, type LeadFacts, type LeadTiming, planLead } from '#core/ha/lead.ts';
import type { ClusterFacts } from '#core/ha/cluster-round/facts.ts';
import { type ClusterPlan, planClusterRound } from '#core/ha/cluster-round/round.ts';
import { demoteToReplica, type Manifest } from '#core/storage/manifest.ts';
import { dropPoints } from '#core/storage/merge-plan.ts';

/**
 * What decides in the simulated cluster: the very functions that ship. The switches stand for steps of the programs around them.
 * Whoever checks the checkers puts a broken one in its place.
 */
export type Rules = {
  planGuard: typeof planGuard;
  startGuard: typeof startGuard;
  planClusterRound: (facts: ClusterFacts, nowBootMs: number, nowWallMs: number) => Pick<ClusterPlan, 'steps'>;
  planLead: (facts: LeadFacts, timing: LeadTiming) => LeadDecision;
  planGuestAction: (facts: GuestPlanFacts) => GuestAction;
  planStatus: typeof planStatus;
  demote: (manifest: Manifest, untilAtMs: number | null) => Manifest;
  dropPoints: typeof dropPoints;
  /** The agent reads the record and its permit once more right before a start. */
  confirmOrder: boolean;
  /** Writes of a manager compare the lead. */
  compareLead: boolean;
  /** A claim compares the heartbeat that it took for silent, and the permit. */
  compareClaim: boolean;
  /** Orders compare the guest's record. */
  compareGuest: boolean;
  /** Orders compare what is wanted of the guest. */
  compareWant: boolean;
  /** A receiver asks the store whether the sender is the guest's home, before a point and before it counts. */
  authorize: boolean;
  /** A start waits for the cgroup of its epoch instead of running outside of it. */
  epochGroups: boolean;
  /** A cycle that failed gives its blocks back to the bitmap. */
  settleBitmaps: boolean;
  /** A guard's step that cannot come to anything but a pet is a pet and no more. Without effect beside a `planGuard` that does not ship. */
  skipIdleGuardTicks: boolean;
  /** An agent says that a guest runs only once it does. */
  tellsTruth: boolean;
  /** A guest that has stopped is handed over with what it wrote last, not with the point before. */
  sendsLast: boolean;
};

export const shippedRules: Rules = {
  planGuard,
  startGuard,
  planClusterRound,
  planLead,
  planGuestAction,
  planStatus,
  demote: demoteToReplica,
  dropPoints,
  confirmOrder: true,
  compareLead: true,
  compareClaim: true,
  compareGuest: true,
  compareWant: true,
  authorize: true,
  epochGroups: true,
  settleBitmaps: true,
  skipIdleGuardTicks: true,
  tellsTruth: true,
  sendsLast: true,
};
