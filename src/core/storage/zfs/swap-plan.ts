import type { Dataset } from './listing.ts';

/**
 * One disk with new content takes the place of the one that it is a clone of:
 *
 *   disk0, next.disk0 (clone of disk0@before) ─► rename aside ─► promote: the past goes with the clone ─► rename next.disk0 to disk0
 *
 * A crash after any step is planned for: what is left is told from what is there.
 */
export type SwapStep = 'set-aside' | 'promote' | 'take-place';

/** The steps that are left for one disk, in order; none: it has its place, or nothing was written for it. */
export function planSwap({ live, next }: { live: Dataset | null; next: Dataset | null }): SwapStep[] {
  if (next === null) return [];
  const steps: SwapStep[] = [];
  if (live !== null) steps.push('set-aside');
  // A disk that is new here rests on nothing.
  if (next.origin !== null) steps.push('promote');
  return [...steps, 'take-place'];
}
