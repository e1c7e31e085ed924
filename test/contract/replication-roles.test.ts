import assert from 'node:assert/strict';
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { isAppError } from '#base/error.ts';
import { checkProbeDisks } from '#lab/images/probe-disks.ts';
import { buildRig, checkReplica, createProbeDisks, runProbeOn } from './checker/node-rig.ts';
import { until } from './checker/until.ts';

const vmid = 100;
const chunk = 65_536;

test('another node takes over; the former home keeps its tail, measured, and is brought up by what differs', async () => {
  await using rig = await buildRig(['n1', 'n2']);
  const [n1, n2] = [rig.node('n1'), rig.node('n2')];
  await createProbeDisks(rig, 'n1', vmid);
  {
    await using guest = await runProbeOn(rig, 'n1', { vmid, generation: 1 });
    await guest.reach(100);
    await n1.replication.syncNow(vmid);
    await guest.reach((guest.report()?.counter ?? 0) + 30); // these writes reach no copy
  }
  const tailCounter = checkProbeDisks(
    join(n1.directory, 'dir/100/disk0-base.raw'),
    join(n1.directory, 'dir/100/disk1-base.raw'),
  ).counter;
  const point = rig.record.replicas.get(`${vmid}/n2`)?.point;
  assert.ok(point !== undefined);
  const promotedCounter = (await checkReplica(rig, 'n2', vmid)).counter;

  await n2.storage.promote(vmid, 2, point);
  await using guest = await runProbeOn(rig, 'n2', { vmid, generation: 2 });
  const report = await guest.reach(promotedCounter + 20);
  assert.equal(report.recoveredCounter, promotedCounter);
  assert.equal(report.consistent, true, report.detail);

  await assert.rejects(
    n2.replication.syncNow(vmid, 'n1'),
    (error) => isAppError(error, 'conflict') && /primary/.test(error.message),
  );
  await n1.storage.demote(vmid);
  const [line] = await n2.replication.syncNow(vmid, 'n1');
  assert.match(line ?? '', /compare of \d+ bytes .*no whole point/);
  const record = await until('the tail is measured', 10_000, () => {
    const found = rig.record.replicas.get(`${vmid}/n1`);
    return typeof found?.leftBehind[0]?.sizeBytes === 'number' ? found : null;
  });
  const [tail] = record.leftBehind;
  const tailChunks = (tail?.sizeBytes ?? 0) / chunk;
  const lost = tailCounter - promotedCounter;
  assert.ok(lost >= 25 && tailChunks > 0 && tailChunks <= lost + 2, `${tailChunks} chunks for ${lost} lost writes`);
  assert.ok((tail?.fromAtMs ?? 0) > 0 && (tail?.untilAtMs ?? 0) > (tail?.fromAtMs ?? 0));
  const written = (await checkReplica(rig, 'n1', vmid)).counter - promotedCounter;
  assert.ok(
    record.lastCycle.bytes <= (lost + written + 4) * chunk,
    `${record.lastCycle.bytes} bytes for ${lost} + ${written} writes`,
  );
  assert.ok((await checkReplica(rig, 'n1', vmid)).consistent);

  const files = await n1.storage.exportLeftBehind(vmid, 'left-behind-g1', join(rig.path, 'tail'));
  assert.equal(checkProbeDisks(files[0] ?? '', files[1] ?? '').counter, tailCounter);
  const [next] = await n2.replication.syncNow(vmid, 'n1');
  assert.match(next ?? '', /delta/);
  assert.ok((await checkReplica(rig, 'n1', vmid)).consistent);
});

test('a former home that still runs the old generation can change nothing elsewhere', async () => {
  await using rig = await buildRig(['n1', 'n2', 'n3'], {});
  const [n1, n2, n3] = [rig.node('n1'), rig.node('n2'), rig.node('n3')];
  await createProbeDisks(rig, 'n1', vmid);
  await using stale = await runProbeOn(rig, 'n1', { vmid, generation: 1 });
  await stale.reach(20);
  await n1.replication.syncNow(vmid);
  const point = rig.record.replicas.get(`${vmid}/n2`)?.point;
  assert.ok(point !== undefined);
  await n2.storage.promote(vmid, 2, point);
  rig.record.home.set(vmid, { node: 'n2', generation: 2 });
  const before = await n3.storage.readManifest(vmid);
  await assert.rejects(n1.replication.syncNow(vmid, 'n3'), (error) => isAppError(error, 'denied'));
  await assert.rejects(n1.replication.syncNow(vmid, 'n2'), (error) => isAppError(error, 'conflict'));
  assert.deepEqual(await n3.storage.readManifest(vmid), before);
  assert.equal((await n2.storage.readManifest(vmid))?.role, 'primary');
});

test('after an unclean end only the difference moves; after a restart of the agent the bitmaps still count', async () => {
  await using rig = await buildRig(['n1', 'n2']);
  const n1 = rig.node('n1');
  await createProbeDisks(rig, 'n1', vmid);
  {
    await using guest = await runProbeOn(rig, 'n1', { vmid, generation: 1 });
    await guest.reach(300);
    await n1.replication.syncNow(vmid);
    await guest.reach((guest.report()?.counter ?? 0) + 10);
    await guest.kill();
    await n1.replication.stopGuest(vmid);
  }
  const before = (await checkReplica(rig, 'n2', vmid)).counter;
  await using guest = await runProbeOn(rig, 'n1', { vmid, generation: 1 });
  const report = await guest.reach(before + 20);
  assert.ok(report.consistent && report.recoveredCounter >= before, report.detail);
  const [line] = await n1.replication.syncNow(vmid);
  const bytes = rig.record.replicas.get(`${vmid}/n2`)?.lastCycle.bytes ?? 0;
  const after = (await checkReplica(rig, 'n2', vmid)).counter;
  assert.ok(bytes <= (after - before + 4) * chunk, `${bytes} bytes for ${after - before} writes: ${line}`);
  assert.ok((await checkReplica(rig, 'n2', vmid)).consistent);

  // What a new agent does with a guest it finds running: nothing but startGuest.
  await n1.replication.stopGuest(vmid);
  n1.replication.startGuest(guest);
  const [again] = await n1.replication.syncNow(vmid);
  assert.match(again ?? '', /delta/);
  await n1.replication.stopGuest(vmid);
  rmSync(join(n1.run, 'guests/100/basis.json'));
  n1.replication.startGuest(guest);
  const [unknown] = await n1.replication.syncNow(vmid);
  assert.match(unknown ?? '', /compare/);
  assert.ok((await checkReplica(rig, 'n2', vmid)).consistent);
});
