import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { noteFailure, noteReconnect, noteSuccess, oldestThatWillDo, planNextCycle, type TargetSchedule } from './schedule.ts';

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

test('nodes that are due together get the same point, however long the first cycle takes; none that is older than an interval will do', () => {
  // Both got a point of 10 s; at 70 s a new one is taken for the first, and 45 s later it is the turn of the second.
  const second = noteSuccess(fresh('c'), 10_000);
  assert.ok(oldestThatWillDo(second, 60_000, 115_000) <= 70_000);
  assert.ok(oldestThatWillDo(fresh('c'), 60_000, 115_000) <= 70_000, 'a new target takes what is there');
  fc.assert(
    fc.property(
      fc.option(fc.nat(1_000_000)),
      fc.integer({ min: 1_000, max: 600_000 }),
      fc.nat(2_000_000),
      (point, intervalMs, laterMs) => {
        const nowBootMs = (point ?? 0) + laterMs;
        const fromBootMs = oldestThatWillDo({ ...fresh('b'), lastPointBootMs: point }, intervalMs, nowBootMs);
        assert.ok(fromBootMs >= nowBootMs - intervalMs && fromBootMs <= nowBootMs - intervalMs / 2);
      },
    ),
  );
});
