import assert from 'node:assert/strict';
import { test } from 'node:test';
import { applyBytes, applyTimeout, disarmed, timeLeftMs } from '#lab/watchdog/countdown.ts';

const bytes = (text: string) => new TextEncoder().encode(text);

test('a watchdog counts only from the first pet or the first timeout', () => {
  assert.equal(timeLeftMs(disarmed, 5_000), null);
  assert.equal(timeLeftMs(applyBytes(disarmed, bytes('.'), 1_000), 2_000), 59_000);
  assert.equal(timeLeftMs(applyTimeout(disarmed, '6\n', 1_000)!, 2_000), 5_000);
});

test('a pet starts the count anew and an overdue count is negative', () => {
  const armed = applyTimeout(disarmed, '4', 0)!;
  assert.equal(timeLeftMs(applyBytes(armed, bytes('x'), 3_000), 3_500), 3_500);
  assert.equal(timeLeftMs(armed, 4_250), -250);
});

test("only a 'V' as the last byte disarms", () => {
  const armed = applyTimeout(disarmed, '4', 0)!;
  assert.equal(timeLeftMs(applyBytes(armed, bytes('.V'), 100), 200), null);
  assert.equal(timeLeftMs(applyBytes(armed, bytes('V.'), 100), 200), 3_900);
  assert.equal(timeLeftMs(applyBytes(armed, bytes(''), 100), 200), 3_800);
});

test('a timeout is whole seconds between the least and the most the device can', () => {
  assert.equal(applyTimeout(disarmed, '0', 0)!.timeoutMs, 1_000);
  assert.equal(applyTimeout(disarmed, '1.5', 0)!.timeoutMs, 2_000);
  assert.equal(applyTimeout(disarmed, '100000', 0)!.timeoutMs, 600_000);
  assert.equal(applyTimeout(disarmed, '', 0), null);
  assert.equal(applyTimeout(disarmed, 'soon', 0), null);
});
