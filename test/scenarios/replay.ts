import { compileRules } from '#core/ha/manager/compiled-rules.ts';
import { runAgent } from './agent-daemon.ts';
import { runManager } from './manager-daemon.ts';
import { type Answer, type Loss, type RuleCheck, type Scenario, type ScenarioFile, toRule } from './scenario-file.ts';
import { performAction } from './script-actions.ts';
import { buildWorld, checkWatchdogs, type World, type WorldEvent } from './world.ts';

/**
 * Replays recorded scenarios on the core's own manager and agent rules.
 *
 *   round: each node in name order { manager, a second, agent, a second, watchdogs } ──> at least one step of the clock
 *   ──> script lines that are due ──> next round, until the script is over and five steps of it have passed in quiet
 */

/** Seconds after the last script line before a replay may end. */
const quietSeconds = 500;

/** Replays one scenario and returns the world it ends in. */
export function replayScenario(scenario: Scenario, file: ScenarioFile): World {
  const world = buildWorld(scenario, file);
  const script = scenario.script.toSorted((a, b) => a.t - b.t);
  const stepEvery = Math.max(1, Math.round(file.clock.scriptStepEvery / file.clock.step));
  let nextAction = 0;
  let lastActionAt = 0;
  let quietRounds = 0;
  for (;;) {
    runRound(world);
    quietRounds += 1;
    for (let action = script[nextAction]; action !== undefined && action.t <= world.nowSeconds; action = script[nextAction]) {
      performAction(world, action);
      nextAction += 1;
      lastActionAt = world.nowSeconds;
      quietRounds = 0;
    }
    const over = nextAction === script.length && quietRounds % stepEvery === 0;
    if (over && world.nowSeconds - lastActionAt > quietSeconds) return world;
  }
}

function runRound(world: World): void {
  const startedAt = world.nowSeconds;
  for (const node of world.nodes) {
    if (node.manager !== null) {
      if (node.skips.manager > 0) node.skips.manager -= 1;
      else runManager(world, node);
      world.nowSeconds += 1;
    }
    if (node.agent !== null) {
      if (node.skips.agent > 0) node.skips.agent -= 1;
      else runAgent(world, node);
      world.nowSeconds += 1;
    }
    checkWatchdogs(world);
  }
  // Two seconds a node once ten nodes fill the step.
  const roundSeconds = Math.max(world.clock.step, 2 * world.nodes.length);
  world.nowSeconds = Math.max(world.nowSeconds, startedAt + roundSeconds);
}

/** The rules that the core drops, in the order of the check. */
export function replayRuleCheck(check: RuleCheck): string[] {
  const { dropped } = compileRules(check.rules.map(toRule), check.nodes);
  const names = new Set(dropped.map((entry) => entry.rule));
  return check.rules.map((rule) => rule.id).filter((id) => names.has(id));
}

/** What the scenario's README asks for, read off the world at the end. */
export function answer(world: World): Answer {
  const final: Answer['final'] = {};
  const orderPerWorkload: Answer['orderPerWorkload'] = {};
  for (const guest of world.guests.values()) {
    const entry = world.memory.guests.get(guest.id);
    final[guest.id] = {
      node: entry?.node ?? guest.home,
      state: entry?.state.kind ?? null,
      runsOn: [...guest.runsOn].sort()[0] ?? null,
    };
  }
  for (const event of world.events) {
    if (event.workload === undefined || !orderedKinds.has(event.kind)) continue;
    const order = (orderPerWorkload[event.workload] ??= []);
    const step = event.kind === 'gave-up' ? event.kind : `${event.kind}@${event.node}`;
    if (order.at(-1) !== step) order.push(step);
  }
  const losses = world.losses.map((loss) => measureLoss(world.events, loss));
  return { final, fencedNodes: world.fencedNodes, doubleRun: world.doubleRun, orderPerWorkload, losses };
}

const orderedKinds = new Set([
  'start',
  'running',
  'start-failed',
  'stop',
  'stopped',
  'move-begin',
  'move-end',
  'move-failed',
  'move-refused',
  'recovered-to',
  'gave-up',
]);

function measureLoss(events: WorldEvent[], loss: World['losses'][number]): Loss {
  const secondsToStartElsewhere: Record<string, number> = {};
  for (const workload of loss.affected) {
    const start = events.find((event) => event.kind === 'start' && event.workload === workload && event.t > loss.t);
    if (start !== undefined && start.node !== loss.node) secondsToStartElsewhere[workload] = start.t - loss.t;
  }
  return { t: loss.t, node: loss.node, secondsToStartElsewhere };
}
