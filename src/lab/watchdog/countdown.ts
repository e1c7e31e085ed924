import { labLimits } from '#lab/lab-limits.ts';

/** What a hardware watchdog knows: nothing but its timeout and when it was last petted, on one clock. */
export type Countdown = { armed: boolean; timeoutMs: number; lastPetMs: number };

export const disarmed: Countdown = { armed: false, timeoutMs: labLimits.watchdogDefaultSeconds * 1000, lastPetMs: 0 };

/**
 * Bytes arrived on the device: any byte pets and arms, a 'V' as the last one disarms (the "magic close" of Linux watchdog
 * drivers, Documentation/watchdog/watchdog-api.rst).
 */
export function applyBytes(countdown: Countdown, bytes: Uint8Array, nowMs: number): Countdown {
  const last = bytes.at(-1);
  if (last === undefined) return countdown;
  return { ...countdown, armed: last !== 'V'.charCodeAt(0), lastPetMs: nowMs };
}

/**
 * The node wrote its wish into `settimeout`: whole seconds, rounded up as real drivers do, within what the device can. It arms
 * and pets. null: not a number (the file is half written), nothing changes.
 */
export function applyTimeout(countdown: Countdown, text: string, nowMs: number): Countdown | null {
  if (!/^\s*\d+(\.\d+)?\s*$/.test(text)) return null;
  const seconds = Math.min(Math.max(Math.ceil(Number(text)), labLimits.watchdogMinSeconds), labLimits.watchdogMaxSeconds);
  return { ...countdown, armed: true, timeoutMs: seconds * 1000, lastPetMs: nowMs };
}

/** Milliseconds until it fires, negative when overdue; null: disarmed, never. */
export function timeLeftMs(countdown: Countdown, nowMs: number): number | null {
  return countdown.armed ? countdown.lastPetMs + countdown.timeoutMs - nowMs : null;
}
