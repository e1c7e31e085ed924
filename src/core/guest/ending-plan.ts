import { limits } from '#base/limits.ts';
import type { GuestAction, GuestPlanFacts, NodeEnding } from '#core/guest/guest-plan.ts';
import { planHandOver } from '#core/guest/hand-over-plan.ts';
import type { GuestRecord } from '#core/guest/guest-record.ts';
import { whyInvalid } from '#core/guest/order-validity.ts';
import { isStill } from '#core/guest/process-state.ts';

/**
 * A guest of a node that is about to end. Nothing is started. Stopping needs no permit: it is always safe.
 *
 *   an order to move it that has not ended ──> the move goes on
 *   give-up, ordered to run, wanted started ──> handed over to every other node; when none takes it, only shut down
 *   anything else ──> shut down, its disks stay here
 */
export function planEnding(facts: GuestPlanFacts, record: GuestRecord, ending: NodeEnding): GuestAction {
  const to = handsOverTo(facts, record, ending);
  const { retry } = facts;
  if (to !== undefined && retry.kind === 'later') return { kind: 'none', because: retry.because };
  if (to !== undefined && retry.kind === 'now') return planHandOver(facts, record, to);
  const because =
    retry.kind === 'gave-up' ? `this node ends, and no other holds its last state: ${retry.because}` : 'this node ends';
  if (facts.process === null) return { kind: 'none', because };
  if (isStill(facts.process.state)) return { kind: 'end', because };
  return { kind: 'shutdown', timeoutMs: limits.guestShutdownMs, because };
}

/** One node, null for every other one, undefined: it stays here. */
function handsOverTo(facts: GuestPlanFacts, record: GuestRecord, ending: NodeEnding): string | null | undefined {
  const { order } = record;
  if (order === null || whyInvalid(facts, order) !== null) return undefined;
  if (order.kind === 'move' && order.to !== undefined && facts.ended === null) return order.to;
  const isToRun = order.kind === 'run' || order.kind === 'move';
  return isToRun && ending === 'give-up' && facts.want === 'started' ? null : undefined;
}
