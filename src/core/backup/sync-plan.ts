/** A snapshot as a sync sees it. */
export type SyncSnapshot = { atSeconds: number; isFinished: boolean };
export type SyncPlan = { transfer: number[]; vanished: number[]; because: string };

/**
 * Which snapshots of one group go from `source` to `target`, oldest first, by their times: finished ones that are newer than the newest
 * finished one at the target, of those at most the last `transferLast`. `vanished`: what the target has and the source has no more.
 */
export function planSync(
  source: readonly SyncSnapshot[],
  target: readonly SyncSnapshot[],
  options: { transferLast: number | null },
): SyncPlan {
  const newest = Math.max(0, ...target.filter(({ isFinished }) => isFinished).map(({ atSeconds }) => atSeconds));
  const finished = source.filter(({ isFinished }) => isFinished).map(({ atSeconds }) => atSeconds);
  const newer = finished.filter((atSeconds) => atSeconds > newest).toSorted((a, b) => a - b);
  const transfer = options.transferLast === null ? newer : newer.slice(Math.max(0, newer.length - options.transferLast));
  const there = new Set(source.map(({ atSeconds }) => atSeconds));
  const vanished = target.map(({ atSeconds }) => atSeconds).filter((atSeconds) => !there.has(atSeconds));
  const passed = finished.length - transfer.length;
  return {
    transfer,
    vanished,
    because: `${transfer.length} new, ${passed} there already, older, or beyond the last ones wanted`,
  };
}
