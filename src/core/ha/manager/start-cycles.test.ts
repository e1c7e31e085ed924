import assert from 'node:assert/strict';
import { test } from 'node:test';
import { plainGuest } from '#core/ha/manager/round-cluster.ts';
import { findStartCycles } from '#core/ha/manager/start-cycles.ts';

function cyclesOf(links: Record<string, string[]>): Record<string, readonly string[]> {
  const guests = Object.entries(links).map(([id, startsAfter]) => [id, plainGuest(id, 'a', { startsAfter })] as const);
  return Object.fromEntries(findStartCycles(new Map(guests)));
}

test('chains and diamonds are no circles, whoever comes first', () => {
  assert.deepEqual(cyclesOf({ '1': ['2'], '2': ['3'], '3': [] }), {});
  assert.deepEqual(cyclesOf({ '3': ['2', '1'], '2': ['1'], '1': [] }), {});
  assert.deepEqual(cyclesOf({ '1': ['2', '3'], '2': ['4'], '3': ['4'], '4': ['9'] }), {});
});

test('a circle is told to all its members, not to those before or after it', () => {
  const circle = ['2', '3', '4'];
  assert.deepEqual(cyclesOf({ '1': ['2'], '2': ['3'], '3': ['4'], '4': ['2', '5'], '5': [] }), {
    '2': circle,
    '3': circle,
    '4': circle,
  });
});

test('two circles are told apart, those that share a guest are one; a guest may wait for itself', () => {
  assert.deepEqual(cyclesOf({ '1': ['2'], '2': ['1', '3'], '3': ['4'], '4': ['3'] }), {
    '1': ['1', '2'],
    '2': ['1', '2'],
    '3': ['3', '4'],
    '4': ['3', '4'],
  });
  const both = ['1', '2', '3'];
  assert.deepEqual(cyclesOf({ '1': ['2'], '2': ['1', '3'], '3': ['2'] }), { '1': both, '2': both, '3': both });
  assert.deepEqual(cyclesOf({ '1': ['1'] }), { '1': ['1'] });
});

test('a long chain that ends in a circle is walked without recursion', () => {
  const links: Record<string, string[]> = {};
  for (let id = 0; id < 20_000; id += 1) links[`g${id}`] = [`g${id + 1}`];
  links['g20000'] = ['g19999'];
  assert.deepEqual(cyclesOf(links), { g19999: ['g19999', 'g20000'], g20000: ['g19999', 'g20000'] });
});
