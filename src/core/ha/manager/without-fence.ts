import type { GuestFacts } from '#core/ha/manager/facts.ts';
import type { GuestEntry } from '#core/ha/manager/memory.ts';
import { type RoundDraft, enter, isLongLost, resultOf } from '#core/ha/manager/draft.ts';

/**
 * Guests that are recovered although nobody fences their node: what is known of their own order is proof enough that they run nowhere.
 *
 *   their node gave them up while alive       they wait for a fence, and their order can start nothing any more (its epoch is over)
 */

/** True when only a claim of its node can tell that the guest runs nowhere. */
export function needsFence(guest: GuestFacts): boolean {
  return guest.orderOver !== true && guest.givenUp !== true;
}

/** Where orders stand: the node that was to be fenced is seen again and holds a permit, so nothing was claimed, or it serves anew. */
export function isBackUnclaimed(draft: RoundDraft, node: string): boolean {
  const facts = draft.nodeFacts.get(node);
  return draft.facts.settings.standingOrders && facts?.present === true && facts.permit === 'held';
}

/** True when the guest is to leave its node with no fence, in its next step. */
export function leavesWithoutFence(draft: RoundDraft, guest: GuestFacts, entry: GuestEntry): boolean {
  return !needsFence(guest) && mayLeave(draft, guest, entry);
}

/** True when the guest went on to recovery, or to rest, without a fence. */
export function leaveWithoutFence(draft: RoundDraft, guest: GuestFacts, entry: GuestEntry): boolean {
  if (!leavesWithoutFence(draft, guest, entry)) return false;
  const because =
    guest.givenUp === true ? `${entry.node} gave it up` : `nothing on ${entry.node} can start it any more under its last order`;
  // Nothing runs that would have to be stopped.
  if (guest.want === 'disabled')
    enter(draft, guest.id, { kind: 'inactive' }, `it is disabled, and ${because}`, { failedNodes: [] });
  else enter(draft, guest.id, { kind: 'awaiting-recovery' }, because);
  return true;
}

function mayLeave(draft: RoundDraft, guest: GuestFacts, entry: GuestEntry): boolean {
  if (entry.state.kind === 'awaiting-fence') return true;
  // The facts speak of the order that was read, not of one that this round has given since.
  if (entry.orderId >= draft.firstNewOrderId) return false;
  switch (entry.state.kind) {
    case 'active':
    case 'stop-requested':
      return guest.givenUp === true || !mayServeAgain(draft, entry.node);
    case 'start-requested':
    case 'inactive':
      return guest.want === 'started' && guest.givenUp === true;
    case 'frozen':
      // Without that it waits for its node, whose epoch ends with every reboot.
      return guest.givenUp === true;
    case 'start-requested-elsewhere':
    case 'moving-live':
    case 'moving-cold':
      // A move that succeeded ends its order too: its result goes first. What the home let go of in another way, a copy that it found unfit, does not move.
      return resultOf(draft, entry) === undefined && (guest.givenUp === true || !mayServeAgain(draft, entry.node));
    case 'awaiting-recovery':
    case 'failed':
      return false;
  }
}

/**
 * True while the node holds a permit and is seen, or was a moment ago: the order that is over is given again there, under the new epoch and
 * from the guest's own disks.
 */
function mayServeAgain(draft: RoundDraft, node: string): boolean {
  return draft.nodeFacts.get(node)?.permit === 'held' && !isLongLost(draft, node);
}
