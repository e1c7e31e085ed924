import { AppError } from '#base/error.ts';

const unitMs: Record<string, number> = { ms: 1, s: 1_000, m: 60_000, min: 60_000, h: 3_600_000, d: 86_400_000 };

/**
 * Reads a duration such as `250ms`, `60s`, `5m`, `1h30m` and returns milliseconds, at least 1. A number without a unit is
 * refused: seconds and milliseconds are too easily confused. Raises AppError invalid, naming `field`.
 */
export function parseDuration(text: string, field: string): number {
  const compact = text.replaceAll(' ', '');
  const parts = [...compact.matchAll(/(\d+(?:\.\d+)?)(ms|min|s|m|h|d)/g)];
  const whole = parts.map((part) => part[0]).join('') === compact;
  const sumMs = parts.reduce((sum, part) => sum + Number(part[1]) * (unitMs[part[2] ?? ''] ?? NaN), 0);
  const totalMs = Math.round(sumMs * 1e6) / 1e6; // 1.1h is 3960000.0000000005 in binary
  if (!whole || !Number.isSafeInteger(totalMs) || totalMs < 1) {
    throw new AppError('invalid', `${field}: ${JSON.stringify(text)} is not a duration; write 250ms, 60s, 5m, 2h or 1h30m`);
  }
  return totalMs;
}

/** Milliseconds for people, in at most two units: `0.4 s`, `41 s`, `3 min 12 s`, `2 h 5 min`. Below zero (clocks differ) counts as zero. */
export function formatDuration(ms: number): string {
  if (ms < 10_000) return `${(Math.max(0, ms) / 1000).toFixed(1)} s`;
  const seconds = Math.round(ms / 1000);
  if (seconds < 60) return `${seconds} s`;
  if (seconds < 3_600) return twoUnits(Math.floor(seconds / 60), 'min', seconds % 60, 's');
  const minutes = Math.floor(seconds / 60);
  if (minutes < 24 * 60) return twoUnits(Math.floor(minutes / 60), 'h', minutes % 60, 'min');
  const hours = Math.floor(minutes / 60);
  return twoUnits(Math.floor(hours / 24), 'd', hours % 24, 'h');
}

function twoUnits(large: number, largeUnit: string, small: number, smallUnit: string): string {
  return small === 0 ? `${large} ${largeUnit}` : `${large} ${largeUnit} ${small} ${smallUnit}`;
}
