import assert from 'node:assert/strict';
import { test } from 'node:test';
import { createChance } from '#core/ha/seeded-chance.ts';
import { replayScenario } from './replay.ts';
import type { Action, GivenWorkload, Scenario, ScenarioFile, WantWord } from './scenario-file.ts';
import { findNode, type World } from './world.ts';

/** Random clusters under random scripts, on the replay's clock: what must hold whatever happens. A failure names its seed. */
const seeds = 600;

const file: ScenarioFile = {
  format: 'ha-scenarios/1',
  clock: { step: 20, fenceDelay: 60, leaseLifetime: 120, watchdog: 60, scriptStepEvery: 100 },
  defaults: {
    nodeCores: 24,
    nodeMemoryBytes: 2 ** 37,
    workloadCores: 4,
    workloadMemoryBytes: 2 ** 32,
    loadCores: 2,
    loadMemoryBytes: 2 ** 31,
  },
  scenarios: [],
  ruleChecks: [],
};

type Chance = { below(count: number): number; pick<T>(list: readonly T[]): T };

function makeChance(seed: number): Chance {
  const next = createChance(seed);
  const below = (count: number): number => Math.floor(next() * count);
  return {
    below,
    pick: (list) => {
      const picked = list[below(list.length)];
      assert.ok(picked !== undefined);
      return picked;
    },
  };
}

function makeScenario(seed: number): Scenario {
  const chance = makeChance(seed);
  const names = Array.from({ length: 3 + chance.below(3) }, (_, index) => `node${index + 1}`);
  const workloads = Array.from({ length: 1 + chance.below(6) }, (_, index) => makeWorkload(chance, 101 + index, names));
  const ids = workloads.map((workload) => workload.id);
  const rules = [
    { id: 'r1', workloads: ids.slice(0, 2), enabled: chance.below(2) === 0, kind: 'keep-apart' as const, hard: true },
    { id: 'r2', workloads: ids.slice(2, 4), enabled: chance.below(2) === 0, kind: 'keep-together' as const, hard: true },
  ];
  const script: Action[] = names.map((node) => ({ t: 20, do: 'power-on', node }));
  for (let step = 1; step <= 4 + chance.below(6); step += 1) {
    script.push({ ...makeAction(chance, names, ids), t: 20 + 100 * step });
  }
  return {
    id: `seed ${seed}`,
    theme: 'random',
    given: {
      nodes: names.map((name) => ({ name })),
      settings: {
        onNodeShutdown: chance.pick(['conditional', 'freeze', 'failover', 'migrate']),
        placement: chance.pick(['count', 'by-size', 'by-load']),
        balanceOnStart: chance.below(3) === 0,
        autoRebalance: { threshold: 0.3, method: chance.pick(['bruteforce', 'topsis']), holdRounds: 3, minRelativeGain: 0.1 },
      },
      workloads,
      rules,
    },
    script,
  };
}

function makeWorkload(chance: Chance, number: number, names: string[]): GivenWorkload {
  const kind = chance.pick(['vm', 'vm', 'container', 'stub'] as const);
  const faults = {
    startFailures: chance.below(4),
    moveFailures: chance.below(3),
    refusesStop: chance.below(4) === 0,
    present: true,
    onlyOnNode: null,
  };
  return {
    id: `${{ vm: 'vm', container: 'ct', stub: 'fa' }[kind]}:${number}`,
    kind,
    home: chance.pick(names),
    want: chance.pick<WantWord>(['running', 'running', 'running', 'stopped', 'disabled', 'ignored']),
    otherNodeTries: chance.below(3),
    failback: chance.below(3) > 0,
    ...(kind === 'stub' ? { faults } : {}),
  };
}

function makeAction(chance: Chance, names: string[], ids: string[]): Omit<Action, 't'> & { do: string } {
  const node = chance.pick(names);
  const workload = chance.pick(ids);
  const onNode = ['power-off', 'power-on', 'link-down', 'link-up', 'graceful-reboot', 'graceful-shutdown', 'restart-agent'];
  const daemons = ['stop-manager', 'start-manager', 'store-access-broken', 'store-access-ok', 'drain-node', 'undrain-node'];
  const commands: (Omit<Action, 't'> & { do: string })[] = [
    { do: chance.pick(['move-live', 'move-cold']), workload, to: node },
    { do: 'set-want', workload, want: chance.pick(['running', 'stopped', 'disabled', 'ignored']) },
    { do: 'stop', workload, timeoutSeconds: chance.below(2) },
    { do: 'disarm', mode: chance.pick(['hold', 'hands-off']) },
    { do: 'arm' },
    { do: chance.pick(['lock', 'unlock']), workload },
  ];
  return chance.below(2) === 0 ? { do: chance.pick([...onNode, ...onNode, ...daemons]), node } : chance.pick(commands);
}

function checkWorld(world: World): void {
  assert.equal(world.doubleRun, false, 'a workload ran on two nodes');
  assert.deepEqual(world.unknownActions, []);
  for (const event of world.events) assert.ok(!event.text?.startsWith('it did not come to rest'), event.text);
  for (const guest of world.guests.values()) {
    const entry = world.memory.guests.get(guest.id);
    if (guest.runsOn.size === 0 || entry === undefined) continue;
    // What runs, runs where its record says, and no other node was told to start it.
    assert.deepEqual([...guest.runsOn], [guest.home], `${guest.id} is ${entry.state.kind} on ${entry.node}`);
  }
}

/** Left in peace for 500 s: what should run on a healthy node runs, and nothing without faults of its own has failed. */
function checkRest(world: World): void {
  const everLocked = new Set(world.scenario.script.filter((action) => action.do === 'lock').map((action) => action['workload']));
  for (const guest of world.guests.values()) {
    const entry = world.memory.guests.get(guest.id);
    if (entry === undefined || guest.faults !== null || everLocked.has(guest.id)) continue;
    assert.notEqual(entry.state.kind, 'failed', `${guest.id}: ${entry.because}`);
    const node = findNode(world, entry.node);
    const serves = node?.agent?.phase === 'serving' && node.agent.end === null && !node.storeBroken;
    if (entry.state.kind === 'active' && serves)
      assert.ok(guest.runsOn.has(entry.node), `${guest.id} should run on ${entry.node}`);
  }
}

test('no random script runs a guest twice, loses track of where it runs, or keeps a round from coming to rest', () => {
  for (let seed = 1; seed <= seeds; seed += 1) {
    try {
      const world = replayScenario(makeScenario(seed), file);
      checkWorld(world);
      checkRest(world);
    } catch (error) {
      throw new Error(`seed ${seed}: ${JSON.stringify(makeScenario(seed).script)}`, { cause: error });
    }
  }
});
