import { setTimeout as delay } from 'node:timers/promises';

/** Looks until `look` gives something else than null, false or undefined; fails with `what` after `deadlineMs`. */
export async function until<T>(
  what: string,
  deadlineMs: number,
  look: () => T | null | false | undefined | Promise<T | null | false | undefined>,
): Promise<T> {
  const endMs = performance.now() + deadlineMs;
  for (;;) {
    const found = await look();
    if (found !== null && found !== false && found !== undefined) return found;
    if (performance.now() > endMs) throw new Error(`not within ${deadlineMs} ms: ${what}`);
    await delay(20);
  }
}
