import { AppError, formatErrorChain, isAppError } from '#base/error.ts';
import { limits } from '#base/limits.ts';
import type { GuestRecord } from '#core/guest/guest-record.ts';
import { prefixes } from '#core/ha/keys.ts';
import type { HaResource } from '#core/ha/records.ts';
import { hasBegunToMake, isOfEarlierBoot, type RequestOrder, type RequestRecord, type RequestState } from '#core/ha/requests.ts';
import type { AgentProcess } from '#sim/agent.ts';
import { keys } from '#sim/known-keys.ts';
import type { Task } from '#sim/process.ts';

/** As programs/agent/requests.ts: takes a request up by compare-and-set, does it, writes its end the same way. */
export function* runRequests(agent: AgentProcess): Task<void> {
  const begun = new Set<string>();
  for (;;) {
    for (const { value: request, modRevision } of agent.list<RequestRecord>(prefixes.requests)) {
      const open = request.state === 'waiting' || request.state === 'running';
      if (request.node !== agent.host.name || !open || begun.has(request.id)) continue;
      begun.add(request.id);
      agent.start(handle(agent, request, modRevision), (error) => {
        if (error !== null && !isAppError(error)) throw error;
        agent.after(limits.agentRoundMs, () => begun.delete(request.id));
      });
    }
    yield* agent.bells.requests.next(agent, limits.agentRoundMs);
  }
}

function* handle(agent: AgentProcess, request: RequestRecord, modRevision: bigint): Task<void> {
  const key = keys.request(request.id);
  const { state: _state, ...order } = request;
  const write = (state: RequestState, revision: bigint) =>
    agent.commit([{ key, modRevision: revision }], [{ key, value: JSON.stringify({ ...order, ...state }) }]);
  const begun = { text: 'begun', doneBytes: null, totalBytes: null };
  const taken = yield* write({ state: 'running', progress: begun, bootId: agent.host.bootId }, modRevision);
  if (taken.kind !== 'committed') return;
  let end: RequestState;
  try {
    yield* perform(agent, request);
    end = { state: 'done', result: [] };
  } catch (error) {
    if (!isAppError(error)) throw error;
    end = { state: 'failed', error: { kind: error.kind, message: formatErrorChain(error) } };
    agent.cluster.say(`${agent.host.name} agent: ${request.kind} failed: ${formatErrorChain(error)}`);
  }
  const current = yield* agent.readNow<RequestRecord>(key);
  if (current !== null) yield* write(end, current.modRevision);
}

function* perform(agent: AgentProcess, order: RequestRecord): Task<void> {
  const isRepeated = order.state === 'running';
  switch (order.kind) {
    case 'guest-create':
      return yield* agent.guests.exclusively(order.vmid, createGuest(agent, order, isRepeated));
    case 'guest-delete':
      return yield* agent.guests.exclusively(order.vmid, deleteGuest(agent, order.vmid));
    case 'node-end':
      if (isOfEarlierBoot(order, agent.host.bootId)) throw new AppError('conflict', `${agent.host.name} has booted since`);
      return yield* agent.nodeEnd.end(order);
    case 'node-stay':
      return yield* agent.nodeEnd.stay();
    case 'tail-release':
      return agent.host.disk.releaseTail(order.vmid, order.name);
    case 'replication-sync':
      if (order.target !== null) yield* agent.replication.syncNow(order.vmid, order.target);
      return;
    case 'tail-export':
      throw new AppError('unsupported', 'simulated tails are not exported');
    case 'guest-backup':
    case 'guest-restore':
    case 'restore-test':
      throw new AppError('unsupported', 'simulated guests are not backed up');
  }
}

type CreateOrder = Extract<RequestOrder, { kind: 'guest-create' }>;

/** Disks first, then the record. */
function* createGuest(agent: AgentProcess, order: CreateOrder, isRepeated: boolean): Task<void> {
  const { host } = agent;
  const { vmid } = order;
  const isMade = (record: GuestRecord) => record.home === host.name && record.generation === 1 && record.name === order.name;
  const known = yield* agent.readNow<GuestRecord>(keys.guest(vmid));
  if (known !== null && isRepeated && isMade(known.value)) return;
  if (known !== null) throw new AppError('conflict', `guest ${vmid} exists`);
  const left = host.disk.manifest(vmid);
  if (left !== null && !(isRepeated && left.role === 'primary' && left.generation === 1)) {
    throw new AppError('conflict', `a copy of an earlier guest ${vmid} lies here`);
  }
  yield* agent.sleep(agent.cluster.dice.between(10, 500));
  if (left === null) host.disk.create(vmid);
  const record: GuestRecord = { vmid, name: order.name, config: order.config, home: host.name, generation: 1, order: null };
  const resource: HaResource = { vmid, want: order.want, maxDataAgeMs: null };
  const absent = [keys.guest(vmid), keys.haResource(vmid)].map((key) => ({ key, modRevision: 0n }));
  const outcome = yield* agent.commit(absent, [
    { key: keys.guest(vmid), value: JSON.stringify(record) },
    { key: keys.haResource(vmid), value: JSON.stringify(resource) },
  ]);
  if (outcome.kind === 'committed') return;
  const now = yield* agent.readNow<GuestRecord>(keys.guest(vmid));
  if (now !== null && isMade(now.value)) return;
  if (outcome.kind === 'maybe') throw new AppError('unavailable', `guest ${vmid}: the store did not confirm its record`);
  if (left === null) host.disk.remove(vmid);
  throw new AppError('conflict', `guest ${vmid}: somebody created it at the same moment`);
}

/** As programs/agent/requests.ts: the store is asked until it is known, while nothing else is done with the guest. */
function* deleteGuest(agent: AgentProcess, vmid: number): Task<void> {
  const untilBootMs = agent.host.bootMs() + limits.deleteSureMs;
  let isUnsure = false;
  for (;;) {
    try {
      const outcome = yield* tryToDelete(agent, vmid);
      if (outcome === 'deleted') break;
      isUnsure = true;
    } catch (error) {
      if (!isUnsure || !isAppError(error, 'unavailable', 'timeout')) throw error;
    }
    if (agent.host.bootMs() > untilBootMs) throw new AppError('unavailable', `the store does not say whether ${vmid} is deleted`);
    yield* agent.sleep(limits.deleteAgainMs);
  }
  agent.host.disk.remove(vmid);
}

function* tryToDelete(agent: AgentProcess, vmid: number): Task<'deleted' | 'unsure'> {
  if (agent.guests.running().some((guest) => guest.vmid === vmid)) throw new AppError('conflict', `guest ${vmid} runs here`);
  const record = yield* agent.readNow<GuestRecord>(keys.guest(vmid));
  if (record === null) return 'deleted';
  const resource = yield* agent.readNow<HaResource>(keys.haResource(vmid));
  if (record.value.home !== agent.host.name) throw new AppError('conflict', 'its home is elsewhere');
  const requests = agent.list<RequestRecord>(prefixes.requests).map(({ value }) => value);
  const made = requests.filter((request) => hasBegunToMake(request, agent.host.name, vmid));
  const outcome = yield* agent.commit(
    [
      { key: keys.guest(vmid), modRevision: record.modRevision },
      { key: keys.haResource(vmid), modRevision: resource?.modRevision ?? 0n },
    ],
    [
      { key: keys.guest(vmid), value: null },
      { key: keys.haResource(vmid), value: null },
      { key: keys.haStatus(vmid), value: null },
      ...made.map(({ id }) => ({ key: keys.request(id), value: null })),
      { key: keys.guestTombstone(vmid), value: JSON.stringify({ vmid, generation: record.value.generation }) },
    ],
  );
  if (outcome.kind === 'maybe') return 'unsure';
  if (outcome.kind === 'committed' || (yield* agent.readNow(keys.guest(vmid))) === null) return 'deleted';
  throw new AppError('conflict', `guest ${vmid} was changed meanwhile`);
}

/** Copies of guests that were deleted on purpose go; a record that is merely missing removes nothing. */
export function* dropDeletedCopies(agent: AgentProcess): Task<void> {
  for (const vmid of agent.host.disk.guests()) {
    if (agent.read(keys.guest(vmid)) !== null || agent.read(keys.guestTombstone(vmid)) === null) continue;
    const record = yield* agent.readNow(keys.guest(vmid));
    const tombstone = yield* agent.readNow(keys.guestTombstone(vmid));
    if (record !== null || tombstone === null) continue;
    agent.host.disk.remove(vmid);
    const key = keys.replica(vmid, agent.host.name);
    const own = yield* agent.readNow(key);
    if (own !== null) yield* agent.commit([{ key, modRevision: own.modRevision }], [{ key, value: null }]);
  }
}
