import type { NodeEnding } from '#core/guest/guest-plan.ts';
import type { GuestRecord } from '#core/guest/guest-record.ts';
import type { AgentMode } from '#core/ha/manager/facts.ts';
import { isActiveWork } from '#core/ha/manager/memory.ts';
import type { WantedState } from '#core/ha/records.ts';

/**
 * When a node whose agent was asked to end may end, from the guests it had when it was asked.
 *
 *   restart      each has stopped here, and the manager has frozen it, or it would start it elsewhere while the node is away
 *   shutdown     each has stopped here; those that are to run were given up, or their last state reached no other node
 *   maintenance  each has another home, or has no business here any more
 */
export type EndingGuest = {
  vmid: number;
  /** null: it was deleted meanwhile. */
  record: GuestRecord | null;
  /** Its QEMU is still there. */
  runs: boolean;
  /** null: nothing is said of it, so it is not managed. */
  want: WantedState | null;
  /** Its order binds this node under its present permit. */
  orderHolds: boolean;
  /** Why its last state could not be brought to any other node; null: it was, or that is still tried. */
  couldNotCopy: string | null;
};

export type EndVerdict = {
  /** Guests without which the node must not end, and why. */
  waitsFor: string[];
  /** Guests that only the manager has not looked at yet; worth a wait, but not for ever. */
  asksManagerFor: string[];
  /** What came of each guest, for people. */
  lines: string[];
};

/** What becomes of a node's guests in this mode of its agent. */
export function endingOf(mode: AgentMode): NodeEnding | null {
  if (mode === 'restart') return 'stop';
  return mode === 'shutdown' ? 'give-up' : null;
}

export function judgeEnd(self: string, mode: AgentMode, guests: readonly EndingGuest[]): EndVerdict {
  const verdict: EndVerdict = { waitsFor: [], asksManagerFor: [], lines: [] };
  for (const guest of guests) {
    const name = `guest ${guest.vmid}${guest.record === null ? '' : ` ${guest.record.name}`}`;
    const waits = (why: string): void => void verdict.waitsFor.push(`${name} ${why}`);
    const isManaged = guest.want !== null && guest.want !== 'ignored';
    if (guest.runs && mode === 'maintenance' && !isManaged) {
      verdict.lines.push(`${name} is not managed and runs on: it ends with the node`);
      continue;
    }
    if (guest.runs) {
      waits(mode === 'maintenance' ? 'has not left' : 'has not stopped');
      continue;
    }
    const left = whereTo(self, guest);
    if (left !== null) verdict.lines.push(`${name} ${left}`);
    else if (mode === 'restart') judgeStopped(name, guest, verdict);
    else if (mode === 'shutdown') judgeKept(name, guest, verdict);
    else if (guest.record?.ha !== undefined && isActiveWork(guest.record.ha.state)) waits('has not left');
    else verdict.lines.push(`${name} is stopped and stays here`);
  }
  return verdict;
}

/** Where a guest that is no longer ours went; null: this node is its home. */
function whereTo(self: string, { record }: EndingGuest): string | null {
  if (record === null) return 'was deleted';
  if (record.home !== self) return `has moved to ${record.home}`;
  if (record.givenUp === undefined) return null;
  return `was given up; ${record.givenUp.copiedTo.join(', ')} can start it`;
}

function judgeStopped(name: string, { record }: EndingGuest, verdict: EndVerdict): void {
  const isFrozen = record?.ha === undefined || !isActiveWork(record.ha.state);
  if (!isFrozen) verdict.asksManagerFor.push(`${name}: the manager has not frozen it`);
  const warning = 'is stopped, but no manager has frozen it: it may be started elsewhere while this node is away';
  verdict.lines.push(isFrozen ? `${name} is stopped and waits for this node` : `${name} ${warning}`);
}

function judgeKept(name: string, guest: EndingGuest, verdict: EndVerdict): void {
  const kind = guest.record?.order?.kind;
  const isToBeGivenUp = guest.want === 'started' && guest.orderHolds && (kind === 'run' || kind === 'move');
  if (isToBeGivenUp && guest.couldNotCopy === null) return void verdict.waitsFor.push(`${name} has not been given up`);
  const warning = `is stopped here and was NOT given up, for no other node holds its last state (${guest.couldNotCopy}): it goes on without loss only when this node is back`;
  verdict.lines.push(isToBeGivenUp ? `${name} ${warning}` : `${name} is stopped and stays here`);
}
