import type { GuestAction, GuestPlanFacts } from '#core/guest/guest-plan.ts';
import type { GuestOrder, GuestRecord, ReplicaPoint } from '#core/guest/guest-record.ts';
import { whyInvalid } from '#core/guest/order-validity.ts';
import { isSteady, orderKey, type OrderTries } from '#core/guest/order-tries.ts';
import type { OrderResult } from '#core/ha/manager/facts.ts';
import type { HaStatus } from '#core/ha/records.ts';

export type StatusChange = {
  state: HaStatus['state'];
  because: string;
  /** null: it has not ended now; what was told before under the same order stays told. */
  end: OrderResult | null;
  /** A start: when QEMU was spawned, how long it took, and from where its disks came. Left out: as told before while the guest runs. */
  started?: Pick<HaStatus, 'qemuStartedAtMs' | 'promoted' | 'startTookMs'>;
  /** Of a guest that was found running: where its disks came from, in case nobody got to tell it at its start. */
  promoted?: HaStatus['promoted'];
};

/**
 * What is to be told of a guest of this node as things are, and whether its order has ended with that; null: nothing new can be said.
 *
 *   run ──> ok once it runs; after a failed start, here or on another node, only once it has stayed up
 *       ──> failed after too many failed starts; broken without disks
 *   stop ──> ok once nothing runs
 *   move ──> failed after too many attempts, also while the node ends; its success is the record itself (GivenUp)
 *
 * The manager forgets failed starts at the first `ok`. A guest that dies right after each start would be called well each time, and go
 * from node to node for ever; hence the wait.
 */
export function planStatus(
  facts: GuestPlanFacts,
  action: GuestAction,
  tries: OrderTries,
  nowBootMs: number,
): StatusChange | null {
  const { record, process } = facts;
  const order = record?.order ?? null;
  if (record === null || order === null || record.home !== facts.self) return null;
  if (whyInvalid(facts, order) !== null) return planOver(facts, action, order);
  if (action.kind === 'refuse') return { state: 'failed', because: action.because, end: 'broken' };
  if (action.kind !== 'none') return null;
  if (order.kind === 'stop') return process === null ? { state: 'stopped', because: action.because, end: 'ok' } : null;
  if (process === null && isMoveOver(facts, order)) return { state: 'stopped', because: action.because, end: 'failed' };
  const rest = process === null ? whyAtRest(facts, order) : null;
  if (rest !== null) return { state: 'stopped', because: rest, end: null };
  // What it does with those that run is told by the node's end itself.
  if (facts.ending !== null) return null;
  if (order.kind === 'run' && process?.state === 'running') {
    const end = isProven(record, tries, nowBootMs) ? 'ok' : null;
    return { state: 'running', because: 'runs', end, promoted: facts.copy?.promotedFrom ?? null };
  }
  return planFailure(facts, order);
}

/**
 * Whether trouble with `action` is told as the guest's failure. Not where it was to end and has: then only the telling failed, the next look makes
 * up for it, and what was told as a failure would stay.
 */
export function isFailureTold(action: GuestAction, hasProcess: boolean): boolean {
  return hasProcess || (action.kind !== 'end' && action.kind !== 'shutdown');
}

/** Its node has come back to end at once: nobody orders the guest to run again, and what was told of it before would stay. */
function planOver(facts: GuestPlanFacts, action: GuestAction, order: GuestOrder): StatusChange | null {
  const { epoch, process, ending, hasFailed } = facts;
  const isOver = epoch !== null && order.nodeEpoch < epoch;
  if (!isOver || hasFailed === true || process !== null || ending === null || action.kind !== 'none') return null;
  return { state: 'stopped', because: 'this node ends', end: null };
}

/** Tried often enough while this node ends. The node may be there for long yet, and the guest would be moving all the while. */
function isMoveOver({ ending, retry }: GuestPlanFacts, { kind }: GuestOrder): boolean {
  return ending !== null && kind === 'move' && retry.kind === 'gave-up';
}

/** Why nobody starts a guest that does not run, so that its having run under its last order is over; null: it is to run. */
function whyAtRest({ ending, want, hasFailed }: GuestPlanFacts, { kind }: GuestOrder): string | null {
  // Why it failed is what people look for.
  if (hasFailed === true) return null;
  if (ending !== null) return 'this node ends';
  if (want === 'ignored' || want === null) return 'not managed, and it does not run';
  return kind === 'hold' ? 'left as it is' : null;
}

function isProven(record: GuestRecord, tries: OrderTries, nowBootMs: number): boolean {
  const hasFailed = tries.failed > 0 || (record.ha?.failedNodes ?? []).length > 0;
  return !hasFailed || isSteady(tries, nowBootMs);
}

function planFailure({ retry, ended, process }: GuestPlanFacts, order: GuestOrder): StatusChange | null {
  if (ended === 'failed' || retry.kind === 'now' || (order.kind !== 'run' && order.kind !== 'move')) return null;
  // A move fails early while its guest runs on.
  const state = process?.state === 'running' ? 'running' : 'failed';
  if (retry.kind === 'gave-up') return { state, because: retry.because, end: 'failed' };
  return { state, because: `${retry.because}; tried again soon`, end: null };
}

/** How the agent of `self` has told that the record's order ended; null: it has not told. */
export function toldEnd(self: string, record: GuestRecord | null, status: HaStatus | null): OrderResult | null {
  if (record === null || status === null || status.node !== self || status.end === undefined) return null;
  const key = `${status.end.orderId}/${status.nodeEpoch}/${status.generation}`;
  return record.order !== null && key === orderKey(record) ? status.end.result : null;
}

/** What `self` told last of the guest, under its present generation, is that it failed. */
export function toldFailed(self: string, record: GuestRecord | null, status: HaStatus | null): boolean {
  return status?.state === 'failed' && status.node === self && status.generation === record?.generation;
}

/** The point from which the record's home tells that it runs the guest, under its present generation; null: it tells of none. */
export function toldBegin(record: GuestRecord | null, status: HaStatus | null): ReplicaPoint | null {
  if (record === null || status?.node !== record.home || status.generation !== record.generation) return null;
  return status.promoted?.point ?? null;
}

/** What the agent of `self` tells of a guest of its own next; `before`: what it told last. */
export function nextStatus(
  self: string,
  record: GuestRecord,
  before: HaStatus | null,
  change: StatusChange,
): Omit<HaStatus, 'atMs'> {
  const isSameRun = before !== null && before.node === self && before.generation === record.generation;
  const kept: NonNullable<StatusChange['started']> =
    isSameRun && change.state === 'running' ? before : { qemuStartedAtMs: null, promoted: null };
  const { qemuStartedAtMs, promoted, startTookMs } = change.started ?? kept;
  const end = change.end ?? toldEnd(self, record, before);
  return {
    vmid: record.vmid,
    node: self,
    generation: record.generation,
    nodeEpoch: record.order?.nodeEpoch ?? 0,
    state: change.state,
    because: change.because,
    qemuStartedAtMs,
    promoted: promoted ?? change.promoted ?? null,
    ...(startTookMs === undefined ? {} : { startTookMs }),
    ...(end === null || record.order === null ? {} : { end: { orderId: record.order.id, result: end } }),
  };
}
