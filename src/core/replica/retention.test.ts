import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { planRetention } from './retention.ts';

const keep = { recent: 3, minutes: 2, hours: 2 };
const at = (pointAtMs: number) => ({ pointAtMs });

test('keeps the newest few, then one a minute, then one an hour', () => {
  const minutes = [0, 10, 59, 60, 61, 118, 119, 120, 121, 122, 123].map((minute) => at(minute * 60_000));
  const dropped = new Set(planRetention(minutes, keep));
  const left = minutes.filter((point) => !dropped.has(point)).map((point) => point.pointAtMs / 60_000);
  assert.deepEqual(left, [119, 121, 122, 123]);
});

test('the ladder filled one point at a time ends with the wanted rungs', () => {
  let points: { pointAtMs: number }[] = [];
  for (let second = 0; second <= 9000; second += 5) {
    points = [...points, at(second * 1000)];
    const dropped = new Set(planRetention(points, keep));
    points = points.filter((point) => !dropped.has(point));
  }
  assert.deepEqual(
    points.map((point) => point.pointAtMs / 1000),
    [7195, 8990, 8995, 9000],
  );
});

test('never drops the newest point and drops nothing twice', () => {
  const times = fc.array(fc.integer({ min: 0, max: 10 * 3_600_000 }), { minLength: 1, maxLength: 60 });
  const keeps = fc.record({ recent: fc.nat(5), minutes: fc.nat(5), hours: fc.nat(3) });
  fc.assert(
    fc.property(times, keeps, (list, rule) => {
      const points = list.toSorted((a, b) => a - b).map(at);
      const dropped = planRetention(points, rule);
      assert.ok(!dropped.includes(points.at(-1) ?? at(0)));
      const left = points.filter((point) => !dropped.includes(point));
      assert.ok(left.length <= Math.max(1, rule.recent) + rule.minutes + rule.hours);
      assert.deepEqual(planRetention(left, rule), []);
    }),
  );
});
