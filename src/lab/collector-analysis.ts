import type { WitnessRecord } from '#lab/collector-record.ts';

/**
 * What the datagrams of probe guests prove.
 *
 *   records ──▶ runs (one boot of one generation) ──▶ gaps inside a run, takeovers between runs, double runs
 *
 * A run is current from its first datagram until the first datagram of a run that was never seen before and whose generation is not
 * older. Whatever else speaks is a double run: an older run that goes on, or a run of an older generation that appears.
 */

/** A frame already on its way when its sender died may be read after its successor's first one: at most one, and this close behind. */
const inFlightMs = 5;
/** A silence is a gap when it is longer than this; the usual interval is 100 ms and a busy machine doubles it. */
const gapMs = 500;

export type WitnessGap = {
  fromAtMs: number;
  silentMs: number;
  counterBefore: number;
  counterAfter: number;
  uptimeBeforeMs: number;
  uptimeAfterMs: number;
  /** The same boot went on: its clock rose and its counter did not fall. A guest that was frozen and thawed is intact. */
  memoryIntact: boolean;
};

export type WitnessRun = {
  generation: number;
  bootRandom: string;
  from: string;
  datagrams: number;
  firstAtMs: number;
  lastAtMs: number;
  firstCounter: number;
  lastCounter: number;
  recoveredCounter: number;
  consistent: boolean | null;
  detail: string;
  ioErrors: number;
  maxWriteMs: number;
  longestSilenceMs: number;
  gaps: WitnessGap[];
};

export type WitnessTakeover = {
  fromGeneration: number;
  toGeneration: number;
  /** From the last datagram of the older run to the first of the newer one. */
  silentMs: number;
  /** Numbers durable on the old disks and sent, but not on the disks the newer run began with. */
  lostCounters: number;
  /** How far back in time the newer run's disks were: between the last datagram it still had and the old run's last one. */
  lostMs: number;
};

export type DoubleRun = {
  generation: number;
  bootRandom: string;
  besideGeneration: number;
  besideBootRandom: string;
  datagrams: number;
  /** From the other run's first datagram until this run's last one. */
  overlapMs: number;
};

export type WitnessReport = {
  vmid: number;
  datagrams: number;
  runs: WitnessRun[];
  takeovers: WitnessTakeover[];
  doubleRuns: DoubleRun[];
  /** Longest time the collector itself was kept from looking: figures are not finer than this. */
  collectorLateMs: number;
};

type RunState = { run: WitnessRun; firstMonoMs: number; last: WitnessRecord; sent: { counter: number; monoMs: number }[] };
type Overlap = { run: RunState; beside: RunState; datagrams: number; lastMonoMs: number; neverCurrent: boolean };

export type WitnessState = {
  vmid: number;
  runs: Map<string, RunState>;
  current: RunState | null;
  takeovers: WitnessTakeover[];
  overlaps: Map<string, Overlap>;
  datagrams: number;
  lateMs: number;
};

/** Says what the records prove, one report a guest, in order of guest number. Records are in order of arrival. */
export function analyseWitness(records: Iterable<WitnessRecord>): WitnessReport[] {
  const states = new Map<number, WitnessState>();
  for (const record of records) {
    const state = states.get(record.vmid) ?? startWitness(record.vmid);
    states.set(record.vmid, state);
    addToWitness(state, record);
  }
  return [...states.values()].map(reportWitness).toSorted((a, b) => a.vmid - b.vmid);
}

/** The state of a guest of which nothing was heard yet. */
export function startWitness(vmid: number): WitnessState {
  return { vmid, runs: new Map(), current: null, takeovers: [], overlaps: new Map(), datagrams: 0, lateMs: 0 };
}

/** Takes one more datagram of this guest into account. */
export function addToWitness(state: WitnessState, record: WitnessRecord): void {
  state.datagrams += 1;
  state.lateMs = Math.max(state.lateMs, record.lateMs);
  const key = `${record.generation}/${record.bootRandom}`;
  const known = state.runs.get(key);
  const run = known === undefined ? startRun(record) : continueRun(known, record);
  state.runs.set(key, run);
  if (run === state.current) return;
  const current = state.current;
  if (current === null || (known === undefined && record.generation >= current.run.generation)) {
    if (current !== null) state.takeovers.push(takeOver(current, run));
    state.current = run;
    return;
  }
  const overlap = state.overlaps.get(key) ?? {
    run,
    beside: current,
    datagrams: 0,
    lastMonoMs: 0,
    neverCurrent: known === undefined,
  };
  overlap.datagrams += 1;
  overlap.lastMonoMs = record.arrivedMonoMs;
  state.overlaps.set(key, overlap);
}

/** What is proven so far. */
export function reportWitness(state: WitnessState): WitnessReport {
  const { vmid, datagrams, takeovers, lateMs } = state;
  const runs = [...state.runs.values()].map(({ run }) => run);
  const doubleRuns = [...state.overlaps.values()].filter(isDoubleRun).map(describeOverlap);
  return { vmid, datagrams, runs, takeovers, doubleRuns, collectorLateMs: lateMs };
}

function isDoubleRun(overlap: Overlap): boolean {
  if (overlap.neverCurrent || overlap.datagrams > 1) return true;
  return overlap.lastMonoMs - overlap.beside.firstMonoMs > inFlightMs;
}

function describeOverlap({ run, beside, datagrams, lastMonoMs }: Overlap): DoubleRun {
  return {
    generation: run.run.generation,
    bootRandom: run.run.bootRandom,
    besideGeneration: beside.run.generation,
    besideBootRandom: beside.run.bootRandom,
    datagrams,
    overlapMs: round(lastMonoMs - beside.firstMonoMs),
  };
}

function startRun(record: WitnessRecord): RunState {
  const run: WitnessRun = {
    generation: record.generation,
    bootRandom: record.bootRandom,
    from: record.from,
    datagrams: 1,
    firstAtMs: record.arrivedAtMs,
    lastAtMs: record.arrivedAtMs,
    firstCounter: record.counter,
    lastCounter: record.counter,
    recoveredCounter: record.recoveredCounter,
    consistent: record.consistent,
    detail: record.detail,
    ioErrors: record.ioErrors,
    maxWriteMs: record.maxWriteMs,
    longestSilenceMs: 0,
    gaps: [],
  };
  return {
    run,
    firstMonoMs: record.arrivedMonoMs,
    last: record,
    sent: [{ counter: record.counter, monoMs: record.arrivedMonoMs }],
  };
}

function continueRun(state: RunState, record: WitnessRecord): RunState {
  const { run, last } = state;
  const silentMs = record.arrivedMonoMs - last.arrivedMonoMs;
  if (silentMs > gapMs) run.gaps.push(describeGap(last, record, silentMs));
  run.longestSilenceMs = Math.max(run.longestSilenceMs, round(silentMs));
  run.datagrams += 1;
  run.lastAtMs = record.arrivedAtMs;
  run.lastCounter = Math.max(run.lastCounter, record.counter);
  run.consistent = record.consistent ?? run.consistent;
  run.detail = record.detail;
  run.ioErrors = Math.max(run.ioErrors, record.ioErrors);
  run.maxWriteMs = Math.max(run.maxWriteMs, record.maxWriteMs);
  state.last = record;
  if (record.counter > last.counter) state.sent.push({ counter: record.counter, monoMs: record.arrivedMonoMs });
  return state;
}

function describeGap(before: WitnessRecord, after: WitnessRecord, silentMs: number): WitnessGap {
  return {
    fromAtMs: before.arrivedAtMs,
    silentMs: round(silentMs),
    counterBefore: before.counter,
    counterAfter: after.counter,
    uptimeBeforeMs: before.uptimeMs,
    uptimeAfterMs: after.uptimeMs,
    memoryIntact: after.uptimeMs > before.uptimeMs && after.counter >= before.counter,
  };
}

function takeOver(older: RunState, newer: RunState): WitnessTakeover {
  const recovered = newer.run.recoveredCounter;
  const kept = older.sent.findLast(({ counter }) => counter <= recovered);
  const lastMonoMs = older.last.arrivedMonoMs;
  const lostCounters = Math.max(0, older.run.lastCounter - recovered);
  return {
    fromGeneration: older.run.generation,
    toGeneration: newer.run.generation,
    silentMs: round(newer.firstMonoMs - lastMonoMs),
    lostCounters,
    lostMs: lostCounters === 0 ? 0 : round(lastMonoMs - (kept?.monoMs ?? older.firstMonoMs)),
  };
}

function round(ms: number): number {
  return Math.round(ms * 10) / 10;
}
