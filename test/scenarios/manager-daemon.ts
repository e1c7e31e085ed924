import type { ManagerFacts, NodeFacts } from '#core/ha/manager/facts.ts';
import type { CommandRefusal, Decision, ManagerStep } from '#core/ha/manager/draft.ts';
import { planLeading } from '#core/ha/manager/leading.ts';
import { planRound } from '#core/ha/manager/round.ts';
import { toWant } from './scenario-file.ts';
import {
  isLeaseFree,
  isPresent,
  isQuorate,
  powerOff,
  powerOn,
  record,
  releaseLease,
  takeLease,
  type World,
  type WorldNode,
} from './world.ts';

/** Locks that a dead node may leave behind without having left the guest half made. */
const safeLocks = new Set([
  'backup',
  'mounted',
  'migrate',
  'clone',
  'rollback',
  'snapshot',
  'snapshot-delete',
  'suspending',
  'suspended',
]);

/** Refusals that the recording tells; it forgets a command to a workload that is in the middle of something. */
const recordedRefusals = new Set<CommandRefusal>(['target-not-up', 'already-there', 'rival-there']);

const leadLease = 'manager';

export function agentLease(node: string): string {
  return `agent of ${node}`;
}

/** One round of a node's manager: the lead, and the cluster when it leads. */
export function runManager(world: World, node: WorldNode): void {
  const { manager } = node;
  if (manager === null) return;
  if (manager.stopping) {
    stopManager(world, node);
    return;
  }
  const plan = planLeading(manager.phase, {
    self: node.name,
    quorate: isQuorate(world, node),
    storeReadable: !node.storeBroken,
    leadFree: isLeaseFree(world, leadLease, node.name),
    hasWork: world.guests.size > 0 || world.commands.length > 0,
    memory: world.memory,
  });
  if (plan.phase === 'leader' && manager.phase !== 'leader') {
    record(world, { kind: 'leader-elected', node: node.name });
    // As recorded: a new leader has yet to see every node.
    manager.lastSeen = new Map();
  }
  if (manager.phase === 'leader' && plan.phase !== 'leader') record(world, { kind: 'leader-lost', node: node.name });
  manager.phase = plan.phase;
  node.managerPettedAt = plan.take ? world.nowSeconds : null;
  if (!plan.take) return;
  takeLease(world, leadLease, node.name);
  if (!node.storeBroken) lead(world, node, manager.lastSeen);
}

function stopManager(world: World, node: WorldNode): void {
  if (node.manager?.phase === 'leader') record(world, { kind: 'leader-released', node: node.name });
  releaseLease(world, leadLease, node.name);
  node.manager = null;
  node.managerPettedAt = null;
  const { shutdown } = node;
  if (shutdown !== null) powerOff(world, node);
  if (shutdown === 'reboot') powerOn(world, node);
}

function lead(world: World, self: WorldNode, lastSeen: Map<string, number>): void {
  for (const node of world.nodes) if (isPresent(node) || !lastSeen.has(node.name)) lastSeen.set(node.name, world.nowSeconds);
  const facts = readFacts(world, self, lastSeen);
  const plan = planRound(facts, world.memory, world.compiled);
  world.commands = [];
  for (const step of plan.steps) perform(world, self, step);
  for (const decision of plan.decisions) recordDecision(world, decision);
  if (plan.because !== null) record(world, { kind: 'round-ended-early', text: plan.because });
  world.memory = plan.memory;
}

function readFacts(world: World, self: WorldNode, lastSeen: Map<string, number>): ManagerFacts {
  const { settings } = world.scenario.given;
  return {
    self: self.name,
    nowMs: world.nowSeconds * 1000,
    nodes: world.nodes.map((node): NodeFacts => {
      const published = world.published.get(node.name);
      return {
        name: node.name,
        present: isPresent(node),
        lostMs: (world.nowSeconds - (lastSeen.get(node.name) ?? world.nowSeconds)) * 1000,
        agentMode: published?.mode ?? 'active',
        permit: isLeaseFree(world, agentLease(node.name), self.name) ? 'claimable' : 'held',
        // Every host has a controller that tells its power; the recorded manager had none and claims by leases alone.
        confirmedOff: !node.powered,
        watchdogOpen: published?.watchdogOpen ?? false,
        size: node.size,
        refusal: null,
      };
    }),
    guests: [...world.guests.values()].map((guest) => ({
      id: guest.id,
      home: guest.home,
      want: toWant(guest.want),
      movesLive: guest.kind === 'vm',
      otherNodeTries: guest.otherNodeTries,
      failback: guest.failback,
      claimed: guest.size,
      measured: guest.runsOn.size > 0 ? guest.load : null,
    })),
    rules: world.rules,
    commands: world.commands,
    results: new Map([...world.published.values()].flatMap((published) => [...published.results])),
    settings: {
      placement: settings.placement,
      balanceOnStart: settings.balanceOnStart,
      autoRebalance: settings.autoRebalance ?? null,
      fenceAfterMs: world.clock.fenceDelay * 1000,
      memoryMustFit: false,
      standingOrders: false,
      refusesForbiddenMoves: false,
      startsAfterWaitMs: 0,
      moveRetryMs: 0,
      avoidFailedMs: 0,
      quarantineAfter: 0,
      quarantineWindowMs: 0,
    },
  };
}

function perform(world: World, self: WorldNode, step: ManagerStep): void {
  switch (step.kind) {
    case 'claim':
      takeLease(world, agentLease(step.node), self.name);
      world.fencedNodes.push(step.node);
      return record(world, { kind: 'fence-confirmed', node: step.node });
    case 'rehome': {
      const guest = world.guests.get(step.guest);
      if (guest === undefined) return;
      guest.home = step.to;
      if (guest.lock !== null && safeLocks.has(guest.lock)) guest.lock = null;
      return;
    }
    case 'want-stopped': {
      const guest = world.guests.get(step.guest);
      if (guest !== undefined) guest.want = 'stopped';
      return;
    }
  }
}

function recordDecision(world: World, decision: Decision): void {
  switch (decision.kind) {
    case 'recovered':
      return record(world, { kind: 'recovered-to', workload: decision.guest, node: decision.node });
    case 'start-failed':
      if (decision.next === 'gave-up') record(world, { kind: 'gave-up', workload: decision.guest });
      return;
    case 'command': {
      const { command, refusal, because } = decision;
      if (command.kind === 'move' && refusal !== null && recordedRefusals.has(refusal))
        record(world, { kind: 'move-refused', workload: command.guest, node: command.to });
      return record(world, { kind: 'command', text: `${JSON.stringify(command)}: ${refusal ?? 'accepted'}, ${because}` });
    }
    case 'node':
      return record(world, { kind: 'node-state', node: decision.node, text: `${decision.state}: ${decision.because}` });
    case 'guest': {
      const { guest, node, was, state, because } = decision;
      return record(world, {
        kind: 'guest-state',
        workload: guest,
        node,
        text: `${was} -> ${JSON.stringify(state)}: ${because}`,
      });
    }
    case 'adopted':
    case 'forgotten':
    case 'no-recovery-target':
    case 'cannot-leave':
    case 'cannot-start':
    case 'starts-after':
      return record(world, { kind: decision.kind, workload: decision.guest, node: decision.node, text: decision.because });
    case 'dragged':
    case 'returns':
      return record(world, { kind: decision.kind, workload: decision.guest, node: decision.to, text: decision.because });
    case 'rebalance':
      return record(world, { kind: 'rebalance-chosen', workload: decision.guest, node: decision.to, text: decision.because });
    case 'quarantine':
      return record(world, { kind: 'quarantine', node: decision.node, text: decision.because });
    case 'disarm':
      return record(world, { kind: 'disarm', text: `${decision.stage}: ${decision.because}` });
  }
}
