import { openPrimary } from '#core/guest/disks-plan.ts';
import type { GuestAction, GuestPlanFacts } from '#core/guest/guest-plan.ts';
import type { GuestRecord } from '#core/guest/guest-record.ts';

/**
 * How a guest leaves its home: it stops here, its last state goes to `to` (null: to every other node), then the record says that it was
 * given up. Each step is found from what is there, so a crash after any of them goes on with the next.
 *
 *   running ──pre-copy──> running ──halt──> off / halted ──┐
 *   nothing runs ──open──> prelaunch ──────────────────────┴──hand-over──> nothing runs, handed over ──give-up──> given up
 */
export function planHandOver(facts: GuestPlanFacts, record: GuestRecord, to: string | null): GuestAction {
  const because = to === null ? 'this node ends' : `ordered to move to ${to}`;
  switch (facts.process?.state) {
    case undefined:
      return planStopped(facts, record, to, because);
    case 'unknown':
      return { kind: 'none', because: `${because}, but its QEMU does not answer` };
    case 'running':
      if (to === null || facts.preCopied) return { kind: 'halt', because };
      return { kind: 'pre-copy', to, because };
    case 'halting':
      return { kind: 'halt', because };
    case 'prelaunch':
    case 'halted':
    case 'off':
      return { kind: 'hand-over', to, because };
  }
}

function planStopped(facts: GuestPlanFacts, record: GuestRecord, to: string | null, because: string): GuestAction {
  const first = openPrimary(facts, record);
  if (first !== null) return first;
  const handed = facts.copy?.handedOver ?? null;
  const isThere = handed !== null && (to === null || handed.copiedTo.includes(to));
  return isThere ? { kind: 'give-up', handed, because } : { kind: 'open', because };
}
