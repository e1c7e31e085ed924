import assert from 'node:assert/strict';
import { test } from 'node:test';
import { compileRules } from '#core/ha/manager/compiled-rules.ts';
import type { GuestFacts } from '#core/ha/manager/facts.ts';
import type { GuestEntry, GuestState } from '#core/ha/manager/memory.ts';
import { plainGuest, plainNode } from '#core/ha/manager/round-cluster.ts';
import type { Rule } from '#core/ha/manager/rules.ts';
import { selectNode, type SelectionMode } from '#core/ha/manager/selection.ts';
import { countEntry, emptyUsage } from '#core/ha/manager/usage.ts';

type Guest = {
  node: string;
  state?: GuestState;
  failedNodes?: string[];
  avoids?: string[];
  returnTo?: string;
  facts?: Partial<GuestFacts>;
};

const active: GuestState = { kind: 'active', seenRunning: true, recovered: false };

function select(
  guests: Record<string, Guest>,
  rules: Rule[],
  mode: SelectionMode,
  up = ['a', 'b', 'c'],
  placement: 'count' | 'by-size' = 'count',
  { memoryMustFit = false, refusesForbiddenMoves = false, turnedBack = new Map<string, string>() } = {},
): string | null {
  const usage = emptyUsage(
    up.map((name) => plainNode(name)),
    { placement, memoryMustFit, refusesForbiddenMoves },
  );
  const entries = new Map<string, GuestEntry>();
  const guestFacts = new Map(Object.entries(guests).map(([id, { node, facts }]) => [id, plainGuest(id, node, facts)]));
  for (const [id, { node, state = active, failedNodes = [], avoids = [], returnTo = null }] of Object.entries(guests)) {
    const avoided = { nodes: avoids, sinceMs: 0 };
    const entry = { state, node, orderId: 1, failedNodes, avoids: avoided, returnTo, command: null, sinceMs: 0, because: '' };
    entries.set(id, entry);
    countEntry(usage, plainGuest(id, node, guests[id]?.facts), entry, 1);
  }
  const entry = entries.get('x');
  assert.ok(entry !== undefined);
  const facts = plainGuest('x', entry.node, guests['x']?.facts);
  return selectNode(
    { usage, rules: compileRules(rules, ['a', 'b', 'c']), guests: entries, guestFacts, turnedBack },
    facts,
    entry,
    mode,
  );
}

function prefer(ranks: Record<string, number>, hard = true): Rule {
  const nodes = Object.entries(ranks).map(([node, rank]) => ({ node, rank }));
  return { id: 'p', enabled: true, guests: ['x'], kind: 'prefer-nodes', hard, nodes };
}

const apart: Rule = { id: 'r', enabled: true, guests: ['x', 'y'], kind: 'keep-apart' };
const together: Rule = { id: 't', enabled: true, guests: ['x', 'y', 'z'], kind: 'keep-together' };

test('without rules a guest stays, and goes to the emptiest node by name when it has no place', () => {
  assert.equal(select({ x: { node: 'c' } }, [], 'stay'), 'c');
  assert.equal(select({ x: { node: 'c' }, y: { node: 'a' } }, [], 'best', ['a', 'b']), 'b');
  assert.equal(select({ x: { node: 'c' } }, [], 'best', ['a', 'b']), 'a');
});

test('a better rank that is up pulls, unless failback is off', () => {
  const rules = [prefer({ b: 2, c: 1 })];
  assert.equal(select({ x: { node: 'c' } }, rules, 'stay'), 'b');
  assert.equal(select({ x: { node: 'c', facts: { failback: false } } }, rules, 'stay'), 'c');
  assert.equal(select({ x: { node: 'b' } }, rules, 'stay', ['a', 'c']), 'c');
});

test('a hard rule without a node that is up leaves no place; one that is not hard takes any other', () => {
  assert.equal(select({ x: { node: 'b' } }, [prefer({ b: 0 })], 'best', ['a', 'c']), null);
  assert.equal(select({ x: { node: 'b' } }, [prefer({ b: 0 }, false)], 'best', ['a', 'c']), 'a');
});

test('a node where a rival is or is heading to is no place, even where the guest is', () => {
  assert.equal(select({ x: { node: 'a' }, y: { node: 'a' } }, [apart], 'stay'), 'b');
  const heading: GuestState = { kind: 'moving-live', to: 'b' };
  assert.equal(select({ x: { node: 'a' }, y: { node: 'a', state: heading } }, [apart], 'stay'), 'c');
  assert.equal(select({ x: { node: 'a' }, y: { node: 'a', state: { kind: 'inactive' } } }, [apart], 'stay'), 'a');
});

test('nobody goes to a node that found its copy unfit, but who is there stays', () => {
  const facts = { unfitNodes: ['b'] };
  const rules = [prefer({ b: 2, c: 1 }, false)];
  assert.equal(select({ x: { node: 'a', facts } }, rules, 'stay'), 'c');
  assert.equal(select({ x: { node: 'b', facts } }, rules, 'stay'), 'b');
  assert.equal(select({ x: { node: 'a', facts } }, [prefer({ b: 0 })], 'stay'), null);
  assert.equal(select({ x: { node: 'a', facts } }, [], 'next'), 'c');
});

test('companions pull to the node that holds most of them, by name among equals', () => {
  assert.equal(select({ x: { node: 'a' }, y: { node: 'c' }, z: { node: 'b' } }, [together], 'stay'), 'b');
  assert.equal(select({ x: { node: 'a' }, y: { node: 'c' }, z: { node: 'c' } }, [together], 'stay'), 'c');
  const heading: GuestState = { kind: 'moving-live', to: 'c' };
  assert.equal(select({ x: { node: 'a' }, y: { node: 'a', state: heading } }, [together], 'stay'), 'c');
});

test('who has joined one of two equal groups of companions stays with it', () => {
  const rule: Rule = { ...together, guests: ['x', 'y', 'z'] };
  const split = { y: { node: 'a' }, z: { node: 'c' } };
  assert.equal(select({ x: { node: 'c' }, ...split }, [rule], 'stay'), 'c');
  assert.equal(select({ x: { node: 'b' }, ...split }, [rule], 'stay'), 'a');
  assert.equal(select({ x: { node: 'c' }, ...split }, [rule], 'best'), 'a');
});

test('after a failed start the next node by load is tried, without those that failed', () => {
  assert.equal(select({ x: { node: 'b', failedNodes: ['b'] }, y: { node: 'a' } }, [], 'next'), 'c');
  assert.equal(select({ x: { node: 'b', failedNodes: ['a', 'b'] } }, [], 'next'), 'c');
  assert.equal(select({ x: { node: 'b', failedNodes: ['a', 'b', 'c'] } }, [], 'next'), null);
});

test('a guest returns to the drained node that is up again', () => {
  assert.equal(select({ x: { node: 'a', returnTo: 'c' } }, [], 'stay'), 'c');
  assert.equal(select({ x: { node: 'a', returnTo: 'c' } }, [], 'stay', ['a', 'b']), 'a');
});

test('a guest does not return before its companion has a place', () => {
  const x = { node: 'a', returnTo: 'c' };
  const waiting: GuestState = { kind: 'awaiting-recovery' };
  assert.equal(select({ x, y: { node: 'b', state: waiting } }, [together], 'stay', ['a', 'c']), 'a');
  assert.equal(select({ x, y: { node: 'b', state: { kind: 'inactive' } } }, [together], 'stay', ['a', 'c']), 'c');
});

test('a companion that its node gave up draws nobody to where it was', () => {
  const waiting: GuestState = { kind: 'awaiting-recovery' };
  const givenUp: Guest = { node: 'b', state: waiting, facts: { givenUp: true } };
  assert.equal(select({ x: { node: 'c' }, y: givenUp }, [together], 'stay'), 'c');
  assert.equal(select({ x: { node: 'c', state: waiting }, y: givenUp }, [together], 'best', ['a', 'b']), 'a');
  assert.equal(select({ x: { node: 'c' }, y: { ...givenUp, state: active } }, [together], 'stay'), 'c', 'not looked at yet');
  assert.equal(select({ x: { node: 'c' }, y: { ...givenUp, facts: {} } }, [together], 'stay'), 'b', 'it may start there again');
  const placed: Guest = { node: 'a', facts: { givenUp: true, home: 'b' } };
  assert.equal(select({ x: { node: 'c' }, y: placed }, [together], 'stay'), 'a', 'it has a new place in this round');
});

test('by size, memory decides before cores', () => {
  const gib = 2 ** 30;
  const big = { claimed: { cores: 1, memoryBytes: 40 * gib } };
  const busy = { claimed: { cores: 12, memoryBytes: 1 * gib } };
  const guests: Record<string, Guest> = { x: { node: 'c' }, y: { node: 'a', facts: big }, z: { node: 'b', facts: busy } };
  assert.equal(select(guests, [], 'best', ['a', 'b'], 'by-size'), 'b');
});

test('where a rival is on every preferred node, the next rank will do, but not in the recorded manager', () => {
  const rules = [prefer({ a: 1 }, false), { ...together, id: 'apart', kind: 'keep-apart' } as Rule];
  const guests: Record<string, Guest> = { x: { node: 'a' }, y: { node: 'a' }, z: { node: 'b' } };
  assert.equal(select(guests, rules, 'stay'), null);
  const live = { refusesForbiddenMoves: true };
  assert.equal(select(guests, rules, 'stay', ['a', 'b', 'c'], 'count', live), 'c');
  assert.equal(select({ x: { node: 'c' }, y: { node: 'b' } }, rules, 'stay', ['a', 'b', 'c'], 'count', live), 'a');
});

test('a rival that has no place of its own yet, or any more, keeps nobody away', () => {
  const apart: Rule = { id: 'apart', enabled: true, guests: ['x', 'y'], kind: 'keep-apart' };
  for (const state of [{ kind: 'start-requested' }, { kind: 'awaiting-recovery' }] as const) {
    assert.equal(select({ x: { node: 'a' }, y: { node: 'a', state } }, [apart], 'stay'), 'a', state.kind);
  }
  assert.equal(select({ x: { node: 'a' }, y: { node: 'a' } }, [apart], 'stay'), 'b');
});

test('a guest does not go where its start failed to join a companion, but gives way to a rival, and leaves a drained node for it', () => {
  const live = { refusesForbiddenMoves: true };
  for (const failed of [{ failedNodes: ['c'] }, { avoids: ['c'] }]) {
    const joins: Record<string, Guest> = { x: { node: 'a', ...failed }, y: { node: 'c' } };
    assert.equal(select(joins, [together], 'stay', ['a', 'b', 'c'], 'count', live), 'a');
    assert.equal(select(joins, [together], 'stay'), 'c', 'the recorded manager goes back');
    assert.equal(select(joins, [together], 'stay', ['b', 'c'], 'count', live), 'b');
    assert.equal(select(joins, [together], 'stay', ['c'], 'count', live), 'c');
    const yields: Record<string, Guest> = { x: { node: 'a', ...failed }, y: { node: 'a' } };
    assert.equal(select(yields, [apart], 'stay', ['a', 'c'], 'count', live), 'c');
  }
});

test('where a rival is leaving, a guest that runs stays; one that does not run yet, or whose rival comes back, goes', () => {
  const live = { refusesForbiddenMoves: true };
  const leaving: GuestState = { kind: 'moving-cold', to: 'b' };
  const where = (x: Partial<Guest>, y: Guest) =>
    select({ x: { node: 'a', ...x }, y }, [apart], 'stay', ['a', 'b', 'c'], 'count', live);
  assert.equal(where({}, { node: 'a', state: leaving }), 'a');
  assert.equal(select({ x: { node: 'a' }, y: { node: 'a', state: leaving } }, [apart], 'stay'), 'c', 'the recorded manager');
  assert.equal(where({ state: { kind: 'start-requested' } }, { node: 'a', state: leaving }), 'c');
  assert.equal(where({ state: { ...active, seenRunning: false } as GuestState }, { node: 'a', state: leaving }), 'c');
  assert.equal(where({}, { node: 'b', state: { kind: 'moving-cold', to: 'a' } }), 'c');
});

test('where a rival leaves before its start is free, whether the guest runs or is to start; the recorded manager lets only those stay who run', () => {
  const live = { refusesForbiddenMoves: true };
  const rules = [prefer({ a: 0, b: 0 }, false), apart];
  const guests = (x: Guest): Record<string, Guest> => ({
    x,
    y: { node: 'a', state: { kind: 'start-requested-elsewhere', to: 'b' } },
  });
  const toStart = guests({ node: 'a', state: { kind: 'start-requested' } });
  assert.equal(select(toStart, rules, 'best', ['a', 'b', 'c'], 'count', live), 'a');
  assert.equal(select(toStart, rules, 'best'), null);
  assert.equal(select(guests({ node: 'a' }), rules, 'stay', ['a', 'b', 'c'], 'count', live), 'a');
  assert.equal(select(guests({ node: 'a' }), rules, 'stay'), 'a');
});

test('where a rival was to arrive until this round nobody is placed in the same round, though it has no place any more', () => {
  const live = { refusesForbiddenMoves: true, turnedBack: new Map([['y', 'a']]) };
  const guests: Record<string, Guest> = {
    x: { node: 'c', state: { kind: 'awaiting-recovery' } },
    y: { node: 'b', state: { kind: 'awaiting-recovery' } },
  };
  assert.equal(select(guests, [apart], 'best', ['a', 'b'], 'count', live), 'b');
  assert.equal(select(guests, [apart], 'best', ['a'], 'count', live), null);
  assert.equal(select(guests, [apart], 'best', ['a', 'b'], 'count', { ...live, turnedBack: new Map() }), 'a');
});
