import { AppError } from '#base/error.ts';
import { limits } from '#base/limits.ts';
import type { AgentProcess } from '#sim/agent.ts';
import type { Qemu } from '#sim/host.ts';
import type { Task } from '#sim/process.ts';

/** What an agent asks of a guest's QEMU: a frozen one does not answer in time, one that is gone never. Raises AppError. */
function* ask(agent: AgentProcess, process: Qemu, what: string): Task<void> {
  yield* agent.sleep(agent.cluster.dice.between(1, 30));
  const untilBootMs = agent.host.bootMs() + limits.qmpCallMs;
  while (process.alive && !agent.host.isResponsive(process) && agent.host.bootMs() < untilBootMs) yield* agent.sleep(200);
  if (!process.alive) throw new AppError('unavailable', `${what} guest ${process.vmid}: QEMU is gone`);
  if (!agent.host.isResponsive(process)) throw new AppError('timeout', `${what} guest ${process.vmid}: QEMU does not answer`);
}

/** Powers the guest down with its disks kept open; one that takes too long is stopped. */
export function* haltProcess(agent: AgentProcess, process: Qemu): Task<'halted' | 'off'> {
  const { host } = agent;
  if (process.run === 'running') process.run = 'halting';
  yield* ask(agent, process, 'halt');
  host.powerDown(process);
  const untilBootMs = host.bootMs() + limits.guestShutdownMs;
  while (process.alive && process.run === 'halting' && host.bootMs() < untilBootMs) {
    yield* agent.sleep(limits.guestExitPollMs);
    if (!host.isResponsive(process)) yield* ask(agent, process, 'halt');
  }
  yield* ask(agent, process, 'halt');
  if (process.run !== 'halting') return process.run === 'off' ? 'off' : 'halted';
  process.run = 'halted';
  process.powersDown = false;
  agent.cluster.say(`guest ${process.vmid} on ${host.name} does not power down: its CPUs are stopped`);
  agent.cluster.touch();
  return 'halted';
}

/** Lets a halted guest go on. Raises AppError conflict when it has powered down. */
export function* reviveProcess(agent: AgentProcess, process: Qemu): Task<void> {
  yield* ask(agent, process, 'revive');
  if (process.run === 'off') throw new AppError('conflict', `revive guest ${process.vmid}: it has powered down`);
  process.run = 'running';
  agent.cluster.touch();
}

export function* endProcess(agent: AgentProcess, process: Qemu | null, why: string): Task<void> {
  if (process === null) return;
  yield* agent.sleep(agent.cluster.dice.between(5, 300));
  agent.host.killQemu(process, why);
  yield* agent.sleep(10);
}
