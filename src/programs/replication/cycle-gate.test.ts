import assert from 'node:assert/strict';
import { test } from 'node:test';
import { limits } from '#base/limits.ts';
import { createCycleGate } from './cycle-gate.ts';

test('so many guests send to a node at a time, and another node is another matter', () => {
  const gate = createCycleGate(() => 0, 2);
  assert.deepEqual(
    [1, 2, 3].map((vmid) => gate.tryEnter(vmid, 'n2', 5)),
    [true, true, false],
  );
  assert.equal(gate.tryEnter(3, 'n3', 5), true);
  let rang = 0;
  gate.onFree(() => (rang += 1));
  gate.leave(1, 'n2');
  gate.leave(1, 'n2');
  assert.equal(rang, 1);
  assert.equal(gate.tryEnter(3, 'n2', 5), true);
});

test('of those that want to, the one with the oldest data goes first, before all others one without any', () => {
  const gate = createCycleGate(() => 0, 1);
  assert.equal(gate.tryEnter(1, 'n2', 10), true);
  for (const [vmid, age] of [
    [2, 60_000],
    [3, 90_000],
    [4, null],
  ] as const)
    assert.equal(gate.tryEnter(vmid, 'n2', age), false);
  gate.leave(1, 'n2');
  assert.deepEqual(
    [1, 2, 3, 4].map((vmid) => gate.tryEnter(vmid, 'n2', { 1: 1_000, 2: 60_000, 3: 90_000 }[vmid] ?? null)),
    [false, false, false, true],
  );
});

test('a guest that ended keeps nobody waiting', () => {
  let now = 0;
  const gate = createCycleGate(() => now, 1);
  gate.tryEnter(1, 'n2', 10);
  assert.equal(gate.tryEnter(2, 'n2', 90_000), false);
  gate.leave(1, 'n2');
  assert.equal(gate.tryEnter(3, 'n2', 20_000), false);
  now = 3 * limits.agentRoundMs;
  assert.equal(gate.tryEnter(3, 'n2', 20_000), true);
});
