import { AppError } from '#base/error.ts';
import { invariants } from '#sim/invariants.ts';
import { type RunOptions, type RunResult, runSeed } from '#sim/simulation.ts';

/** A run is told from here on at the latest. */
const toldLines = 70;
/** How often a failing run is repeated to find out which of its faults matter, and how many events that may take. */
const repeatsAtMost = 80;
const repeatEventsAtMost = 20_000_000;

/** Reads `A..B` or `A`. Raises AppError invalid that names the field. */
export function parseSeeds(text: string): { first: number; last: number } {
  const match = /^(\d{1,9})(?:\.\.(\d{1,9}))?$/.exec(text);
  const first = Number(match?.[1]);
  const last = Number(match?.[2] ?? match?.[1]);
  if (match === null || last < first) throw new AppError('invalid', `seeds: ${text} is not like 1..1000`);
  return { first, last };
}

/** Leaves out one fault after the other as long as the run still breaks the same invariant. */
export function minimize(options: RunOptions, failed: RunResult): RunResult {
  let best = failed;
  let without = new Set(options.without);
  let repeats = 0;
  let events = 0;
  for (let size = Math.ceil(failed.faults / 2); size >= 1; size = size === 1 ? 0 : Math.ceil(size / 2)) {
    for (let first = 1; first <= failed.faults; first += size) {
      if (repeats >= repeatsAtMost || events >= repeatEventsAtMost || options.isStopped?.() === true) return best;
      const tried = new Set(without);
      for (let number = first; number < first + size; number += 1) tried.add(number);
      if (tried.size === without.size) continue;
      const result = runSeed({ ...options, hours: Math.min(options.hours, best.hours + 0.1), without: tried });
      repeats += 1;
      events += result.events;
      if (result.violation?.invariant !== best.violation?.invariant) continue;
      best = result;
      without = tried;
    }
  }
  return best;
}

/** What a failing seed did, in plain words. */
export function describeFailure(result: RunResult, hoursPerSeed: number): string {
  const { violation } = result;
  if (violation === null) return '';
  const meaning = invariants.find((entry) => entry.name === violation.invariant)?.text ?? '';
  const lastRound = result.story.findLastIndex((line) => line.text.startsWith('ROUND'));
  const from = Math.max(lastRound, result.story.length - toldLines, 0);
  const lines = result.story.slice(from).map((line) => `  ${formatSeconds(line.atMs)}  ${line.text}`);
  return [
    `seed ${result.seed} breaks ${violation.invariant} (${meaning})`,
    `  ${formatSeconds(violation.atMs)}  ${violation.text}`,
    'how it came to that:',
    ...lines,
    `again: holdfast simulate --seeds ${result.seed}..${result.seed} --hours ${hoursPerSeed}`,
    '',
  ].join('\n');
}

function formatSeconds(ms: number): string {
  return `${(ms / 1_000).toFixed(3).padStart(10)} s`;
}
