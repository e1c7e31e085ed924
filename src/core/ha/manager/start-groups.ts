import type { GuestFacts } from '#core/ha/manager/facts.ts';
import { amend, entryOf, guestFactsOf, isYounger, type RoundDraft } from '#core/ha/manager/draft.ts';
import type { GuestEntry } from '#core/ha/manager/memory.ts';
import { type PlacePlan, planPlace } from '#core/ha/manager/recovery-sites.ts';
import { findStartCycles } from '#core/ha/manager/start-cycles.ts';
import { formatDuration } from '#core/text/duration.ts';

/**
 * Guests that start after others: an application after its database.
 *
 *   start-requested or awaiting-recovery ── one of those before it is on its way ──> waits, for `startsAfterWaitMs` at most
 *                                        └─ all run, or cannot come ──> starts
 *
 * Nobody waits for a guest that will not come, nor in a circle. A start that failed is no reason to hold back what others can do.
 */

/** True when the guest is to wait for others in this round; what it waits for is kept in its state. */
export function waitsForOthers(draft: RoundDraft, guest: GuestFacts): boolean {
  const { startsAfter = [] } = guest;
  if (startsAfter.length === 0 || guest.want !== 'started') return false;
  const entry = entryOf(draft, guest.id);
  const coming = withoutCircles(draft, guest, startsAfter).filter((other) => isComing(draft, other));
  if (coming.length === 0) return false;
  const waitMs = draft.facts.settings.startsAfterWaitMs;
  const names = coming.join(', ');
  if (!isYounger(draft, entry, waitMs)) {
    tell(draft, guest.id, 'over', coming, `it starts without ${names}, not seen running in ${formatDuration(waitMs)}`);
    return false;
  }
  const because = `it waits until ${names} ${coming.length === 1 ? 'runs' : 'run'}, ${formatDuration(waitMs)} at most`;
  tell(draft, guest.id, 'waits', coming, because);
  keepWait(draft, guest.id, entry, coming, because);
  return true;
}

type Stage = 'waits' | 'over' | 'circle';

function tell(draft: RoundDraft, guest: string, stage: Stage, others: string[], because: string): void {
  draft.decisions.push({ kind: 'starts-after', guest, node: entryOf(draft, guest).node, stage, others, because });
}

function keepWait(draft: RoundDraft, id: string, { state, because: was }: GuestEntry, coming: string[], because: string): void {
  if (state.kind !== 'start-requested' && state.kind !== 'awaiting-recovery') return;
  if (was !== because) amend(draft, id, { state: { ...state, waitsFor: coming }, because });
}

/** Without those that, directly or by way of others, start after the guest themselves. */
function withoutCircles(draft: RoundDraft, guest: GuestFacts, startsAfter: readonly string[]): string[] {
  draft.startCycles ??= findStartCycles(draft.guestFacts);
  const circle = draft.startCycles.get(guest.id) ?? [];
  const others = startsAfter.filter((other) => circle.includes(other));
  if (others.length > 0) {
    const because = `${circle.join(', ')} start after each other in a circle; they do not wait for one another`;
    tell(draft, guest.id, 'circle', others, because);
  }
  return startsAfter.filter((other) => !circle.includes(other));
}

/** True when the guest does not run yet, but can be expected to. */
function isComing(draft: RoundDraft, id: string): boolean {
  const entry = draft.guests.get(id);
  if (entry === undefined || guestFactsOf(draft, id).want !== 'started') return false;
  switch (entry.state.kind) {
    case 'active':
      return !(entry.state.seenRunning && isServed(draft, entry.node));
    case 'awaiting-recovery':
      return mayBePlaced(planPlace(draft, guestFactsOf(draft, id), entry));
    case 'failed':
      return false;
    case 'start-requested':
    case 'start-requested-elsewhere':
    case 'stop-requested':
    case 'inactive':
    case 'moving-live':
    case 'moving-cold':
    case 'awaiting-fence':
    case 'frozen':
      return true;
  }
}

function mayBePlaced({ node, waits }: PlacePlan): boolean {
  return node !== null || waits;
}

/** What was seen running on a node that is lost since is not counted as running. */
function isServed(draft: RoundDraft, node: string): boolean {
  const state = draft.nodes.get(node);
  return state === 'up' || (state === 'draining' && draft.nodeFacts.get(node)?.present === true);
}
