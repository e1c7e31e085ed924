/** When to copy a guest to which node. All times are one machine's boot-time clock in milliseconds. */

export type TargetSchedule = {
  target: string;
  /** When the last whole point that reached this target was taken; null: none since this program started. */
  lastPointBootMs: number | null;
  /** Failed tries in a row, and when the last one ended. */
  failures: number;
  lastFailureBootMs: number | null;
  /** Somebody asked for a cycle now; cleared when one begins. */
  asked: boolean;
};

export type NextCycle = { target: string; dueInMs: number; because: string };

const firstRetryMs = 1_000;

/**
 * The target whose cycle comes next and in how many milliseconds it is due (0: now). A failure is retried after 1 s, 2 s, 4 s …
 * but never later than the interval, so an outage never costs more than one interval once it is over.
 */
export function planNextCycle(targets: readonly TargetSchedule[], intervalMs: number, nowBootMs: number): NextCycle | null {
  let next: NextCycle | null = null;
  let oldest = 0;
  for (const target of targets) {
    const plan = planTarget(target, intervalMs, nowBootMs);
    const age = nowBootMs - (target.lastPointBootMs ?? Number.NEGATIVE_INFINITY);
    // Among those that are due the one with the oldest data goes first, or a failing target could starve the others.
    if (next === null || plan.dueInMs < next.dueInMs || (plan.dueInMs === next.dueInMs && age > oldest)) {
      next = plan;
      oldest = age;
    }
  }
  return next;
}

function planTarget(target: TargetSchedule, intervalMs: number, nowBootMs: number): NextCycle {
  const at = (dueBootMs: number, because: string): NextCycle => ({
    target: target.target,
    dueInMs: Math.max(0, dueBootMs - nowBootMs),
    because,
  });
  if (target.asked) return at(nowBootMs, 'asked for');
  if (target.failures > 0 && target.lastFailureBootMs === null) return at(nowBootMs, 'the node is back');
  if (target.failures > 0 && target.lastFailureBootMs !== null) {
    const waitMs = Math.min(intervalMs, firstRetryMs * 2 ** Math.min(20, target.failures - 1));
    return at(target.lastFailureBootMs + waitMs, `try ${target.failures + 1} after a failure`);
  }
  if (target.lastPointBootMs === null) return at(nowBootMs, 'no point sent yet');
  return at(target.lastPointBootMs + intervalMs, 'interval');
}

/** The target's state after a cycle that succeeded with a point taken at `pointBootMs`. */
export function noteSuccess(target: TargetSchedule, pointBootMs: number): TargetSchedule {
  return { ...target, lastPointBootMs: pointBootMs, failures: 0, lastFailureBootMs: null };
}

/** The target's state after a cycle that failed at `nowBootMs`. */
export function noteFailure(target: TargetSchedule, nowBootMs: number): TargetSchedule {
  return { ...target, failures: target.failures + 1, lastFailureBootMs: nowBootMs };
}

/** The peer was seen again: do not wait out the rest of the back-off. */
export function noteReconnect(target: TargetSchedule): TargetSchedule {
  return target.failures > 0 ? { ...target, failures: 1, lastFailureBootMs: null } : target;
}

/**
 * The boot-clock time from which on a point that was taken for another node will do for this one: one since this one became due. What several nodes
 * hold is what they can go on from when this one is gone, however long each cycle takes.
 */
export function oldestThatWillDo({ lastPointBootMs }: TargetSchedule, intervalMs: number, nowBootMs: number): number {
  const dueBootMs = lastPointBootMs === null ? nowBootMs - intervalMs : lastPointBootMs + intervalMs;
  return Math.max(nowBootMs - intervalMs, Math.min(nowBootMs - intervalMs / 2, dueBootMs));
}
