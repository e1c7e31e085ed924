import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import type { Command, GuestFacts, ManagerFacts, NodeFacts } from '#core/ha/manager/facts.ts';
import { emptyMemory, type GuestState, type ManagerMemory } from '#core/ha/manager/memory.ts';
import { plainFacts, plainGuest, plainNode, plainSettings } from '#core/ha/manager/round-cluster.ts';
import { planRound, type RoundPlan } from '#core/ha/manager/round.ts';
import type { Rule } from '#core/ha/manager/rules.ts';

const gib = 2 ** 30;
const settings = { ...plainSettings, memoryMustFit: true, standingOrders: true };
const running: GuestState = { kind: 'active', seenRunning: true, recovered: false };

function sized(id: string, home: string, memoryGib: number, patch: Partial<GuestFacts> = {}): GuestFacts {
  return plainGuest(id, home, { claimed: { cores: 1, memoryBytes: memoryGib * gib }, ...patch });
}

/** Nodes a, b and c, each with 32 GiB. */
function nodes(c: Partial<NodeFacts> = {}): NodeFacts[] {
  const size = { cores: 8, memoryBytes: 32 * gib };
  return [plainNode('a', { size }), plainNode('b', { size }), plainNode('c', { size, ...c })];
}

/** A round in which every guest is in that state, else running, under the order of its own number. */
function plan(guests: GuestFacts[], patch: Partial<ManagerFacts> = {}, states: Record<string, GuestState> = {}): RoundPlan {
  const memory = planRound(plainFacts({ settings, nodes: nodes(), guests }), emptyMemory()).memory;
  const entries = [...memory.guests].map(
    ([id, entry]) => [id, { ...entry, orderId: Number(id), state: states[id] ?? running }] as const,
  );
  const before: ManagerMemory = { ...memory, guests: new Map(entries) };
  return planRound(plainFacts({ settings, nodes: nodes(), guests, ...patch }), before);
}

function stateOf(round: RoundPlan, id: string): GuestState | undefined {
  return round.memory.guests.get(id)?.state;
}

function told(round: RoundPlan, kind: string): string | undefined {
  return round.decisions.find((decision) => decision.kind === kind)?.because;
}

const together: Rule = { id: 't', enabled: true, kind: 'keep-together', guests: ['1', '2'] };
const drained = { nodes: nodes({ agentMode: 'maintenance' }) };

describe('a drain', () => {
  test('takes a guest to the node where its memory fits, whatever the load says', () => {
    const guests = [sized('1', 'c', 16), sized('2', 'a', 24), sized('3', 'b', 4), sized('4', 'b', 4)];
    assert.deepEqual(stateOf(plan(guests, drained), '1'), { kind: 'moving-live', to: 'b' });
  });

  test('counts what is on its way: who comes second goes elsewhere, or stays and is told why, with figures', () => {
    const guests = [sized('1', 'c', 20), sized('2', 'c', 20), sized('3', 'c', 20)];
    const round = plan(guests, drained);
    assert.deepEqual(
      ['1', '2', '3'].map((id) => stateOf(round, id)),
      [{ kind: 'moving-live', to: 'a' }, { kind: 'moving-live', to: 'b' }, running],
    );
    assert.equal(told(round, 'cannot-leave'), 'a: 12 GiB of memory free, 20 GiB needed; b: 12 GiB of memory free, 20 GiB needed');
  });

  test('takes guests that stay together only where all of them fit', () => {
    const guests = [sized('1', 'c', 8), sized('2', 'c', 20), sized('3', 'a', 16), sized('4', 'b', 1), sized('5', 'b', 1)];
    const round = plan(guests, { ...drained, rules: [together] });
    assert.deepEqual(
      [stateOf(round, '1'), stateOf(round, '2')],
      [
        { kind: 'moving-live', to: 'b' },
        { kind: 'moving-live', to: 'b' },
      ],
    );
    const full = plan([...guests, sized('6', 'b', 4)], { ...drained, rules: [together] });
    assert.deepEqual([stateOf(full, '1'), stateOf(full, '2')], [running, running]);
    assert.match(told(full, 'cannot-leave') ?? '', /b: 26 GiB of memory free, 28 GiB needed with its companions/);
  });

  test('claims count, not what was measured', () => {
    const byLoad = { ...settings, placement: 'by-load' } as const;
    const idle = { measured: { cores: 0, memoryBytes: gib } };
    const guests = [sized('1', 'c', 16, idle), sized('2', 'a', 24, idle), sized('3', 'b', 24, idle)];
    assert.deepEqual(stateOf(plan(guests, { ...drained, settings: byLoad }), '1'), running);
  });
});

describe('a guest that is down', () => {
  test('is tried on another node only where it fits', () => {
    const guests = [sized('1', 'c', 16), sized('2', 'a', 24)];
    const failed = plan(guests, { results: new Map([[1, 'failed']]) });
    assert.deepEqual(stateOf(failed, '1'), { kind: 'moving-live', to: 'b' });
  });

  test('leaves its companions rather than stay down where they do not all fit', () => {
    const guests = [sized('1', 'c', 16), sized('2', 'c', 16), sized('3', 'a', 10), sized('4', 'b', 10)];
    const lost = { nodes: nodes({ present: false, lostMs: 60_000, permit: 'claimed' }), rules: [together] };
    const round = plan(guests, lost);
    assert.deepEqual(
      ['1', '2'].map((id) => [round.memory.guests.get(id)?.node, stateOf(round, id)?.kind]),
      [
        ['a', 'active'],
        ['b', 'active'],
      ],
    );
  });

  test('is balanced before its start to a node where it fits, or starts where it is', () => {
    const asked: Record<string, GuestState> = { '1': { kind: 'start-requested' } };
    const balance = { settings: { ...settings, balanceOnStart: true } };
    const guests = [sized('1', 'c', 16), sized('2', 'c', 4), sized('3', 'a', 24), sized('4', 'b', 4), sized('5', 'b', 4)];
    assert.deepEqual(stateOf(plan(guests, balance, asked), '1')?.kind, 'active');
    assert.deepEqual(stateOf(plan(guests.slice(0, 3), balance, asked), '1'), { kind: 'start-requested-elsewhere', to: 'b' });
  });
});

describe('a better place that is full', () => {
  test('does not pull: neither a rank, nor companions, nor the balance of loads', () => {
    const prefer: Rule = {
      id: 'p',
      enabled: true,
      kind: 'prefer-nodes',
      hard: false,
      guests: ['1'],
      nodes: [{ node: 'a', rank: 1 }],
    };
    const guests = [sized('1', 'c', 16), sized('2', 'a', 24)];
    for (const rule of [prefer, together]) assert.deepEqual(stateOf(plan(guests, { rules: [rule] }), '1'), running, rule.id);
    const roomy = [sized('1', 'c', 16), sized('2', 'a', 8)];
    for (const rule of [prefer, together])
      assert.deepEqual(stateOf(plan(roomy, { rules: [rule] }), '1'), { kind: 'moving-live', to: 'a' }, rule.id);
  });

  test('the second best rank takes the guest when the best is full', () => {
    const ranks = [
      { node: 'a', rank: 2 },
      { node: 'b', rank: 1 },
    ];
    const rules: Rule[] = [{ id: 'p', enabled: true, kind: 'prefer-nodes', hard: true, guests: ['1'], nodes: ranks }];
    const guests = [sized('1', 'c', 16), sized('2', 'a', 24)];
    assert.deepEqual(stateOf(plan(guests, { ...drained, rules }), '1'), { kind: 'moving-live', to: 'b' });
  });

  test('loads are evened out only to nodes where the guest fits', () => {
    const autoRebalance = { threshold: 0, method: 'bruteforce', holdRounds: 1, minRelativeGain: -100 } as const;
    const byLoad = { ...settings, placement: 'by-load', autoRebalance } as const;
    const measured = { cores: 1, memoryBytes: 0 };
    const guests = [sized('1', 'c', 30, { measured }), sized('2', 'c', 1), sized('3', 'a', 10), sized('4', 'b', 10)];
    const chosen = plan(guests, { settings: byLoad }).decisions.find((decision) => decision.kind === 'rebalance');
    assert.notEqual(chosen?.guest, '1');
    const loose = { ...byLoad, memoryMustFit: false };
    const free = plan(guests, { settings: loose }).decisions.find((decision) => decision.kind === 'rebalance');
    assert.equal(free?.guest, '1');
  });
});

describe('a move by hand', () => {
  const move = (guest: string, to: string): Command => ({ kind: 'move', guest, live: true, to });
  const answers = (round: RoundPlan): unknown[] =>
    round.decisions.flatMap((decision) => (decision.kind === 'command' ? [[decision.refusal, decision.because]] : []));

  test('is refused with the figures where the guest does not fit, and with those of its companions', () => {
    const guests = [sized('1', 'c', 16), sized('2', 'c', 12), sized('3', 'a', 20), sized('4', 'b', 10)];
    assert.deepEqual(answers(plan(guests, { commands: [move('1', 'a')] })), [
      ['target-unfit', 'a: 12 GiB of memory free, 16 GiB needed'],
    ]);
    assert.deepEqual(answers(plan(guests, { commands: [move('1', 'b')], rules: [together] })), [
      ['target-unfit', 'b: 22 GiB of memory free, 28 GiB needed for it and 2, which come along'],
    ]);
    assert.deepEqual(answers(plan(guests, { commands: [move('1', 'b')] })), [[null, 'it moves to b']]);
  });

  test('of two that fit alone but not together, the second is refused when its turn comes', () => {
    const guests = [sized('1', 'c', 20), sized('2', 'b', 20)];
    const round = plan(guests, { commands: [move('1', 'a'), move('2', 'a')] });
    assert.deepEqual([stateOf(round, '1'), stateOf(round, '2')], [{ kind: 'moving-live', to: 'a' }, running]);
    assert.deepEqual(answers(round).at(-1), ['target-unfit', 'a: 12 GiB of memory free, 20 GiB needed']);
  });

  test('of a guest that rests needs no memory', () => {
    const guests = [sized('1', 'c', 20, { want: 'stopped' }), sized('2', 'a', 20)];
    const round = plan(guests, { commands: [move('1', 'a')] }, { '1': { kind: 'inactive' } });
    assert.deepEqual(stateOf(round, '1'), { kind: 'moving-live', to: 'a' });
  });
});
