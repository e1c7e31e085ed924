import type { AgentJob } from '#core/ha/manager/agent-jobs.ts';
import type { OrderResult } from '#core/ha/manager/facts.ts';
import { record, setRunning, type World, type WorldGuest } from './world.ts';

/** Does to a simulated workload what an agent was ordered to, with the faults that the scenario gives it. */
export function performJob(world: World, node: string, job: AgentJob): OrderResult {
  const guest = world.guests.get(job.guest);
  if (guest === undefined) return 'broken';
  if (guest.home !== node) return 'wrong-node';
  switch (job.action.kind) {
    case 'start':
      return start(world, guest, node);
    case 'stop':
      return stop(world, guest, node, job.action.timeoutMs);
    case 'move':
      return job.action.unlessRunning && guest.runsOn.has(node) ? 'skipped' : move(world, guest, node, job.action);
  }
}

function start(world: World, guest: WorldGuest, node: string): OrderResult {
  if (guest.runsOn.has(node)) return 'ok';
  record(world, { kind: 'start', workload: guest.id, node });
  if (guest.lock !== null || failsNow(guest, node, 'start')) {
    record(world, { kind: 'start-failed', workload: guest.id, node });
    return 'failed';
  }
  setRunning(world, guest, node);
  record(world, { kind: 'running', workload: guest.id, node });
  return 'ok';
}

function stop(world: World, guest: WorldGuest, node: string, timeoutMs: number | null): OrderResult {
  if (!guest.runsOn.has(node)) return 'ok';
  record(world, { kind: 'stop', workload: guest.id, node });
  // Who is killed is not asked.
  if (guest.faults?.refusesStop === true && timeoutMs !== 0) return 'failed';
  guest.runsOn.delete(node);
  record(world, { kind: 'stopped', workload: guest.id, node });
  return 'ok';
}

function move(world: World, guest: WorldGuest, node: string, action: { to: string; live: boolean }): OrderResult {
  if (action.to === node) return 'ok';
  if (failsNow(guest, node, 'move')) {
    record(world, { kind: 'move-failed', workload: guest.id, node });
    return 'failed';
  }
  record(world, { kind: 'move-begin', workload: guest.id, node: action.to });
  const live = action.live && guest.kind !== 'container';
  if (!live && guest.runsOn.has(node)) {
    record(world, { kind: 'stop', workload: guest.id, node });
    record(world, { kind: 'stopped', workload: guest.id, node });
  }
  // The recorded simulator carries no running state over: a moved workload is started by its next order.
  guest.runsOn.delete(node);
  guest.home = action.to;
  record(world, { kind: 'move-end', workload: guest.id, node: action.to });
  return 'ok';
}

/** The first so many tries fail; a success begins the count anew. */
function failsNow(guest: WorldGuest, node: string, what: 'start' | 'move'): boolean {
  const { faults } = guest;
  if (faults === null || (faults.onlyOnNode !== null && faults.onlyOnNode !== node)) return false;
  const limit = what === 'start' ? faults.startFailures : faults.moveFailures;
  const tried = (what === 'start' ? guest.triedStarts : guest.triedMoves) + 1;
  const fails = tried <= limit;
  if (what === 'start') guest.triedStarts = fails ? tried : 0;
  else guest.triedMoves = fails ? tried : 0;
  return fails;
}
