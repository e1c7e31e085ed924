import assert from 'node:assert/strict';
import { test } from 'node:test';
import { admitGuest, planLoss, planLosses } from '#core/ha/manager/admission.ts';
import { compileRules } from '#core/ha/manager/compiled-rules.ts';
import type { GuestFacts } from '#core/ha/manager/facts.ts';
import { plainGuest, plainNode } from '#core/ha/manager/round-cluster.ts';
import type { Rule } from '#core/ha/manager/rules.ts';

const gib = 2 ** 30;
const nodes = ['a', 'b', 'c'].map((name) => plainNode(name, { size: { cores: 8, memoryBytes: 32 * gib } }));

function sized(id: string, home: string, memoryGib: number, patch: Partial<GuestFacts> = {}): GuestFacts {
  return plainGuest(id, home, { claimed: { cores: 1, memoryBytes: memoryGib * gib }, ...patch });
}

function factsOf(guests: GuestFacts[], rules: Rule[] = []) {
  return { nodes, guests, rules: compileRules(rules, ['a', 'b', 'c']) };
}

test('the largest guests are placed first, each where most memory is left', () => {
  const plan = planLoss(factsOf([sized('1', 'c', 8), sized('2', 'c', 24), sized('3', 'a', 8)]), ['c']);
  assert.deepEqual(plan.placed, [
    { guest: '2', to: 'b' },
    { guest: '1', to: 'a' },
  ]);
  assert.deepEqual(plan.unplaced, []);
});

test('who finds no place is told with the reason of every node', () => {
  const rule: Rule = { id: 'r', enabled: true, kind: 'keep-apart', guests: ['1', '2'] };
  const copies = [
    { node: 'a', freshness: 1, dataAgeMs: 10 },
    { node: 'b', freshness: 1, dataAgeMs: 90_000 },
  ];
  const guests = [sized('1', 'c', 8, { copies, maxDataAgeMs: 50_000 }), sized('2', 'a', 8)];
  const [plan] = planLosses(factsOf(guests, [rule])).filter((entry) => entry.node === 'c');
  assert.deepEqual(plan?.unplaced, [
    { guest: '1', because: 'a: a guest to be kept apart from it is there; b: its copy is 1 min 30 s old, the limit is 50 s' },
  ]);
});

test('guests of lower start order take the room', () => {
  const guests = [sized('1', 'c', 30), sized('2', 'c', 20, { startOrder: -1 }), sized('3', 'a', 10), sized('4', 'b', 10)];
  const plan = planLoss(factsOf(guests), ['c']);
  assert.deepEqual(plan.placed, [{ guest: '2', to: 'a' }]);
});

test('the loss of two nodes at once', () => {
  assert.equal(planLoss(factsOf([sized('1', 'b', 20), sized('2', 'c', 20)]), ['b', 'c']).unplaced.length, 1);
});

test('a start is refused when some loss would then leave a guest without a place', () => {
  const guests = [sized('1', 'a', 20), sized('2', 'b', 20)];
  assert.deepEqual(admitGuest(factsOf(guests), sized('3', 'c', 10)), { kind: 'fits' });
  const admission = admitGuest(factsOf(guests), sized('3', 'c', 20));
  assert.equal(admission.kind, 'refused');
  assert.match(admission.kind === 'refused' ? admission.because : '', /^after the loss of a, guest 1 would have no place/);
});

test('what does not fit already is no reason to refuse another guest', () => {
  const guests = [sized('1', 'a', 32), sized('2', 'b', 32), sized('3', 'c', 1)];
  assert.deepEqual(admitGuest(factsOf(guests.filter((guest) => guest.id !== '3')), sized('3', 'c', 0)), { kind: 'fits' });
});
