import { isAppError } from '#base/error.ts';
import type { GuestAction } from '#core/guest/guest-plan.ts';
import type { GuestRecord } from '#core/guest/guest-record.ts';
import type { HaStatus } from '#core/ha/records.ts';
import type { AgentProcess } from '#sim/agent.ts';
import { type Attempt, done, skipped } from '#sim/attempt.ts';
import type { GuestMemory } from '#sim/guest-loop.ts';
import { openGuest, promoteGuest, startGuest } from '#sim/guest-start.ts';
import { giveUp, haltGuest, handOver, preCopy } from '#sim/hand-over.ts';
import type { Task } from '#sim/process.ts';
import { endProcess, reviveProcess } from '#sim/qemu-calls.ts';

/** As programs/agent/guest-actions.ts. Raises AppError. */
export function* performAction(
  agent: AgentProcess,
  memory: GuestMemory,
  record: GuestRecord | null,
  action: GuestAction,
): Task<Attempt> {
  if (action.kind === 'none' || action.kind === 'refuse') return skipped;
  const { because } = action;
  agent.cluster.say(`${agent.host.name} agent: guest ${memory.vmid}, ${action.kind}: ${because}`);
  switch (action.kind) {
    case 'kill':
      memory.isEnding = true;
      yield* endProcess(agent, memory.process, 'killed by the agent');
      return done;
    case 'shutdown':
      memory.isEnding = true;
      yield* shutDown(agent, memory, action.timeoutMs);
      yield* tellStopped(agent, record, because);
      return done;
    case 'end':
      memory.isEnding = true;
      yield* endProcess(agent, memory.process, 'ended by the agent');
      yield* tellStopped(agent, record, because);
      return done;
    case 'demote':
      yield* agent.sleep(agent.cluster.dice.between(5, 400));
      agent.host.disk.demote(memory.vmid, action.identicalTo, agent.host.wallMs());
      return done;
    case 'revive':
      yield* revive(agent, memory);
      return done;
    case 'promote':
      return record === null ? skipped : yield* promoteGuest(agent, memory, record);
    case 'start':
      return record === null ? skipped : yield* startGuest(agent, memory, record, readBack(agent, record));
    case 'open':
      return record === null ? skipped : yield* openGuest(agent, memory, record);
    case 'pre-copy':
      return record === null ? skipped : yield* preCopy(agent, memory, record, action.to);
    case 'halt':
      return record === null ? skipped : yield* haltGuest(agent, memory, record, because);
    case 'hand-over':
      return record === null ? skipped : yield* handOver(agent, memory, record, action.to, because);
    case 'give-up':
      return record === null ? skipped : yield* giveUp(agent, record, action.handed, because);
  }
}

/** Of a promotion that an earlier agent ended: where the disks came from. Raises AppError. */
function readBack({ host }: AgentProcess, { vmid, generation, order }: GuestRecord): HaStatus['promoted'] {
  const promote = order?.promote ?? null;
  if (promote === null) return null;
  const { generation: from, seq, pointAtMs } = host.disk.promote(vmid, generation, promote);
  return { point: { generation: from, seq }, pointAtMs };
}

function* tellStopped(agent: AgentProcess, record: GuestRecord | null, because: string): Task<void> {
  if (record === null || record.home !== agent.host.name) return;
  yield* agent.guests.desk.tell(record, { state: 'stopped', because, end: record.order?.kind === 'stop' ? 'ok' : null });
}

function* shutDown(agent: AgentProcess, { process }: GuestMemory, timeoutMs: number): Task<void> {
  if (process === null) return;
  if (timeoutMs > 0) agent.host.powerDown(process);
  const untilBootMs = agent.host.bootMs() + timeoutMs;
  while (process.alive && agent.host.bootMs() < untilBootMs) yield* agent.sleep(200);
  if (process.alive) yield* endProcess(agent, process, 'killed: it did not shut down in time');
}

function* revive(agent: AgentProcess, memory: GuestMemory): Task<void> {
  const { process } = memory;
  if (process === null) return;
  try {
    yield* reviveProcess(agent, process);
  } catch (error) {
    if (!isAppError(error, 'conflict')) throw error;
    memory.state = 'off';
    return;
  }
  memory.state = 'running';
  agent.replication.startGuest(process);
}
