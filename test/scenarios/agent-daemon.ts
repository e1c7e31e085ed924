import { planAgentEnd, planAgentPermit, type AgentFacts } from '#core/ha/manager/agent-round.ts';
import { type AgentJob, dropOldResults, noteJob, planJobs, planStops } from '#core/ha/manager/agent-jobs.ts';
import type { AgentState } from '#core/ha/manager/agent-state.ts';
import { agentLease } from './manager-daemon.ts';
import { performJob } from './workload-actions.ts';
import {
  isLeaseFree,
  isQuorate,
  powerOff,
  powerOn,
  record,
  releaseLease,
  startAgent,
  takeLease,
  type World,
  type WorldNode,
} from './world.ts';

/** One round of a node's agent: permit, work, end. */
export function runAgent(world: World, node: WorldNode): void {
  const { agent } = node;
  if (agent === null) return;
  const facts: AgentFacts = {
    self: node.name,
    quorate: isQuorate(world, node),
    storeReadable: !node.storeBroken,
    permitFree: isLeaseFree(world, agentLease(node.name), node.name),
    manager: world.memory,
  };
  const plan = planAgentPermit(agent, facts);
  if (plan.next.phase !== agent.phase) record(world, { kind: 'agent-phase', node: node.name, text: plan.next.phase });
  if (plan.permit === 'hold') {
    takeLease(world, agentLease(node.name), node.name);
    node.agentPettedAt = world.nowSeconds;
  }
  if (plan.permit === 'release') letGo(world, node);
  const worked = work(world, node, dropOldResults(plan.next, world.memory), plan.work);
  const runningHere = [...world.guests.values()].filter((guest) => guest.runsOn.has(node.name)).length;
  const end = planAgentEnd(worked, facts, runningHere);
  if (end.letsGo) letGo(world, node);
  node.agent = end.next;
  publish(world, node);
  if (end.exits) endAgent(world, node);
}

function letGo(world: World, node: WorldNode): void {
  releaseLease(world, agentLease(node.name), node.name);
  node.agentPettedAt = null;
}

function work(world: World, node: WorldNode, state: AgentState, kind: 'orders' | 'stop-all' | 'none'): AgentState {
  switch (kind) {
    case 'none':
      return state;
    case 'orders':
      return planJobs(node.name, world.memory, state).reduce(
        (next, job) => noteJob(next, job, performJob(world, node.name, job), retriesOf(world, job)),
        state,
      );
    case 'stop-all': {
      const results = planStops(node.name, world.memory).map((job) => performJob(world, node.name, job));
      return { ...state, stops: results.includes('failed') ? 'failed' : 'done' };
    }
  }
}

function retriesOf(world: World, job: AgentJob): number {
  return world.guests.get(job.guest)?.localRetries ?? 0;
}

/** An agent without the quorum cannot tell anybody anything. */
export function publish(world: World, node: WorldNode): void {
  const { agent } = node;
  if (agent === null || !isQuorate(world, node) || node.storeBroken) return;
  world.published.set(node.name, { mode: agent.mode, results: agent.results, watchdogOpen: agent.armed });
}

/** Only the agent restarts, or its host goes on to end its manager and then itself. */
function endAgent(world: World, node: WorldNode): void {
  node.agent = null;
  node.agentPettedAt = null;
  if (node.shutdown === null) startAgent(world, node);
  else endHost(world, node);
}

/** The agent is gone: the manager ends in its next round and takes the host with it; without a manager the host ends now. */
export function endHost(world: World, node: WorldNode): void {
  if (node.manager !== null) {
    node.manager.stopping = true;
    return;
  }
  const { shutdown } = node;
  powerOff(world, node);
  if (shutdown === 'reboot') powerOn(world, node);
}
