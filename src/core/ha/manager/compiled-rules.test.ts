import assert from 'node:assert/strict';
import { test } from 'node:test';
import { compileRules } from '#core/ha/manager/compiled-rules.ts';
import type { Rule } from '#core/ha/manager/rules.ts';

const nodes = ['a', 'b', 'c'];

function prefer(id: string, guests: string[], ranks: Record<string, number>, hard = true): Rule {
  const list = Object.entries(ranks).map(([node, rank]) => ({ node, rank }));
  return { id, enabled: true, guests, kind: 'prefer-nodes', hard, nodes: list };
}

function together(id: string, ...guests: string[]): Rule {
  return { id, enabled: true, guests, kind: 'keep-together' };
}

function apart(id: string, ...guests: string[]): Rule {
  return { id, enabled: true, guests, kind: 'keep-apart' };
}

function droppedOf(...rules: Rule[]): string[] {
  return compileRules(rules, nodes)
    .dropped.map((entry) => entry.rule)
    .sort();
}

test('a guest in two node rules: both are dropped, others stay', () => {
  assert.deepEqual(droppedOf(prefer('r1', ['1', '2'], { a: 0 }), prefer('r2', ['2'], { b: 0 }), prefer('r3', ['3'], { b: 0 })), [
    'r1',
    'r2',
  ]);
});

test('an affinity rule needs two guests', () => {
  assert.deepEqual(droppedOf(together('r1', '1'), apart('r2', '2', '2')), ['r1', 'r2']);
});

test('more guests to keep apart than nodes cannot be', () => {
  assert.deepEqual(droppedOf(apart('r1', '1', '2', '3', '4'), apart('r2', '1', '2', '3')), ['r1']);
});

test('together and apart is found across rules that overlap', () => {
  assert.deepEqual(droppedOf(together('r1', '1', '2'), together('r2', '2', '3'), apart('r3', '1', '3')), ['r1', 'r2', 'r3']);
});

test('several ranks go with no affinity rule', () => {
  assert.deepEqual(droppedOf(prefer('r1', ['1'], { a: 1, b: 2 }), together('r2', '1', '2'), together('r3', '4', '5')), [
    'r1',
    'r2',
  ]);
  assert.deepEqual(droppedOf(prefer('r1', ['1'], { a: 1, b: 1 }), together('r2', '1', '2')), []);
});

test('members of a merged set in different node rules', () => {
  const rules = [
    prefer('r1', ['1'], { a: 0 }),
    prefer('r2', ['3'], { b: 0 }),
    together('r3', '1', '2'),
    together('r4', '2', '3'),
  ];
  assert.deepEqual(droppedOf(...rules), ['r1', 'r2', 'r3', 'r4']);
});

test('guests to keep apart that are confined to fewer nodes than there are of them', () => {
  assert.deepEqual(droppedOf(prefer('r1', ['1', '2'], { a: 0 }), apart('r2', '1', '2')), ['r1', 'r2']);
  assert.deepEqual(droppedOf(prefer('r1', ['1', '2'], { a: 0, b: 0 }), apart('r2', '1', '2')), []);
  assert.deepEqual(droppedOf(prefer('r1', ['1', '2'], { a: 0 }, false), apart('r2', '1', '2')), []);
});

test('a disabled rule neither counts nor is told as dropped', () => {
  assert.deepEqual(droppedOf({ ...together('r1', '1', '2'), enabled: false }, apart('r2', '1', '2')), []);
});

test('overlapping sets merge, a node rule binds the set, rivals are rivals of the set by one hop', () => {
  const rules = compileRules(
    [
      together('r1', '1', '2'),
      together('r2', '2', '3'),
      prefer('r3', ['3'], { a: 0 }, false),
      apart('r4', '1', '9'),
      apart('r5', '9', '8'),
    ],
    nodes,
  );
  assert.deepEqual(rules.together.get('1'), ['2', '3']);
  assert.deepEqual(
    [...(rules.ranks.get('2') ?? [])],
    [
      ['a', 0],
      ['b', -1],
      ['c', -1],
    ],
  );
  assert.deepEqual(rules.apart.get('3'), ['9']);
  assert.deepEqual(rules.apart.get('9'), ['1', '2', '3', '8']);
  assert.deepEqual(rules.apart.get('8'), ['9']);
});
