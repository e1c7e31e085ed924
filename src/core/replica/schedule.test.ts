import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { noteFailure, noteReconnect, noteSuccess, planNextCycle, type TargetSchedule } from './schedule.ts';

const fresh = (target: string): TargetSchedule => ({
  target,
  lastPointBootMs: null,
  failures: 0,
  lastFailureBootMs: null,
  asked: false,
});

test('a target without any point is due at once, and before one that has an older point', () => {
  const sent = noteSuccess(fresh('b'), 1000);
  assert.deepEqual(planNextCycle([sent, fresh('c')], 60_000, 70_000)?.target, 'c');
});

test('the cadence counts from point to point, not from the end of a cycle', () => {
  assert.equal(planNextCycle([noteSuccess(fresh('b'), 1000)], 5_000, 4_000)?.dueInMs, 2_000);
});

test('back-off is capped at the interval however long the outage', () => {
  fc.assert(
    fc.property(fc.integer({ min: 1, max: 200 }), fc.integer({ min: 1000, max: 600_000 }), (failures, intervalMs) => {
      let target = fresh('b');
      for (let index = 0; index < failures; index += 1) target = noteFailure(target, 50_000);
      const plan = planNextCycle([target], intervalMs, 50_000);
      assert.ok(plan !== null && plan.dueInMs <= intervalMs && plan.dueInMs >= 1000);
    }),
  );
});

test('a node that comes back is served at once', () => {
  const failed = noteFailure(noteFailure(fresh('b'), 1000), 9000);
  assert.equal(planNextCycle([failed], 60_000, 9_001)?.dueInMs, 1_999);
  assert.equal(planNextCycle([noteReconnect(failed)], 60_000, 9_001)?.dueInMs, 0);
});

test('a failing target does not starve a healthy one', () => {
  const failing = noteFailure(noteFailure(fresh('b'), 10_000), 10_000);
  const healthy = noteSuccess(fresh('c'), 9_500);
  assert.equal(planNextCycle([failing, healthy], 1_000, 10_600)?.target, 'c');
});
