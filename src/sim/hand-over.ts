import { AppError, formatErrorChain, isAppError } from '#base/error.ts';
import type { GivenUp, GuestRecord } from '#core/guest/guest-record.ts';
import { orderKey } from '#core/guest/order-tries.ts';
import type { HandedOver } from '#core/guest/process-state.ts';
import type { AgentProcess } from '#sim/agent.ts';
import { type Attempt, done, skipped } from '#sim/attempt.ts';
import type { GuestMemory } from '#sim/guest-loop.ts';
import { keys } from '#sim/known-keys.ts';
import type { Task } from '#sim/process.ts';
import { endProcess, haltProcess } from '#sim/qemu-calls.ts';

/** As programs/agent/hand-over.ts: the steps by which a guest leaves this node. */
export function* preCopy(agent: AgentProcess, memory: GuestMemory, record: GuestRecord, to: string): Task<Attempt> {
  return yield* attempt(function* () {
    yield* agent.replication.syncNow(record.vmid, to);
    memory.preCopiedUnder = orderKey(record);
    return done;
  });
}

export function* haltGuest(agent: AgentProcess, memory: GuestMemory, record: GuestRecord, because: string): Task<Attempt> {
  const { process } = memory;
  if (process === null) return skipped;
  yield* agent.guests.desk.tell(record, { state: 'waiting', because: `is stopped for its hand-over: ${because}`, end: null });
  yield* agent.replication.stopAndWait(record.vmid);
  memory.state = 'halting';
  return yield* attempt(function* () {
    memory.state = yield* haltProcess(agent, process);
    return done;
  });
}

export function* handOver(
  agent: AgentProcess,
  memory: GuestMemory,
  record: GuestRecord,
  to: string | null,
  because: string,
): Task<Attempt> {
  const { process } = memory;
  if (process === null) return skipped;
  const { vmid, generation } = record;
  yield* agent.guests.desk.tell(record, { state: 'waiting', because: `its last state is on the way: ${because}`, end: null });
  const sent = yield* agent.replication.sendLast(process, to === null ? null : [to]);
  if (sent.arrived === null) {
    return {
      kind: 'failed',
      error: new AppError('unavailable', `send the last state of guest ${vmid}: ${sent.failed.join('; ')}`),
    };
  }
  memory.isEnding = true;
  yield* endProcess(agent, process, 'handed over');
  agent.host.disk.noteHandedOver(vmid, generation, sent.arrived);
  yield* agent.replication.announce(vmid);
  yield* agent.sleep(agent.cluster.dice.between(5, 100));
  return yield* giveUp(agent, record, sent.arrived, because);
}

/** From this commit on nothing here can start it without a new order. Raises AppError. */
export function* giveUp(agent: AgentProcess, seen: GuestRecord, handed: HandedOver, because: string): Task<Attempt> {
  const { vmid } = seen;
  const key = keys.guest(vmid);
  const self = agent.host.name;
  const current = yield* agent.readNow<GuestRecord>(key);
  const isStill =
    current?.value.home === self &&
    current.value.generation === seen.generation &&
    current.value.order !== null &&
    current.value.order.id === seen.order?.id;
  if (current === null || !isStill) return skipped;
  // The node stays after all: the guest starts here again.
  if (current.value.order?.kind !== 'move' && agent.nodeEnd.ending() !== 'give-up') return skipped;
  const givenUp: GivenUp = {
    node: self,
    orderId: current.value.order?.kind === 'move' ? current.value.order.id : null,
    point: handed.point,
    copiedTo: handed.copiedTo,
    atMs: agent.host.wallMs(),
    because,
  };
  const next: GuestRecord = { ...current.value, order: null, givenUp };
  const outcome = yield* agent.commit([{ key, modRevision: current.modRevision }], [{ key, value: JSON.stringify(next) }]);
  agent.cluster.say(`${self} agent: gives guest ${vmid} up (${outcome.kind}): ${because}`);
  if (outcome.kind === 'maybe') throw new AppError('unavailable', `give guest ${vmid} up: the store did not confirm it`);
  return outcome.kind === 'committed' ? done : skipped;
}

function* attempt(work: () => Task<Attempt>): Task<Attempt> {
  try {
    return yield* work();
  } catch (error) {
    if (!isAppError(error)) throw error;
    return { kind: 'failed', error: new AppError(error.kind, formatErrorChain(error)) };
  }
}
