import type { LeftBehind } from '#core/replica/records.ts';
import type { WitnessReport } from '#lab/collector-analysis.ts';
import type { DbLoadReport } from '#lab/db-load.ts';
import type { Timeline, TimelineEntry } from '#lab/drills/timeline.ts';

/** The promise of the standard profile: QEMU runs on a survivor this long after the plug at most. */
const startPromiseMs = 20_000;

export type MainJobObservations = {
  intervalMs: number;
  timeline: Timeline;
  plugAtMs: number;
  promoted: { node: string; pointAtMs: number; cycleMs: number };
  rows: DbLoadReport;
  witness: WitnessReport[];
  doubleSpans: number;
  samplerGapMs: number;
  leftBehind: LeftBehind | null;
};

/** What `--json` writes. Every figure is a difference of two observed times or a count; none comes from configuration. */
export type MainJobResult = {
  rtoToStartMs: number | null;
  rtoToServiceMs: number | null;
  dataAgeMs: number;
  rowsCommitted: number;
  rowsLost: number;
  doubleRun: boolean;
  timeline: TimelineEntry[];
  lostSpanMs: number;
  leftBehind: LeftBehind | null;
  witness: WitnessReport[];
  samplerGapMs: number;
  brokenPromises: string[];
};

/** Compares what was observed with what is promised. */
export function judgeMainJob(seen: MainJobObservations): MainJobResult {
  const since = (key: string) => {
    const atMs = seen.timeline.at(key);
    return atMs === null ? null : Math.round(atMs - seen.plugAtMs);
  };
  const result: MainJobResult = {
    rtoToStartMs: since('qemu'),
    rtoToServiceMs: since('answering'),
    dataAgeMs: Math.round(seen.plugAtMs - seen.promoted.pointAtMs),
    rowsCommitted: seen.rows.rowsCommitted,
    rowsLost: seen.rows.rowsLost,
    doubleRun: seen.doubleSpans > 0 || seen.witness.some((guest) => guest.doubleRuns.length > 0),
    timeline: seen.timeline.entries(),
    lostSpanMs: seen.rows.lostSpanMs,
    leftBehind: seen.leftBehind,
    witness: seen.witness,
    samplerGapMs: seen.samplerGapMs,
    brokenPromises: [],
  };
  result.brokenPromises = listBroken(result, seen);
  return result;
}

function listBroken(result: MainJobResult, seen: MainJobObservations): string[] {
  const broken: string[] = [];
  const must = (holds: boolean, text: string) => {
    if (!holds) broken.push(text);
  };
  must(!result.doubleRun, 'a guest ran on two nodes at one instant');
  must(
    result.rtoToStartMs !== null && result.rtoToStartMs <= startPromiseMs,
    `QEMU started ${result.rtoToStartMs} ms after the plug; promised: ${startPromiseMs} ms`,
  );
  must(result.rtoToServiceMs !== null, 'the database never answered again');
  // A point may be in flight when the plug is pulled: its age is at most one interval and one cycle.
  const oldestMs = seen.intervalMs + seen.promoted.cycleMs;
  must(result.dataAgeMs <= oldestMs, `the copy was ${result.dataAgeMs} ms old; promised: ${oldestMs} ms (interval and cycle)`);
  must(
    result.lostSpanMs <= result.dataAgeMs,
    `rows of the last ${result.lostSpanMs} ms are missing, but the copy was only ${result.dataAgeMs} ms old`,
  );
  must(seen.rows.rowsCorrupt === 0, `${seen.rows.rowsCorrupt} rows came back with another content`);
  for (const guest of seen.witness) {
    const last = guest.runs.at(-1);
    must(
      last?.consistent === true,
      `the witness's disks were not one consistent point: ${last?.detail ?? 'it never spoke again'}`,
    );
    must(last?.ioErrors === 0, `the witness saw ${last?.ioErrors} I/O errors`);
  }
  must(seen.witness.length > 0, 'the witness was never heard');
  must(seen.leftBehind !== null, 'the returned node kept no left-behind tail');
  return broken;
}

export function printMainJob(result: MainJobResult, say: (line: string) => void): void {
  const seconds = (ms: number | null) => (ms === null ? 'never' : `${(ms / 1000).toFixed(2)} s`);
  say('');
  say('Measured:');
  say(`  plug to QEMU started          ${seconds(result.rtoToStartMs)}`);
  say(`  plug to database answering    ${seconds(result.rtoToServiceMs)}`);
  say(`  age of the data at the loss   ${seconds(result.dataAgeMs)}`);
  say(
    `  rows committed / lost         ${result.rowsCommitted} / ${result.rowsLost} (acknowledged in the last ${seconds(result.lostSpanMs)})`,
  );
  say(
    `  ran on two nodes at once      ${result.doubleRun ? 'YES' : 'no'} (looked every 20 ms; longest gap ${result.samplerGapMs} ms)`,
  );
  if (result.leftBehind !== null) {
    say(`  kept on the old node          ${result.leftBehind.name}, ${result.leftBehind.sizeBytes ?? '?'} bytes that differ`);
  }
  for (const promise of result.brokenPromises) say(`  BROKEN: ${promise}`);
  if (result.brokenPromises.length === 0) say('  every promise held');
}
