import { execFileSync } from 'node:child_process';
import { statSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { probeDisks } from '#lab/images/probe.ts';
import { buildRig } from '../test/contract/checker/node-rig.ts';
import { startProbeGuest } from '../test/contract/checker/probe-guest.ts';

/**
 * One replication cycle against rsync of the same image with the same change, both on this machine over loopback:
 * `node tools/bench-replication.ts [--mib 1024] [--percent 1] [--runs 3]`.
 */
const { values } = parseArgs({
  options: {
    mib: { type: 'string', default: '1024' },
    percent: { type: 'string', default: '1' },
    runs: { type: 'string', default: '3' },
  },
});
const sizeBytes = Number(values.mib) << 20;
const chunks = sizeBytes / 65_536;
const changed = Math.max(1, Math.round((chunks * Number(values.percent)) / 100));
const vmid = 100;

function time(work: () => void): number {
  const startMs = performance.now();
  work();
  return Math.round(performance.now() - startMs);
}

function median(list: number[]): number {
  return list.toSorted((a, b) => a - b)[Math.floor(list.length / 2)] ?? Number.NaN;
}

console.log(`One disk of ${values.mib} MiB of random data; each run changes ${changed} random chunks of 64 KiB (${values.percent} %).
Cycle: syncNow on a QEMU process whose CPUs are stopped, through two real relay processes (TLS), to fsync and the committed manifest.
rsync: --inplace --no-whole-file --ignore-times from the same raw file to a copy that lacks the same change, then sync of that copy. Page cache warm for both.`);

await using rig = await buildRig(['n1', 'n2']);
const [n1] = [rig.node('n1')];
const image = join(rig.path, 'image.raw');
execFileSync('sh', ['-c', `head -c ${sizeBytes} /dev/urandom > ${image}`]);
await n1.storage.create(vmid, 1, [{ name: 'disk0', sizeBytes, importFile: image }, { ...probeDisks[1] }]);
rig.record.home.set(vmid, { node: 'n1', generation: 1 });
const disks = await n1.storage.openPrimary(vmid, 1);
await using guest = await startProbeGuest({ vmid, generation: 1, run: n1.run, disks, intervalMs: 1000 });
await n1.replication.armBitmaps(guest);
const firstMs = performance.now();
n1.replication.startGuest(guest);
await n1.replication.syncNow(vmid);
console.log(`first copy by compare: ${Math.round(performance.now() - firstMs)} ms`);

const raw = join(n1.directory, 'dir/100/disk0-base.raw');
const cycles: number[] = [];
const rsyncs: number[] = [];
for (let run = 1; run <= Number(values.runs); run += 1) {
  const startRandom = Math.floor(Math.random() * chunks);
  for (let index = 0; index < changed; index += 1) {
    const chunk = (startRandom + index * 7919) % chunks;
    const command = `qemu-io -d disk0/virtio-backend "write -P ${(run * 31 + index) % 255} ${chunk * 65_536} 64k"`;
    const said = await guest.qmp.execute<string>('human-monitor-command', { 'command-line': command });
    if (/error|fail|invalid/i.test(said)) throw new Error(said);
  }
  const startMs = performance.now();
  const [line] = await n1.replication.syncNow(vmid);
  const cycleMs = Math.round(performance.now() - startMs);
  const rsyncMs = time(() => {
    execFileSync('rsync', ['--inplace', '--no-whole-file', '--ignore-times', raw, image]);
    execFileSync('sync', [image]);
  });
  cycles.push(cycleMs);
  rsyncs.push(rsyncMs);
  console.log(`run ${run}: cycle ${cycleMs} ms, rsync ${rsyncMs} ms, ratio ${(rsyncMs / cycleMs).toFixed(1)} | ${line}`);
}
console.log(`median: cycle ${median(cycles)} ms, rsync ${median(rsyncs)} ms, rsync takes ${(median(rsyncs) / median(cycles)).toFixed(1)} times as long
image ${statSync(raw).size} bytes; ${Number(values.runs)} runs; 2 nodes on one machine share its cores`);
await n1.replication.stopGuest(vmid);
