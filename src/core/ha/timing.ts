import { AppError } from '#base/error.ts';

/**
 * The times that the safety argument rests on. With W = soft + watchdog, r the clock-rate error and d the reset latency, no guest
 * runs on two nodes at one instant when
 *
 *     claim * (1 - r)  >=  W * (1 + r) + d
 *
 * because a node executes guest code at most W + d after it last sent a renewal that succeeded, and a claim is made at least
 * `claim` after that renewal was seen.
 */
export type Timing = {
  profile: string;
  /** Wanted time between two renewals. */
  renewMs: number;
  /** A renewal carries the guests this long from when it was sent. */
  softMs: number;
  /** The hardware resets the host when it was not petted for this long. */
  watchdogMs: number;
  /** How wrong the rate of any clock may be. */
  clockRatePercent: number;
  /** From the watchdog's timeout until nothing executes any more. */
  resetMs: number;
  /** Silence after which a claim is made (D). */
  claimMs: number;
};

export const timingProfiles = {
  brisk: {
    profile: 'brisk',
    renewMs: 1_000,
    softMs: 4_000,
    watchdogMs: 4_000,
    clockRatePercent: 1,
    resetMs: 2_000,
    claimMs: 11_000,
  },
  standard: {
    profile: 'standard',
    renewMs: 1_000,
    softMs: 6_000,
    watchdogMs: 6_000,
    clockRatePercent: 1,
    resetMs: 2_000,
    claimMs: 15_000,
  },
  lenient: {
    profile: 'lenient',
    renewMs: 2_000,
    softMs: 14_000,
    watchdogMs: 10_000,
    clockRatePercent: 1,
    resetMs: 3_000,
    claimMs: 28_000,
  },
} as const satisfies Record<string, Timing>;

export type TimingProfileName = keyof typeof timingProfiles;

/** The boot-time clock is read in steps of this size (/proc/uptime): whoever compares with a limit gives one step away. */
export const clockStepMs = 10;

/** Renewals that must fit in soft, so that a lost answer or an etcd election does not freeze anybody. */
const renewalsInSoft = 3;

/**
 * Returns `timing` unchanged when it is safe. Raises AppError invalid that names the field to change; for the inequality it prints
 * both sides.
 */
export function checkTiming(timing: Timing): Timing {
  checkFields(timing);
  const needMs = claimNeededMs(timing);
  if (timing.claimMs < needMs) {
    const { clockRatePercent: r, softMs, watchdogMs, resetMs, claimMs } = timing;
    const left = roundMs((claimMs * (100 - r)) / 100);
    const right = roundMs(((softMs + watchdogMs) * (100 + r)) / 100 + resetMs);
    throw refused(
      timing,
      `two nodes could run one guest: claim-ms * (1 - ${r} %) = ${left} ms is less than ` +
        `(soft-ms + watchdog-ms) * (1 + ${r} %) + reset-ms = ${right} ms; raise claim-ms to at least ${needMs}, or lower soft-ms or watchdog-ms`,
    );
  }
  return timing;
}

/** The smallest claim time for which the inequality holds, in whole milliseconds. */
export function claimNeededMs(timing: Omit<Timing, 'claimMs' | 'profile' | 'renewMs'>): number {
  const { clockRatePercent: r, softMs, watchdogMs, resetMs } = timing;
  return Math.ceil(((softMs + watchdogMs) * (100 + r) + 100 * resetMs) / (100 - r));
}

function checkFields(timing: Timing): void {
  const fields = {
    'renew-ms': timing.renewMs,
    'soft-ms': timing.softMs,
    'watchdog-ms': timing.watchdogMs,
    'claim-ms': timing.claimMs,
  };
  for (const [name, value] of Object.entries(fields)) {
    if (!Number.isInteger(value) || value <= 0) throw refused(timing, `${name}: ${value} is not a whole number above 0`);
  }
  if (!Number.isInteger(timing.resetMs) || timing.resetMs < 0) {
    throw refused(timing, `reset-ms: ${timing.resetMs} is not a whole number from 0`);
  }
  if (!(timing.clockRatePercent >= 0 && timing.clockRatePercent < 50)) {
    throw refused(timing, `clock-rate-percent: ${timing.clockRatePercent} is not a number from 0 to below 50`);
  }
  // Linux watchdogs count whole seconds (struct watchdog_device.timeout); half a second would silently become none.
  if (timing.watchdogMs % 1_000 !== 0) {
    throw refused(timing, `watchdog-ms: ${timing.watchdogMs} is not a whole number of seconds; a watchdog counts seconds`);
  }
  if (timing.softMs < renewalsInSoft * timing.renewMs) {
    throw refused(
      timing,
      `soft-ms ${timing.softMs} is less than ${renewalsInSoft} * renew-ms = ${renewalsInSoft * timing.renewMs}: one lost answer would ` +
        `freeze every guest; raise soft-ms or lower renew-ms`,
    );
  }
}

function refused(timing: Timing, why: string): AppError {
  return new AppError('invalid', `timing profile ${timing.profile}: ${why}`);
}

function roundMs(value: number): number {
  return Math.round(value * 10) / 10;
}
