import assert from 'node:assert/strict';
import { test } from 'node:test';
import { formatDuration, parseDuration } from '#core/text/duration.ts';

test('durations carry a unit and may be composed', () => {
  assert.equal(parseDuration('250ms', 'interval'), 250);
  assert.equal(parseDuration('60s', 'interval'), 60_000);
  assert.equal(parseDuration('1h30m', 'interval'), 5_400_000);
  assert.equal(parseDuration('1.5s', 'interval'), 1_500);
  assert.equal(parseDuration('1.1h', 'interval'), 3_960_000);
  assert.equal(parseDuration('2 min', 'interval'), 120_000);
});

test('a duration that is none, or has no unit, is refused by the name of its field', () => {
  for (const bad of ['', '60', '5x', 's', '-5s', '0s', '5s5', 'five m', '0.0001s']) {
    assert.throws(() => parseDuration(bad, 'interval'), { kind: 'invalid', message: /^interval: / }, bad);
  }
});

test('durations are printed in at most two units', () => {
  assert.equal(formatDuration(-30), '0.0 s');
  assert.equal(formatDuration(400), '0.4 s');
  assert.equal(formatDuration(41_000), '41 s');
  assert.equal(formatDuration(192_000), '3 min 12 s');
  assert.equal(formatDuration(59_700), '1 min');
  assert.equal(formatDuration(7_500_000), '2 h 5 min');
  assert.equal(formatDuration(3 * 86_400_000 + 3_600_000), '3 d 1 h');
});
