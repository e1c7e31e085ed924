import { strict as assert } from 'node:assert';
import { test } from 'node:test';
import fc from 'fast-check';
import { AppError } from '#base/error.ts';
import { checkTiming, claimNeededMs, timingProfiles, type Timing } from '#core/ha/timing.ts';

function refusal(change: Partial<Timing>): string {
  try {
    checkTiming({ ...timingProfiles.standard, profile: 'custom', ...change });
  } catch (error) {
    assert(error instanceof AppError && error.kind === 'invalid');
    return error.message;
  }
  throw new assert.AssertionError({ message: `not refused: ${JSON.stringify(change)}` });
}

test('every built-in profile holds the inequality', () => {
  for (const profile of Object.values(timingProfiles)) assert.equal(checkTiming(profile), profile);
});

test('a claim that is too early is refused with both sides and the smallest claim that would do', () => {
  const message = refusal({ claimMs: 14_000 });
  assert.match(message, /13860 ms is less than .* = 14120 ms/);
  assert.match(message, /raise claim-ms to at least 14263/);
  assert.equal(checkTiming({ ...timingProfiles.standard, claimMs: 14_263 }).claimMs, 14_263);
  assert.match(refusal({ claimMs: 14_262 }), /claim-ms/);
});

test('each relation that is broken names the field to change', () => {
  assert.match(refusal({ renewMs: 2_500 }), /soft-ms 6000 is less than 3 \* renew-ms = 7500/);
  assert.match(refusal({ watchdogMs: 5_500 }), /watchdog-ms: 5500/);
  assert.match(refusal({ renewMs: 0 }), /renew-ms: 0/);
  assert.match(refusal({ resetMs: -1 }), /reset-ms: -1/);
  assert.match(refusal({ clockRatePercent: Number.NaN }), /clock-rate-percent/);
});

test('whatever is accepted keeps claim after the last possible instant of execution, for the worst clocks', () => {
  const timing = fc.record({
    profile: fc.constant('custom'),
    renewMs: fc.integer({ min: 1, max: 5_000 }),
    softMs: fc.integer({ min: 1, max: 60_000 }),
    watchdogMs: fc.integer({ min: 1, max: 60 }).map((seconds) => seconds * 1_000),
    clockRatePercent: fc.integer({ min: 0, max: 10 }),
    resetMs: fc.integer({ min: 0, max: 10_000 }),
    claimMs: fc.integer({ min: 1, max: 200_000 }),
  });
  fc.assert(
    fc.property(timing, (candidate) => {
      const accepted = accepts(candidate);
      const { clockRatePercent: r, softMs, watchdogMs, resetMs, claimMs, renewMs } = candidate;
      // In integers, so that no rounding decides.
      const safe = claimMs * (100 - r) >= (softMs + watchdogMs) * (100 + r) + 100 * resetMs && softMs >= 3 * renewMs;
      assert.equal(accepted, safe);
      assert.equal(claimMs >= claimNeededMs(candidate) && softMs >= 3 * renewMs, safe);
    }),
    { numRuns: 300 },
  );
});

function accepts(timing: Timing): boolean {
  try {
    checkTiming(timing);
    return true;
  } catch {
    return false;
  }
}
