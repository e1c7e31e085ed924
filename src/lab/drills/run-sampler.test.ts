import assert from 'node:assert/strict';
import { test } from 'node:test';
import { findDoubleRuns, type RunSpan } from '#lab/drills/run-sampler.ts';

const span = (node: string, fromMs: number, untilMs: number, vmid = 100): RunSpan => ({
  vmid,
  node,
  epoch: 1,
  fromMs,
  untilMs,
  goneMs: untilMs,
});

test('one guest running on two nodes at one instant is a double run', () => {
  assert.equal(findDoubleRuns([span('n1', 0, 100), span('n2', 100, 200)]).length, 1);
  assert.equal(findDoubleRuns([span('n1', 0, 100), span('n2', 101, 200)]).length, 0);
});

test('two guests, or one guest restarted on its node, are none', () => {
  assert.equal(findDoubleRuns([span('n1', 0, 100), span('n2', 50, 200, 101)]).length, 0);
  assert.equal(findDoubleRuns([span('n1', 0, 100), span('n1', 50, 200)]).length, 0);
});
