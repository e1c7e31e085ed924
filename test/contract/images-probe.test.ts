import assert from 'node:assert/strict';
import { closeSync, copyFileSync, openSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import test, { type TestContext } from 'node:test';
import { startCollector, type Collector } from '#lab/collector.ts';
import type { WitnessRun } from '#lab/collector-analysis.ts';
import { checkProbeDisks, probeSlot, probeSlots } from '#lab/images/probe-disks.ts';
import { ensureProbe, probeAppend, probeDisks } from '#lab/images/probe.ts';
import { bootGuest, makeEmptyDisk, temporaryFolder, until, userNetworkGuest, userNetworkHost } from './images-qemu.ts';

const bootMs = 60_000;
const vmid = 4_711;

type Bench = { directory: string; disks: [string, string]; collector: Collector };

async function boot(bench: Bench, generation: number) {
  const image = await ensureProbe();
  const append = probeAppend({
    address: userNetworkGuest,
    collector: `${userNetworkHost}:${bench.collector.port}`,
    intervalMs: 20,
  });
  const { directory, disks } = bench;
  return bootGuest({ ...image, directory, disks, append: `${append} holdfast.vmid=${vmid} holdfast.generation=${generation}` });
}

function runOf(bench: Bench, generation: number): WitnessRun | null {
  const report = bench.collector.report().find((guest) => guest.vmid === vmid);
  return report?.runs.find((run) => run.generation === generation) ?? null;
}

/** Waits until the guest has looked at its disks and its counter has reached `counter`. */
function waitForRun(bench: Bench, generation: number, counter: number): Promise<WitnessRun> {
  return until(`generation ${generation} reaches ${counter}`, bootMs, () => {
    const run = runOf(bench, generation);
    return run !== null && run.consistent !== null && run.lastCounter >= counter ? run : null;
  });
}

async function openBench(directory: string): Promise<Bench> {
  const disks: [string, string] = [
    makeEmptyDisk(join(directory, 'disk0.raw'), probeDisks[0].sizeBytes),
    makeEmptyDisk(join(directory, 'disk1.raw'), probeDisks[1].sizeBytes),
  ];
  return { directory, disks, collector: await startCollector({ bind: '127.0.0.1:0', file: join(directory, 'witness.jsonl') }) };
}

test('images are built once: the second look is quick', async (t) => {
  await ensureProbe({ progress: (message) => t.diagnostic(message) });
  const beganMs = performance.now();
  await ensureProbe();
  const tookMs = performance.now() - beganMs;
  assert.ok(tookMs < 100, `took ${tookMs} ms`);
});

test('a probe guest killed in mid-write leaves consistent disks and goes on from them', { timeout: 4 * bootMs }, async (t) => {
  using folder = temporaryFolder('probe');
  const bench = await openBench(folder.path);
  t.after(() => bench.collector.close());
  const last = await writeAndDie(t, bench);
  await goesOn(t, bench, last);
  await seesTampering(t, bench);
  const [report] = bench.collector.report();
  assert.deepEqual(report?.doubleRuns, []);
  assert.deepEqual(
    report?.takeovers.map(({ fromGeneration, toGeneration, lostCounters }) => [fromGeneration, toGeneration, lostCounters]),
    [
      [1, 2, 0],
      [2, 3, 0],
    ],
  );
});

async function writeAndDie(t: TestContext, bench: Bench): Promise<number> {
  await using guest = await boot(bench, 1);
  const startedMs = await guest.waitForConsole('probe started', bootMs);
  t.diagnostic(`probe writes ${startedMs} ms after QEMU started`);
  const run = await waitForRun(bench, 1, 100);
  await guest.kill();
  assert.deepEqual([run.consistent, run.recoveredCounter, run.ioErrors], [true, 0, 0]);
  const sent = runOf(bench, 1)?.lastCounter ?? 0;
  const verdict = checkProbeDisks(...bench.disks);
  assert.ok(verdict.consistent, verdict.detail);
  assert.equal(verdict.generation, 1);
  assert.ok(verdict.counter >= sent && verdict.counter <= sent + 5, `disks say ${verdict.counter}, the guest had said ${sent}`);
  return verdict.counter;
}

async function goesOn(t: TestContext, bench: Bench, last: number): Promise<void> {
  await using guest = await boot(bench, 2);
  const run = await waitForRun(bench, 2, last + 50);
  assert.deepEqual([run.consistent, run.recoveredCounter], [true, last]);
  const beganMs = performance.now();
  await guest.powerButton(bootMs);
  t.diagnostic(`power button: off after ${Math.round(performance.now() - beganMs)} ms`);
  assert.match(guest.console(), /holdfast-guest: power button/);
  assert.equal(checkProbeDisks(...bench.disks).consistent, true);
}

/** A data disk that is not the counter disk's contemporary must be seen, by the host's reading and by the guest's own. */
async function seesTampering(t: TestContext, bench: Bench): Promise<void> {
  const { counter } = checkProbeDisks(...bench.disks);
  const older = join(bench.directory, 'older.raw');
  copyFileSync(bench.disks[0], older);
  const slot = probeSlot(counter - 20, probeSlots(probeDisks[0].sizeBytes));
  const file = openSync(bench.disks[0], 'r+');
  writeSync(file, Buffer.alloc(512), 0, 512, slot * 4096 + 1024);
  closeSync(file);
  const verdict = checkProbeDisks(...bench.disks);
  assert.equal(verdict.consistent, false);
  t.diagnostic(verdict.detail);
  await using _guest = await boot(bench, 3);
  const run = await waitForRun(bench, 3, counter);
  assert.equal(run.consistent, false);
  assert.match(run.detail, new RegExp(`slot ${slot} `));
  const skewed = checkProbeDisks(older, bench.disks[1]);
  await until('the counter passes the older data disk', bootMs, () =>
    checkProbeDisks(older, bench.disks[1]).consistent ? null : skewed,
  );
}
