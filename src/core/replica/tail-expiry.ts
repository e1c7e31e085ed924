import type { LeftBehind } from './records.ts';

const dayMs = 86_400_000;

/** A tail is never removed by itself sooner than this: people are on holiday for a week. */
export const shortestTailDays = 7;

/**
 * Tails that are past the time for which a guest's job keeps them, by their last write. One whose size or last write is not known stays: nobody
 * can say yet what would be lost. `keepDays` null or left out: all stay.
 */
export function listExpiredTails(tails: readonly LeftBehind[], keepDays: number | null | undefined, nowMs: number): LeftBehind[] {
  if (keepDays === null || keepDays === undefined) return [];
  const keepMs = Math.max(shortestTailDays, keepDays) * dayMs;
  return tails.filter((tail) => tail.sizeBytes !== null && tail.untilAtMs !== null && nowMs - tail.untilAtMs > keepMs);
}
