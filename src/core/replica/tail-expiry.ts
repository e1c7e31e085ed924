import type { LeftBehind } from './records.ts';

const dayMs = 86_400_000;

/** A tail is never removed by itself sooner than this: people are on holiday for a week. */
export const shortestTailDays = 7;

/**
 * Tails that are past the time for which a guest's job keeps them, by their last write. One whose size or last write is not known stays: nobody
 * can say yet what would be lost. `keepDays` null or left out: all stay.
 */
export function listExpiredTails(tails: readonly LeftBehind[], keepDays: number | null | undefined, nowMs: number): LeftBehind[] {
  return tails.filter((tail) => {
    const expiresAtMs = findTailExpiry(tail, keepDays);
    return expiresAtMs !== null && nowMs > expiresAtMs;
  });
}

/** When a tail is removed by itself; null: only a person removes it, or nobody can say yet. */
export function findTailExpiry(tail: LeftBehind, keepDays: number | null | undefined): number | null {
  if (keepDays === null || keepDays === undefined || tail.sizeBytes === null || tail.untilAtMs === null) return null;
  return tail.untilAtMs + Math.max(shortestTailDays, keepDays) * dayMs;
}
