import { assert } from '#base/assert.ts';
import type { GuestOrder, GuestRecord } from '#core/guest/guest-record.ts';
import type { ClusterFacts, GuestRecordFacts, Kept, NodeRecordFacts } from '#core/ha/cluster-round/facts.ts';
import { grantedEpoch, whyUnusable } from '#core/ha/cluster-round/node-health.ts';
import type { CommitStep, StepEvent } from '#core/ha/cluster-round/steps.ts';
import { aliveAtMs, pointOn } from '#core/ha/cluster-round/copies.ts';
import { keys } from '#core/ha/keys.ts';
import type { AgentMode } from '#core/ha/manager/facts.ts';
import type { GuestEntry, GuestState } from '#core/ha/manager/memory.ts';
import type { HaCommand, HaResource } from '#core/ha/records.ts';

/**
 * The commit that makes a guest's record follow from its entry: the entry itself, its home, the standing order.
 *
 *   entry on another node than the record ──> that node becomes the home, generation + 1, from its copy
 *   else ──> the order that the state asks for, under the home's present epoch
 */
export type GuestChange = {
  guest: GuestRecordFacts;
  /** null: it is no longer managed. */
  entry: GuestEntry | null;
  wantStopped: boolean;
  /** A disarm is in force: what its node's return would bring back stays as it is until the cluster is armed. */
  isHeld: boolean;
  commands: { kept: Kept<HaCommand>; next: HaCommand }[];
};

export type GuestOutcome = { step: CommitStep | null; defer: string | null };

export function planGuestCommit(
  facts: ClusterFacts,
  nodes: ReadonlyMap<string, NodeRecordFacts>,
  change: GuestChange,
  nowWallMs: number,
): GuestOutcome {
  const { guest, entry } = change;
  const { ha: _was, ...rest } = guest.record;
  if (entry === null) return { step: commitOf(change, rest, [], [], 'it is not managed any more'), defer: null };
  if (entry.node !== guest.record.home) return planNewHome(facts, nodes, { ...change, entry }, nowWallMs);
  return planOnHome(facts, nodes, { ...change, entry }, nowWallMs);
}

type Managed = GuestChange & { entry: GuestEntry };

/** What the state asks of the guest's home; null: nothing new. */
function wantedOrder(state: GuestState): Pick<GuestOrder, 'kind' | 'to' | 'timeoutMs'> | null {
  switch (state.kind) {
    case 'active':
      return { kind: 'run' };
    case 'stop-requested':
      return state.timeoutMs === null ? { kind: 'stop' } : { kind: 'stop', timeoutMs: state.timeoutMs };
    case 'inactive':
      return { kind: 'stop' };
    case 'start-requested-elsewhere':
    case 'moving-live':
    case 'moving-cold':
      return { kind: 'move', to: state.to };
    case 'frozen':
    case 'failed':
      return { kind: 'hold' };
    case 'start-requested':
    case 'awaiting-fence':
    case 'awaiting-recovery':
      return null;
  }
}

function planOnHome(
  facts: ClusterFacts,
  nodes: ReadonlyMap<string, NodeRecordFacts>,
  change: Managed,
  nowWallMs: number,
): GuestOutcome {
  const { guest, entry } = change;
  const { record } = guest;
  const home = nodes.get(record.home);
  const order = planOrder(facts, home, change, nowWallMs);
  if (order.kind === 'defer') return { step: withEntry(change), defer: order.because };
  if (order.kind === 'keep') return { step: withEntry(change), defer: null };
  const { givenUp: _over, ...rest } = record;
  const because = whyOrdered(record, entry, order.next);
  const text = `guest ${record.vmid} ${order.next.kind} on ${record.home} (generation ${record.generation}): ${because}`;
  const event: StepEvent = { kind: 'ordered', node: record.home, vmid: record.vmid, text };
  const compares = [{ key: keys.nodePermit(record.home), modRevision: home?.permit?.modRevision ?? 0n }];
  return { step: commitOf(change, { ...rest, ha: entry, order: order.next }, compares, [event], because), defer: null };
}

function whyOrdered(record: GuestRecord, entry: GuestEntry, next: GuestOrder): string {
  const isOldEpoch = record.order !== null && record.order.nodeEpoch !== next.nodeEpoch;
  if (!isOldEpoch) return entry.because;
  return `its home ${record.home} came back under epoch ${next.nodeEpoch} with the guest's own disks`;
}

type OrderPlan = { kind: 'keep' } | { kind: 'defer'; because: string } | { kind: 'write'; next: GuestOrder };

function planOrder(
  facts: ClusterFacts,
  home: NodeRecordFacts | undefined,
  { guest: { record, resource }, entry, isHeld }: Managed,
  nowWallMs: number,
): OrderPlan {
  const wanted = wantedOrder(entry.state);
  const epoch = grantedEpoch(home);
  if (wanted === null || home === undefined || epoch === null) return { kind: 'keep' };
  const standing = record.order;
  // A home that gave the guest up waits for what becomes of that, not for the same order again.
  if (standing === null && record.givenUp?.orderId === entry.orderId) return { kind: 'keep' };
  // Nothing to start from lies on a home that found its copy unfit: an order would only hide that it did.
  if (standing === null && isUnfitHome(record)) return { kind: 'keep' };
  const isValid = standing !== null && standing.nodeEpoch === epoch;
  if (isValid && isSameOrder(standing, wanted) && standing.id === entry.orderId) return { kind: 'keep' };
  // Without a run order in force a guest that is to be left alone needs no order at all.
  if (!isValid && (isHeld || wanted.kind === 'hold')) return { kind: 'keep' };
  // Its state follows the wish soon; until then it is not started again where its node has come back.
  if (!isValid && wanted.kind === 'run' && resource?.want !== 'started') return { kind: 'keep' };
  if (!isValid) {
    const because = whyUnusable(facts, home, endsThatBear(wanted.kind, record));
    // Its heartbeat tells soon; the claim rules cover the case that it never does.
    if (because !== null) return { kind: 'defer', because: `its home ${record.home} ${because}` };
  }
  const next: GuestOrder = {
    id: entry.orderId,
    ...wanted,
    nodeEpoch: epoch,
    managerEpoch: facts.managerEpoch,
    // An unfinished promotion stays part of the order; the agent repeats it or finds it done.
    promote: standing?.promote ?? null,
    lostAtMs: standing?.lostAtMs ?? null,
    issuedAtMs: nowWallMs,
  };
  return { kind: 'write', next };
}

/**
 * While its node is about to end, a guest may come to rest there; and where all leave it may leave, also when it is at rest, and run on
 * when it was given up for a move that came to nothing. A node whose guests start elsewhere hands over what is to run there, with all that was written.
 */
function endsThatBear(kind: GuestOrder['kind'], { order, givenUp, home }: GuestRecord): AgentMode[] {
  if (kind === 'stop') return ['restart', 'shutdown', 'maintenance'];
  const isBack = order === null && givenUp?.node === home;
  if (kind === 'run') return isBack ? ['shutdown', 'maintenance'] : ['shutdown'];
  return kind === 'move' ? ['maintenance'] : [];
}

/** The home declined it, and nothing has come of it since. */
function isUnfitHome({ home, givenUp, declined }: GuestRecord): boolean {
  return givenUp === undefined && declined?.at(-1)?.node === home;
}

function isSameOrder(standing: GuestOrder, wanted: Pick<GuestOrder, 'kind' | 'to' | 'timeoutMs'>): boolean {
  return standing.kind === wanted.kind && standing.to === wanted.to && standing.timeoutMs === wanted.timeoutMs;
}

/** Another node becomes the home: the old one is claimed, gave the guest up, or has come back under an epoch without an order for it. */
function planNewHome(
  facts: ClusterFacts,
  nodes: ReadonlyMap<string, NodeRecordFacts>,
  change: Managed,
  nowWallMs: number,
): GuestOutcome {
  const { guest, entry } = change;
  const { record } = guest;
  const target = nodes.get(entry.node);
  const epoch = grantedEpoch(target);
  const promote = pointOn(guest, entry.node);
  const wanted = wantedOrder(entry.state);
  const old = nodes.get(record.home);
  const oldEpoch = grantedEpoch(old);
  const isOver = record.order === null || record.order.nodeEpoch !== oldEpoch;
  assert(isOver, `guest ${record.vmid}: ${record.home} may still run it under epoch ${oldEpoch}, so it gets no other home`);
  if (target === undefined || target.permit === null || epoch === null || promote === null || wanted === null) {
    return { step: null, defer: `${entry.node} cannot take it: it has no permit or no copy any more` };
  }
  const lostAtMs = aliveAtMs(guest, old, nowWallMs);
  const { givenUp: _over, ...rest } = record;
  const generation = record.generation + 1;
  const next: GuestRecord = {
    ...rest,
    ha: entry,
    home: entry.node,
    generation,
    order: {
      id: entry.orderId,
      ...wanted,
      nodeEpoch: epoch,
      managerEpoch: facts.managerEpoch,
      promote,
      lostAtMs,
      issuedAtMs: nowWallMs,
    },
  };
  const point = `generation ${promote.generation} point ${promote.seq} on ${entry.node}`;
  const text = `guest ${record.vmid} ${wanted.kind} on ${entry.node} (generation ${generation}), from ${point}: ${entry.because}`;
  const compares = [
    { key: keys.nodePermit(entry.node), modRevision: target.permit.modRevision },
    // A home that takes a new permit at this instant keeps its guest.
    ...(record.order === null ? [] : [{ key: keys.nodePermit(record.home), modRevision: old?.permit?.modRevision ?? 0n }]),
  ];
  const event: StepEvent = { kind: 'ordered', node: entry.node, vmid: record.vmid, text };
  return { step: commitOf(change, next, compares, [event], entry.because), defer: null };
}

/** The entry alone changes; null when it does not either. */
function withEntry(change: Managed): CommitStep | null {
  const { guest, entry, wantStopped, commands } = change;
  const was = guest.record.ha;
  // An entry is replaced, never changed: the same one means that nothing was decided.
  const isSame = was === entry;
  if (isSame && !wantStopped && commands.length === 0) return null;
  const changed = was?.state.kind !== entry.state.kind || was.node !== entry.node;
  const text = `guest ${guest.record.vmid} is ${entry.state.kind} on ${entry.node}: ${entry.because}`;
  const events: StepEvent[] = changed ? [{ kind: 'state', node: entry.node, vmid: guest.record.vmid, text }] : [];
  return commitOf(change, { ...guest.record, ha: entry }, [], events, entry.because);
}

function commitOf(
  change: GuestChange,
  next: GuestRecord,
  compares: CommitStep['compares'],
  events: StepEvent[],
  because: string,
): CommitStep {
  const { guest, commands } = change;
  const { vmid } = guest.record;
  const written = forgetDeclined(next);
  const resource: HaResource | null =
    change.wantStopped && guest.resource !== null ? { ...guest.resource, want: 'stopped' } : null;
  return {
    kind: 'commit',
    about: { kind: 'guest', vmid, node: next.home },
    compares: [
      { key: keys.guest(vmid), modRevision: guest.modRevision },
      { key: keys.haResource(vmid), modRevision: guest.resourceRevision },
      ...compares,
      ...commands.map(({ kept }) => ({ key: keys.haCommand(kept.value.id), modRevision: kept.modRevision })),
    ],
    writes: [
      { key: keys.guest(vmid), value: JSON.stringify(written) },
      ...(resource === null ? [] : [{ key: keys.haResource(vmid), value: JSON.stringify(resource) }]),
      ...commands.map(({ next: done }) => ({ key: keys.haCommand(done.id), value: JSON.stringify(done) })),
    ],
    events,
    because,
  };
}

/** What its home once found unfit does not count any more when it runs there. */
function forgetDeclined(next: GuestRecord): GuestRecord {
  const { declined, ...rest } = next;
  const runs = next.ha?.state.kind === 'active' && next.ha.state.seenRunning && next.order?.kind === 'run';
  if (declined === undefined || !runs) return next;
  const left = declined.filter(({ node }) => node !== next.home);
  return left.length === 0 ? rest : { ...rest, declined: left };
}
