import { execFileSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { closeSync, fsyncSync, openSync, writeSync } from 'node:fs';
import { parseArgs } from 'node:util';
import { makeStandInGuest } from '../test/contract/checker/probe-writer.ts';
import { testPools, withoutPool, zfs } from '../test/contract/checker/zfs-bench.ts';
import { buildZfsRig } from '../test/contract/checker/zfs-rig.ts';

/**
 * One replication cycle between two pools against the bare pipeline of the same change between the same pools:
 * `HOLDFAST_TEST_POOL=tank,bank node tools/bench-zfs.ts [--disk 256] [--mib 64] [--runs 3]`.
 */
const { values } = parseArgs({
  options: {
    disk: { type: 'string', default: '256' },
    mib: { type: 'string', default: '64' },
    runs: { type: 'string', default: '3' },
  },
});
if (testPools === undefined) throw new Error(withoutPool);
const sizeBytes = Number(values.disk) << 20;
const changedBytes = Number(values.mib) << 20;
const pieceBytes = 65_536;
const vmid = 100;
const goal = 1.2;

function median(list: number[]): number {
  return list.toSorted((a, b) => a - b)[Math.floor(list.length / 2)] ?? Number.NaN;
}

/** Writes `changedBytes` of random data in pieces all over a disk, durably. */
function change(device: string): void {
  const file = openSync(device, 'r+');
  const pieces = sizeBytes / pieceBytes;
  const start = Math.floor(Math.random() * pieces);
  for (let index = 0; index < changedBytes / pieceBytes; index += 1) {
    const at = ((start + index * 7919) % pieces) * pieceBytes;
    writeSync(file, randomBytes(pieceBytes), 0, pieceBytes, at);
  }
  fsyncSync(file);
  closeSync(file);
}

console.log(`A volume of ${values.disk} MiB; each run changes ${values.mib} MiB in pieces of 64 KiB at random places, with random data.
Cycle: syncNow through two real relay processes (TLS): state, snapshot, stream, hold, the committed manifest, bookmark, pruning.
Bare: zfs snapshot, then zfs send -Lec -i | zfs receive -s -u of another volume with the same change, between the same pools.
Both are measured without a change as well: the difference is what a cycle costs whatever it moves.`);

await using rig = await buildZfsRig({ n1: testPools[0], n2: testPools[1] });
const [n1, n2] = [rig.node('n1'), rig.node('n2')];
await n1.storage.create(vmid, 1, [{ name: 'disk0', sizeBytes }]);
rig.record.home.set(vmid, { node: 'n1', generation: 1 });
const [chain] = await n1.storage.openPrimary(vmid, 1);
if (chain === undefined) throw new Error('the guest has no disk');
const own = (chain.blockdev['file'] as { filename: string }).filename;
const guest = makeStandInGuest({ vmid, generation: 1 }, { end: () => Promise.resolve(), exited: new Promise(() => {}) });
n1.replication.startGuest(guest);
await n1.replication.syncNow(vmid);

const [from, to] = [`${n1.root}/bare`, `${n2.root}/bare`];
zfs('create', '-s', '-V', String(sizeBytes), '-o', 'volblocksize=16384', from);
zfs('snapshot', `${from}@0`);
execFileSync('sh', ['-c', `zfs send -Lec ${from}@0 | zfs receive -s -u -o readonly=on -o volmode=none ${to}`]);
let point = 0;

async function timeCycle(): Promise<number> {
  const startMs = performance.now();
  await n1.replication.syncNow(vmid);
  return Math.round(performance.now() - startMs);
}

function timeBare(): number {
  const startMs = performance.now();
  zfs('snapshot', `${from}@${point + 1}`);
  execFileSync('sh', ['-c', `zfs send -Lec -i @${point} ${from}@${point + 1} | zfs receive -s -u ${to}`]);
  const tookMs = Math.round(performance.now() - startMs);
  zfs('destroy', `${from}@${point}`);
  point += 1;
  return tookMs;
}

const runs: { cycle: number; bare: number; emptyCycle: number; emptyBare: number }[] = [];
for (let run = 1; run <= Number(values.runs); run += 1) {
  change(own);
  const cycle = await timeCycle();
  change(`/dev/zvol/${from}`);
  const bare = timeBare();
  const taken = { cycle, bare, emptyCycle: await timeCycle(), emptyBare: timeBare() };
  runs.push(taken);
  console.log(
    `run ${run}: cycle ${taken.cycle} ms, bare ${taken.bare} ms; without a change: cycle ${taken.emptyCycle} ms, bare ${taken.emptyBare} ms`,
  );
}
const [cycle, bare, emptyCycle, emptyBare] = (['cycle', 'bare', 'emptyCycle', 'emptyBare'] as const).map((name) =>
  median(runs.map((run) => run[name])),
);
const constant = Math.max(0, (emptyCycle ?? 0) - (emptyBare ?? 0));
const ratio = ((cycle ?? 0) - constant) / (bare ?? 1);
console.log(
  `median: cycle ${cycle} ms, bare ${bare} ms, constant ${constant} ms: ${ratio.toFixed(2)} times the bare pipeline and the constant (goal: at most ${goal})`,
);
await n1.replication.stopGuest(vmid);
