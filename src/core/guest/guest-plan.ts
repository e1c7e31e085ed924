import { limits } from '#base/limits.ts';
import { openPrimary, planFormerHome } from '#core/guest/disks-plan.ts';
import { planEnding } from '#core/guest/ending-plan.ts';
import type { GuestOrder, GuestRecord, ReplicaPoint } from '#core/guest/guest-record.ts';
import { planHandOver } from '#core/guest/hand-over-plan.ts';
import { whyInvalid } from '#core/guest/order-validity.ts';
import type { GuestProcess, HandedOver } from '#core/guest/process-state.ts';
import type { Retry } from '#core/guest/order-tries.ts';
import type { OrderResult } from '#core/ha/manager/facts.ts';
import type { HaStatus, WantedState } from '#core/ha/records.ts';

/**
 * What a node's agent does about one guest now. The order is the guest's record itself, so this reads it afresh each round and a
 * lost or repeated message means nothing.
 *
 *   not mine, running ───────────────> kill        mine, order run, epoch mine: running? nothing
 *   not mine, my copy is primary ────> demote                                    halted for a move? revive
 *   mine, order stop, running ───────> shutdown                                  primary copy of this generation? start
 *   mine, order move ────────────────> hand-over-plan.ts                         promotion ordered? promote, then start
 *   mine, order hold ────────────────> nothing
 *   mine, but this node ends ────────> ending-plan.ts
 */
export type GuestPlanFacts = {
  self: string;
  /** The epoch granted to this node, when its guard serves; null: no guest may be started here now. */
  epoch: number | null;
  record: GuestRecord | null;
  want: WantedState | null;
  process: GuestProcess | null;
  /** `handedOver`: of a primary copy; null: it may have been written to since its last point. */
  copy: {
    role: 'primary' | 'replica';
    generation: number;
    handedOver: HandedOver | null;
    /** Of a primary copy; null: it was never promoted. */
    promotedFrom: HaStatus['promoted'];
  } | null;
  /** The point from which the guest's home says that it runs it, under the record's generation; null: it has not said so. */
  began: ReplicaPoint | null;
  /** How the standing order has ended, as told under its id, epoch and generation; null: it has not. */
  ended: OrderResult | null;
  /** What was told last of the guest under its generation is that it failed here; left out: it is not. */
  hasFailed?: boolean;
  /** A point was sent under the standing order while the guest ran. */
  preCopied: boolean;
  /** Whether what failed under the standing order (while the node ends: since it does) may be tried now. */
  retry: Retry;
  /** What becomes of the guests here because the node is about to end; null: it is not. */
  ending: NodeEnding | null;
};

/** `give-up`: their last state goes to the other nodes first, so that they can start there at once. */
export type NodeEnding = 'stop' | 'give-up';

export type GuestAction = { because: string } & (
  | { kind: 'none' }
  | { kind: 'start' }
  | { kind: 'promote' }
  | { kind: 'shutdown'; timeoutMs: number }
  | { kind: 'kill' }
  /** `identicalTo`: the new home began from this point; a copy that holds exactly this needs no tail. */
  | { kind: 'demote'; identicalTo: ReplicaPoint | null }
  | { kind: 'refuse' }
  /** Sends a point while the guest runs, so that little is left to send once it has stopped. */
  | { kind: 'pre-copy'; to: string }
  /** Powers the guest down and keeps its disks open. */
  | { kind: 'halt' }
  /** Opens the disks in a QEMU whose CPUs never run. */
  | { kind: 'open' }
  /** Sends the last point, ends QEMU, gives the guest up. `to` null: to every other node. */
  | { kind: 'hand-over'; to: string | null }
  /** All was handed over before; only the record does not say so yet. */
  | { kind: 'give-up'; handed: HandedOver }
  /** Ends a QEMU in which no guest code runs. */
  | { kind: 'end' }
  /** Takes a halt back. */
  | { kind: 'revive' }
);

/** Pure; see the drawing above. */
export function planGuestAction(facts: GuestPlanFacts): GuestAction {
  const { record, process } = facts;
  if (process !== null) {
    const intruder = whyIntruder(facts);
    if (intruder !== null) return { kind: 'kill', because: intruder };
  }
  if (record === null) return { kind: 'none', because: 'no record' };
  if (record.home !== facts.self) return planForeign(facts, record);
  // Its end comes with the node's, whether or not it is managed.
  if (facts.ending !== null) return planEnding(facts, record, facts.ending);
  if (facts.want === null || facts.want === 'ignored') return { kind: 'none', because: 'not managed' };
  const { order } = record;
  if (order === null) return { kind: 'none', because: 'no order yet' };
  const invalid = whyInvalid(facts, order);
  if (invalid !== null) return { kind: 'none', because: invalid };
  return planOrder(facts, record, order);
}

function planOrder(facts: GuestPlanFacts, record: GuestRecord, order: GuestOrder): GuestAction {
  switch (order.kind) {
    case 'run':
      return planRun(facts, record);
    case 'stop':
      return planStop(facts, order);
    case 'move':
      if (facts.ended !== null) return { kind: 'none', because: `its move to ${order.to} has ended: ${facts.ended}` };
      if (facts.retry.kind !== 'now') return { kind: 'none', because: facts.retry.because };
      if (order.to === undefined) return { kind: 'refuse', because: 'the order to move it names no node' };
      return planHandOver(facts, record, order.to);
    case 'hold':
      return { kind: 'none', because: 'left as it is' };
  }
}

function planRun(facts: GuestPlanFacts, record: GuestRecord): GuestAction {
  switch (facts.process?.state) {
    case undefined:
      break;
    case 'unknown':
      return { kind: 'none', because: 'its QEMU does not answer' };
    case 'running':
      return { kind: 'none', because: 'running' };
    case 'halting':
    case 'halted':
      return { kind: 'revive', because: 'it was to be handed over and is ordered to run here again' };
    case 'prelaunch':
      return { kind: 'end', because: 'its QEMU was spawned and never let run' };
    case 'off':
      return { kind: 'end', because: 'it has powered down and is ordered to run' };
  }
  // The wish was taken back, and the manager has not said so yet.
  if (facts.want !== 'started') return { kind: 'none', because: `wanted ${facts.want}` };
  if (facts.ended === 'failed') return { kind: 'none', because: 'its starts failed under this order' };
  if (facts.retry.kind !== 'now') return { kind: 'none', because: facts.retry.because };
  return openPrimary(facts, record) ?? { kind: 'start', because: `ordered to run under epoch ${facts.epoch}` };
}

function planStop(facts: GuestPlanFacts, order: GuestOrder): GuestAction {
  switch (facts.process?.state) {
    case undefined:
      return { kind: 'none', because: 'stopped' };
    case 'prelaunch':
    case 'halted':
    case 'off':
      return { kind: 'end', because: 'ordered to stop' };
    case 'unknown':
    case 'running':
    case 'halting':
      return { kind: 'shutdown', timeoutMs: order.timeoutMs ?? limits.guestShutdownMs, because: 'ordered to stop' };
  }
}

function planForeign(facts: GuestPlanFacts, record: GuestRecord): GuestAction {
  if (facts.copy?.role === 'primary' && facts.copy.generation < record.generation) {
    return planFormerHome(facts, record);
  }
  return { kind: 'none', because: `home is ${record.home}` };
}

function whyIntruder(facts: GuestPlanFacts): string | null {
  const { record, process } = facts;
  if (process === null) return null;
  if (record === null) return 'the cluster has no such guest';
  if (record.home !== facts.self) return `its home is ${record.home}`;
  if (process.generation !== record.generation)
    return `it runs generation ${process.generation}, the record says ${record.generation}`;
  if (facts.epoch !== null && process.nodeEpoch !== facts.epoch) {
    return `it was started under epoch ${process.nodeEpoch}, this node is at ${facts.epoch}`;
  }
  return record.givenUp === undefined ? null : 'this node gave it up';
}
