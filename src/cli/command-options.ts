import { limits } from '#base/limits.ts';
import { parseDuration } from '#core/text/duration.ts';

/** How long a command waits for others before it gives up, as `--timeout` says. Raises AppError invalid. */
export function parseTimeout(text: string): number {
  return parseDuration(text, 'timeout');
}

/** For options that may be given several times. */
export function collect(value: string, before: string[]): string[] {
  return [...before, value];
}

/** Default of `--timeout` for work that moves whole disks. */
export const longTimeout = `${limits.requestDeadlineMs / 60_000}m`;
/** Default of `--timeout` for a guest's start or stop. */
export const shortTimeout = `${limits.guestWaitMs / 1_000}s`;
/** What `--force` means where a guest is to be started. */
export const forceStart = 'even if not all guests would find room after the loss of a node';
