import { labLimits } from '#lab/lab-limits.ts';

/** Looks until `condition` holds; false when it did not within the deadline. What `condition` throws passes through. */
export async function waitFor(condition: () => boolean | Promise<boolean>, deadlineMs: number): Promise<boolean> {
  const untilMs = performance.now() + deadlineMs;
  for (;;) {
    if (await condition()) return true;
    if (performance.now() > untilMs) return false;
    await new Promise((resolve) => setTimeout(resolve, labLimits.pollMs));
  }
}
