import assert from 'node:assert/strict';
import test from 'node:test';
import { analyseWitness, type WitnessReport } from '#lab/collector-analysis.ts';
import { parseProbeDatagram, type WitnessRecord } from '#lab/collector-record.ts';

type Says = Partial<WitnessRecord> & { arrivedMonoMs: number };

function record(says: Says): WitnessRecord {
  return {
    vmid: 100,
    generation: 1,
    counter: says.arrivedMonoMs / 100,
    bootRandom: 'aa',
    uptimeMs: 1_000 + says.arrivedMonoMs,
    wallMs: 0,
    maxWriteMs: 3,
    writingMs: 0,
    ioErrors: 0,
    recoveredCounter: 0,
    consistent: true,
    detail: '',
    arrivedAtMs: 1_700_000_000_000 + says.arrivedMonoMs,
    lateMs: 0,
    from: '10.77.0.100',
    ...says,
  };
}

/** One datagram each 100 ms from `fromMs` up to and including `toMs`. */
function everyTick(fromMs: number, toMs: number, says: Partial<WitnessRecord> = {}): WitnessRecord[] {
  const records: WitnessRecord[] = [];
  for (let arrivedMonoMs = fromMs; arrivedMonoMs <= toMs; arrivedMonoMs += 100) records.push(record({ ...says, arrivedMonoMs }));
  return records;
}

function reportOf(records: WitnessRecord[]): WitnessReport {
  const [report, ...others] = analyseWitness(records);
  assert.ok(report !== undefined && others.length === 0);
  return report;
}

test('a guest that just runs: one run, no gap, no double run', () => {
  const report = reportOf(everyTick(0, 5_000));
  assert.equal(report.datagrams, 51);
  assert.equal(report.runs.length, 1);
  assert.deepEqual(report.runs[0]?.gaps, []);
  assert.deepEqual([report.takeovers, report.doubleRuns], [[], []]);
});

test('a takeover tells the silence, the numbers lost and how old the new disks were', () => {
  const before = everyTick(0, 3_000);
  const after = everyTick(15_000, 16_000, { generation: 2, bootRandom: 'bb', recoveredCounter: 25, uptimeMs: 2_000 });
  const report = reportOf([...before, ...after]);
  assert.deepEqual(report.takeovers, [{ fromGeneration: 1, toGeneration: 2, silentMs: 12_000, lostCounters: 5, lostMs: 500 }]);
  assert.deepEqual(report.doubleRuns, []);
});

test('nothing lost when the new disks hold more than was ever sent', () => {
  const after = everyTick(9_000, 9_500, { generation: 2, bootRandom: 'bb', recoveredCounter: 31 });
  const [takeover] = reportOf([...everyTick(0, 3_000), ...after]).takeovers;
  assert.deepEqual([takeover?.lostCounters, takeover?.lostMs], [0, 0]);
});

test('an older generation that goes on beside the newer one is a double run', () => {
  const older = everyTick(0, 10_000);
  const newer = everyTick(9_050, 12_050, { generation: 2, bootRandom: 'bb' });
  const mixed = [...older, ...newer].toSorted((a, b) => a.arrivedMonoMs - b.arrivedMonoMs);
  const [double, ...others] = reportOf(mixed).doubleRuns;
  assert.equal(others.length, 0);
  assert.deepEqual([double?.generation, double?.besideGeneration, double?.datagrams, double?.overlapMs], [1, 2, 10, 950]);
});

test('one frame in flight at the takeover is no double run; the same frame 6 ms later is', () => {
  const newer = everyTick(9_000, 9_500, { generation: 2, bootRandom: 'bb' });
  const straggler = (arrivedMonoMs: number) => {
    const late = record({ arrivedMonoMs, counter: 81 });
    return reportOf([...everyTick(0, 8_000), ...newer, late].toSorted((a, b) => a.arrivedMonoMs - b.arrivedMonoMs)).doubleRuns
      .length;
  };
  assert.equal(straggler(9_004), 0);
  assert.equal(straggler(9_006), 1);
});

test('two stragglers are a double run even when a late collector reads them at once', () => {
  const newer = record({ arrivedMonoMs: 9_000, generation: 2, bootRandom: 'bb' });
  const stragglers = [record({ arrivedMonoMs: 9_001, counter: 81 }), record({ arrivedMonoMs: 9_002, counter: 82, lateMs: 800 })];
  const report = reportOf([...everyTick(0, 8_000), newer, ...stragglers]);
  assert.equal(report.doubleRuns.length, 1);
  assert.equal(report.collectorLateMs, 800);
});

test('the same generation booted twice at once is a double run', () => {
  const first = everyTick(0, 5_000);
  const second = everyTick(3_050, 5_050, { bootRandom: 'bb' });
  const report = reportOf([...first, ...second].toSorted((a, b) => a.arrivedMonoMs - b.arrivedMonoMs));
  assert.deepEqual(
    report.doubleRuns.map(({ bootRandom, besideBootRandom }) => [bootRandom, besideBootRandom]),
    [['aa', 'bb']],
  );
});

test('a run of an older generation that first appears after a newer one is a double run at once', () => {
  const report = reportOf([
    ...everyTick(0, 1_000, { generation: 2 }),
    record({ arrivedMonoMs: 1_001, generation: 1, bootRandom: 'bb' }),
  ]);
  assert.equal(report.doubleRuns.length, 1);
});

test('a frozen guest that thaws keeps its memory: same boot, clock and counter go on', () => {
  const after = everyTick(23_000, 24_000, { counter: 31 });
  const report = reportOf([...everyTick(0, 3_000), ...after]);
  assert.deepEqual(report.runs[0]?.gaps, [
    {
      fromAtMs: 1_700_000_003_000,
      silentMs: 20_000,
      counterBefore: 30,
      counterAfter: 31,
      uptimeBeforeMs: 4_000,
      uptimeAfterMs: 24_000,
      memoryIntact: true,
    },
  ]);
});

test('a guest whose clock fell across a gap did not keep its memory', () => {
  const report = reportOf([...everyTick(0, 3_000), record({ arrivedMonoMs: 23_000, uptimeMs: 1_500, counter: 31 })]);
  assert.equal(report.runs[0]?.gaps[0]?.memoryIntact, false);
});

test('guests are reported apart', () => {
  const reports = analyseWitness([...everyTick(0, 200, { vmid: 102 }), ...everyTick(0, 100, { vmid: 101 })]);
  assert.deepEqual(
    reports.map(({ vmid, datagrams }) => [vmid, datagrams]),
    [
      [101, 2],
      [102, 3],
    ],
  );
});

test('what is not a datagram of a probe guest is refused', () => {
  const { arrivedAtMs: _at, arrivedMonoMs: _mono, lateMs: _late, from: _from, ...datagram } = record({ arrivedMonoMs: 0 });
  assert.deepEqual(parseProbeDatagram(JSON.stringify(datagram)), datagram);
  assert.equal(parseProbeDatagram('{"vmid":100'), null);
  assert.equal(parseProbeDatagram(JSON.stringify({ ...datagram, counter: 'many' })), null);
});
