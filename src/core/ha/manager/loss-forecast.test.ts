import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import type { GuestFacts, ManagerFacts } from '#core/ha/manager/facts.ts';
import { forecastLoss } from '#core/ha/manager/loss-forecast.ts';
import { emptyMemory, type ManagerMemory } from '#core/ha/manager/memory.ts';
import { plainFacts, plainGuest, plainNode, plainSettings } from '#core/ha/manager/round-cluster.ts';
import { planRound } from '#core/ha/manager/round.ts';
import type { Rule } from '#core/ha/manager/rules.ts';

const gib = 2 ** 30;
const settings = { ...plainSettings, standingOrders: true, memoryMustFit: true };

function cluster(names: string[], guests: GuestFacts[], patch: Partial<ManagerFacts> = {}): [ManagerFacts, ManagerMemory] {
  const nodes = names.map((name) => plainNode(name, { size: { cores: 8, memoryBytes: 32 * gib } }));
  const facts = plainFacts({ settings, nodes, guests, ...patch });
  const ordered = planRound(facts, emptyMemory()).memory;
  const results = new Map([...ordered.guests.values()].map((entry) => [entry.orderId, 'ok'] as const));
  return [facts, planRound({ ...facts, results }, ordered).memory];
}

function sized(id: string, home: string, memoryGib: number, patch: Partial<GuestFacts> = {}): GuestFacts {
  return plainGuest(id, home, { claimed: { cores: 1, memoryBytes: memoryGib * gib }, ...patch });
}

const abc = ['a', 'b', 'c'];
const copy = (node: string, freshness: number, dataAgeMs: number) => ({ node, freshness, dataAgeMs });

describe('the loss of one node', () => {
  test('tells where each of its guests would run, from which data, and who stays', () => {
    const guests = [
      sized('1', 'c', 4, { copies: [copy('a', 1, 60_000), copy('b', 2, 4_000)] }),
      sized('2', 'c', 4, { copies: [copy('a', 1, 7_000)] }),
      sized('3', 'a', 4),
      sized('4', 'c', 4, { want: 'stopped' }),
    ];
    const forecast = forecastLoss(...cluster(abc, guests), ['c']);
    assert.deepEqual(
      forecast.placed.map(({ guest, from, to, dataAgeMs }) => [guest, from, to, dataAgeMs]),
      [
        ['1', 'c', 'b', 4_000],
        ['2', 'c', 'a', 7_000],
      ],
    );
    assert.match(forecast.placed[0]?.because ?? '', /freshest verified copy/);
    assert.deepEqual([forecast.unplaced, forecast.stays], [[], ['3']]);
  });

  test('names who has no copy, too old a copy, no room or no node that the rules allow', () => {
    const rules: Rule[] = [
      { id: 'p', enabled: true, kind: 'prefer-nodes', hard: true, guests: ['4'], nodes: [{ node: 'c', rank: 0 }] },
    ];
    const guests = [
      sized('1', 'c', 4, { copies: [] }),
      sized('2', 'c', 4, { copies: [copy('a', 1, 90_000)], maxDataAgeMs: 60_000 }),
      sized('3', 'c', 20),
      sized('4', 'c', 4),
      sized('5', 'a', 20),
      sized('6', 'b', 24),
    ];
    const forecast = forecastLoss(...cluster(abc, guests, { rules }), ['c']);
    assert.deepEqual(forecast.placed, []);
    assert.deepEqual(
      forecast.unplaced.map(({ guest, because }) => [guest, because]),
      [
        ['1', 'every node: no verified copy'],
        ['2', 'a: its copy is 90000 ms old, the limit is 60000 ms'],
        ['3', 'a: 12 GiB of memory free, 20 GiB needed; b: 8 GiB of memory free, 20 GiB needed'],
        ['4', 'no node that is up is allowed by its rules'],
      ],
    );
  });

  test('keeps guests apart, and those of lower start order find room first', () => {
    const rules: Rule[] = [{ id: 'x', enabled: true, kind: 'keep-apart', guests: ['1', '2', '3'] }];
    const guests = [sized('1', 'c', 4, { startOrder: 2 }), sized('2', 'a', 4), sized('3', 'b', 4), sized('4', 'c', 4)];
    const forecast = forecastLoss(...cluster(abc, guests, { rules }), ['c']);
    assert.deepEqual(
      forecast.unplaced.map(({ guest }) => guest),
      ['1'],
    );
    assert.deepEqual(
      forecast.placed.map(({ guest }) => guest),
      ['4'],
    );
    const tight = [sized('1', 'c', 20, { startOrder: 2 }), sized('2', 'c', 20, { startOrder: 1 }), sized('3', 'a', 20)];
    const ordered = forecastLoss(...cluster(abc, tight), ['c']);
    assert.deepEqual([ordered.placed.map(({ guest }) => guest), ordered.unplaced.map(({ guest }) => guest)], [['2'], ['1']]);
  });

  test('of the node that leads is seen by another one', () => {
    const forecast = forecastLoss(...cluster(abc, [sized('1', 'a', 4)]), ['a']);
    assert.deepEqual(
      forecast.placed.map(({ to }) => to),
      ['b'],
    );
  });

  test('runs to its end through the waits: for others, however long the chain, and for fresher copies', () => {
    const chain = Array.from({ length: 20 }, (_, index) =>
      sized(`g${10 + index}`, 'c', 1, index === 0 ? {} : { startsAfter: [`g${9 + index}`] }),
    );
    assert.equal(forecastLoss(...cluster(abc, chain), ['c']).placed.length, 20);
    const guest = sized('1', 'c', 4, { copies: [copy('a', 1, 60_000), copy('b', 2, 4_000)], betterCopyWaitMs: 30_000 });
    const [facts, memory] = cluster(abc, [guest]);
    const away = facts.nodes.map((node) => (node.name === 'b' ? { ...node, refusal: 'its agent is silent' } : node));
    const [placed] = forecastLoss({ ...facts, nodes: away }, memory, ['c']).placed;
    assert.deepEqual([placed?.to, placed?.dataAgeMs], ['a', 60_000]);
  });

  test('in a disarmed cluster is followed by nothing, and that is the reason', () => {
    const [facts, memory] = cluster(abc, [sized('1', 'c', 4)]);
    const disarmed: ManagerMemory = { ...memory, disarm: { mode: 'hands-off', stage: 'complete' } };
    assert.deepEqual(forecastLoss(facts, disarmed, ['c']).unplaced, [{ guest: '1', from: 'c', because: 'disarmed' }]);
  });
});

describe('the loss of several nodes', () => {
  const names = ['a', 'b', 'c', 'd', 'e'];

  test('two of five at once: copies on both are gone, and the rest takes what fits', () => {
    const guests = [
      sized('1', 'd', 20, { copies: [copy('e', 2, 1_000), copy('a', 1, 9_000)] }),
      sized('2', 'e', 20, { copies: [copy('d', 2, 1_000)] }),
      sized('3', 'd', 20),
      sized('4', 'e', 20),
      sized('5', 'c', 20),
    ];
    const forecast = forecastLoss(...cluster(names, guests), ['d', 'e']);
    assert.deepEqual(
      forecast.placed.map(({ guest, to, dataAgeMs }) => [guest, to, dataAgeMs]),
      [
        ['1', 'a', 9_000],
        ['3', 'b', null],
      ],
    );
    assert.deepEqual(
      forecast.unplaced.map(({ guest, because }) => [guest, because]),
      [
        ['2', 'every node: no verified copy'],
        [
          '4',
          'a: 12 GiB of memory free, 20 GiB needed; b: 12 GiB of memory free, 20 GiB needed; c: 12 GiB of memory free, 20 GiB needed',
        ],
      ],
    );
    assert.deepEqual(forecast.stays, ['5']);
  });

  test('of all of them leaves nobody placed', () => {
    const forecast = forecastLoss(...cluster(abc, [sized('1', 'c', 4)]), abc);
    assert.deepEqual([forecast.placed.length, forecast.unplaced.length], [0, 1]);
  });

  test('a guest on its way to a node that is lost stays where it was', () => {
    const [facts, memory] = cluster(abc, [sized('1', 'a', 4)]);
    const moving = planRound({ ...facts, commands: [{ kind: 'move', guest: '1', live: true, to: 'c' }] }, memory).memory;
    assert.equal(moving.guests.get('1')?.state.kind, 'moving-live');
    assert.deepEqual(forecastLoss(facts, moving, ['c']).stays, ['1']);
  });
});

test('a forecast changes neither the facts nor the memory, and is the same each time', () => {
  const [facts, memory] = cluster(abc, [sized('1', 'c', 4), sized('2', 'a', 4)]);
  const before = structuredClone([facts, memory]);
  assert.deepEqual(forecastLoss(facts, memory, ['c']), forecastLoss(facts, memory, ['c']));
  assert.deepEqual([facts, memory], before);
});
