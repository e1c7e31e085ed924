import type { GuestRecord } from '#core/guest/guest-record.ts';
import type { WantedState } from '#core/ha/records.ts';

/**
 * What a node's agent does about one guest now. The order is the guest's record itself, so this reads it afresh each round and a
 * lost or repeated message means nothing.
 *
 *   not mine, running ───────────────> kill        mine, order run, epoch mine: running? nothing
 *   not mine, my copy is primary ────> demote                                    primary copy of this generation? start
 *   mine, order stop, running ───────> shutdown                                  promotion ordered? promote, then start
 */
export type GuestPlanFacts = {
  self: string;
  /** The epoch granted to this node, when its guard serves; null: no guest may be started here now. */
  epoch: number | null;
  record: GuestRecord | null;
  want: WantedState | null;
  running: { generation: number; nodeEpoch: number } | null;
  copy: { role: 'primary' | 'replica'; generation: number } | null;
};

export type GuestAction =
  | { kind: 'none'; because: string }
  | { kind: 'start'; because: string }
  | { kind: 'promote'; because: string }
  | { kind: 'shutdown'; because: string }
  | { kind: 'kill'; because: string }
  | { kind: 'demote'; because: string }
  | { kind: 'refuse'; because: string };

/** Pure; see the drawing above. */
export function planGuestAction(facts: GuestPlanFacts): GuestAction {
  const { record, running } = facts;
  if (running !== null) {
    const intruder = whyIntruder(facts);
    if (intruder !== null) return { kind: 'kill', because: intruder };
  }
  if (record === null) return { kind: 'none', because: 'no record' };
  if (record.home !== facts.self) return planForeign(facts, record);
  if (facts.want === null || facts.want === 'ignored') return { kind: 'none', because: 'not managed' };
  const order = record.order;
  if (order === null) return { kind: 'none', because: 'no order yet' };
  if (facts.epoch === null) return { kind: 'none', because: 'this node has no permit to run guests at the moment' };
  if (order.nodeEpoch !== facts.epoch) {
    return { kind: 'none', because: `the order is for epoch ${order.nodeEpoch}, this node is at ${facts.epoch}` };
  }
  if (order.kind === 'stop') {
    return running === null ? { kind: 'none', because: 'stopped' } : { kind: 'shutdown', because: 'ordered to stop' };
  }
  if (running !== null) return { kind: 'none', because: 'running' };
  // The wish was taken back, and the manager has not said so yet.
  if (facts.want !== 'started') return { kind: 'none', because: `wanted ${facts.want}` };
  return planStart(facts, record);
}

function planStart(facts: GuestPlanFacts, record: GuestRecord): GuestAction {
  const { copy } = facts;
  if (copy?.role === 'primary' && copy.generation === record.generation) {
    return { kind: 'start', because: `ordered to run under epoch ${facts.epoch}` };
  }
  if (record.order?.promote) {
    return { kind: 'promote', because: `recovery from point ${record.order.promote.generation}/${record.order.promote.seq}` };
  }
  const found = copy === null ? 'no copy of it lies here' : `a ${copy.role} copy of generation ${copy.generation} lies here`;
  return {
    kind: 'refuse',
    because: `the disks of guest ${record.vmid}, generation ${record.generation}, are missing on ${facts.self}: ${found}`,
  };
}

function planForeign(facts: GuestPlanFacts, record: GuestRecord): GuestAction {
  if (facts.copy?.role === 'primary' && facts.copy.generation < record.generation) {
    return { kind: 'demote', because: `${record.home} is home of guest ${record.vmid} since generation ${record.generation}` };
  }
  return { kind: 'none', because: `home is ${record.home}` };
}

function whyIntruder(facts: GuestPlanFacts): string | null {
  const { record, running } = facts;
  if (running === null) return null;
  if (record === null) return 'the cluster has no such guest';
  if (record.home !== facts.self) return `its home is ${record.home}`;
  if (running.generation !== record.generation)
    return `it runs generation ${running.generation}, the record says ${record.generation}`;
  if (facts.epoch !== null && running.nodeEpoch !== facts.epoch) {
    return `it was started under epoch ${running.nodeEpoch}, this node is at ${facts.epoch}`;
  }
  return null;
}
