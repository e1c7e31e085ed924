import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { formatErrorChain, isAppError } from '#base/error.ts';
import { checkProbeDisks } from '#lab/images/probe-disks.ts';
import { startProbeWriter, type ProbeWriter } from './checker/probe-writer.ts';
import { until } from './checker/until.ts';
import { testPools, zfs, withoutPool } from './checker/zfs-bench.ts';
import { buildZfsRig, resumeFromBytes, type ZfsRig } from './checker/zfs-rig.ts';

/**
 * Two nodes with a pool each: the sender, both relays and the receiver are the real ones, the checking workload writes to two disks all the time.
 */
const vmid = 100;
const mib = 1 << 20;
/** The machine that has the pools is most often an emulated one. */
const patienceMs = 400_000;
const disks = [
  { name: 'disk0', sizeBytes: 4 * mib },
  { name: 'disk1', sizeBytes: mib },
];
let rig: ZfsRig;
let writer: ProbeWriter;
const skip = testPools === undefined ? withoutPool : false;

before(async () => {
  if (testPools === undefined) return;
  rig = await buildZfsRig({ n1: testPools[0], n2: testPools[1] });
  await rig.node('n1').storage.create(vmid, 1, disks);
  writer = await run('n1', 1, 0);
});

after(async () => {
  await writer?.end();
  await rig?.[Symbol.asyncDispose]();
});

async function run(name: string, generation: number, from: number): Promise<ProbeWriter> {
  const node = rig.node(name);
  rig.record.home.set(vmid, { node: name, generation });
  const started = await startProbeWriter({ vmid, generation, disks }, await node.storage.openPrimary(vmid, generation), from);
  node.replication.startGuest(started.guest);
  return started;
}

async function sync(from: string, to: string): Promise<string> {
  const [line = ''] = await rig.node(from).replication.syncNow(vmid, to);
  return line;
}

const listVersions = (root: string, type: 'snapshot' | 'bookmark'): string[] =>
  zfs('list', '-Hp', '-r', '-t', type, '-o', 'name', root).split('\n').filter(Boolean);

test('the first cycle sends everything, later ones what changed; every point is whole under load', { skip }, async () => {
  await until('the first point arrives', patienceMs, () => rig.record.replicas.get(`${vmid}/n2`));
  let counter = (await rig.check('n2', vmid)).counter;
  for (let cycle = 0; cycle < 2; cycle += 1) {
    await writer.reach(writer.counter() + 5);
    const line = await sync('n1', 'n2');
    assert.match(line, /delta of \d+ bytes .*both have hf-1-\d+/);
    const verdict = await rig.check('n2', vmid);
    assert.ok(verdict.consistent, verdict.detail);
    assert.ok(verdict.counter > counter, `${verdict.counter} after ${counter}`);
    counter = verdict.counter;
  }
});

test(
  'the sender keeps a bookmark for its target and no more snapshots than it needs; the target holds its newest point',
  { skip },
  () => {
    const point = rig.record.replicas.get(`${vmid}/n2`)?.point;
    const own = `${rig.node('n1').root}/vm-${vmid}/disk0`;
    assert.deepEqual(listVersions(own, 'bookmark'), [`${own}#t-n2-1-${point?.seq}`]);
    assert.deepEqual(listVersions(own, 'snapshot'), [`${own}@hf-1-${point?.seq}`]);
    const theirs = `${rig.node('n2').root}/vm-${vmid}/disk0@hf-1-${point?.seq}`;
    assert.match(zfs('holds', '-H', theirs), /\tholdfast\t/);
  },
);

test('a stream that is cut goes on from its token, though others took points meanwhile', { skip }, async () => {
  const [n1, n2] = [rig.node('n1'), rig.node('n2')];
  const before = rig.record.replicas.get(`${vmid}/n2`)?.point.seq ?? 0;
  const large = 101;
  const image = join(rig.path, 'large.raw');
  writeFileSync(image, randomBytes(8 * mib));
  await n1.storage.create(large, 1, [{ name: 'disk0', sizeBytes: 8 * mib, importFile: image }, disks[1]!]);
  rig.record.home.set(large, { node: 'n1', generation: 1 });
  rig.job.rateBytesPerSecond = mib; // the cut comes in the middle
  const still = await startProbeWriter({ vmid: large, generation: 1, disks }, await n1.storage.openPrimary(large, 1), 0);
  await still.reach(1);
  n1.replication.startGuest(still.guest);
  const disk = `${n2.root}/vm-${large}/disk0`;
  const received = () => Number(/^\d+/.exec(quietly(() => zfs('list', '-Hp', '-o', 'used', disk)))?.[0] ?? 0);
  await until('enough has arrived', patienceMs, () => received() > resumeFromBytes + mib);
  await n2.startRelay();
  rig.job.rateBytesPerSecond = null;
  const line = await until('the next try succeeds', patienceMs, () =>
    n1.logged.find((text) => text.startsWith(`guest ${large} to n2: point`)),
  );
  await still.end();
  assert.match(line, /\d+ bytes of \S+ have arrived already/);
  const moved = Number(/(?:delta|full) of (\d+) bytes/.exec(line)?.[1]);
  assert.ok(moved < 8 * mib - resumeFromBytes, `${moved} bytes went over in the second try`);
  const [first = ''] = await n2.storage.exportPoint(large, join(rig.path, 'large-out'));
  assert.equal(zfs('get', '-Hp', '-o', 'value', 'receive_resume_token', disk).trim(), '-');
  assert.ok(first !== '' && before > 0);
  rig.record.home.delete(large);
  await n1.storage.remove(large);
});

test('a target without room says so and stays at its last point; with room the next cycle succeeds', { skip }, async () => {
  const n2 = rig.node('n2');
  const point = rig.record.replicas.get(`${vmid}/n2`)?.point;
  const guest = `${n2.root}/vm-${vmid}`;
  const used = Number(zfs('get', '-Hp', '-o', 'value', 'used', guest));
  zfs('set', `quota=${used + 16_384}`, guest);
  await writer.reach(writer.counter() + 20);
  await assert.rejects(sync('n1', 'n2'), (error) => {
    assert.match(formatErrorChain(error), /out of space|quota/);
    return true;
  });
  assert.deepEqual(rig.record.replicas.get(`${vmid}/n2`)?.point, point);
  assert.ok((await rig.check('n2', vmid)).consistent);
  zfs('set', 'quota=none', guest);
  await sync('n1', 'n2');
  const verdict = await rig.check('n2', vmid);
  assert.ok(verdict.consistent, verdict.detail);
});

test('a lost base is told, everything is sent, and what the target had is kept aside', { skip }, async () => {
  const [n1, n2] = [rig.node('n1'), rig.node('n2')];
  for (const { name } of disks) {
    const own = `${n1.root}/vm-${vmid}/${name}`;
    for (const bookmark of listVersions(own, 'bookmark')) zfs('destroy', bookmark);
    for (const snapshot of listVersions(own, 'snapshot')) zfs('destroy', snapshot);
  }
  const line = await sync('n1', 'n2');
  assert.match(line, /full of \d+ bytes .*nothing that this node and the target have in common/);
  const verdict = await rig.check('n2', vmid);
  assert.ok(verdict.consistent, verdict.detail);
  const [copy] = (await n2.storage.listCopies()).filter((entry) => entry.vmid === vmid);
  assert.match(copy?.leftBehind[0]?.name ?? '', /^left-behind-g1-\d+$/);
  assert.match(await sync('n1', 'n2'), /delta/);
});

test(
  'another node takes over; the former home keeps its tail, measured, and is brought up by what differs',
  { skip },
  async () => {
    const [n1, n2] = [rig.node('n1'), rig.node('n2')];
    await sync('n1', 'n2');
    const point = rig.record.replicas.get(`${vmid}/n2`)?.point;
    assert.ok(point !== undefined);
    await writer.reach(writer.counter() + 8); // these writes reach no copy
    await writer.end();
    const tailCounter = writer.counter();
    await n1.replication.stopGuest(vmid);
    const promotedCounter = (await rig.check('n2', vmid)).counter;
    assert.ok(promotedCounter < tailCounter);

    await n2.storage.promote(vmid, 2, point);
    writer = await run('n2', 2, promotedCounter);
    await writer.reach(promotedCounter + 4);
    await assert.rejects(sync('n2', 'n1'), (error) => isAppError(error, 'conflict') && /primary/.test(error.message));
    await n1.storage.demote(vmid);
    await sync('n2', 'n1');
    // On a slow machine a cycle that n2 tried by itself may have been the first.
    const line = n2.logged.find((text) => text.startsWith(`guest ${vmid} to n1: point`)) ?? '';
    assert.match(line, /delta of \d+ bytes .*both have hf-1-/);
    const bytes = Number(/delta of (\d+) bytes/.exec(line)?.[1]);
    assert.ok(bytes < 2 * mib, `${bytes} bytes for what was written since the reversal`);
    const [tail] = rig.record.replicas.get(`${vmid}/n1`)?.leftBehind ?? [];
    assert.ok((tail?.sizeBytes ?? 0) > 0 && (tail?.sizeBytes ?? 0) < 2 * mib, `the tail has ${tail?.sizeBytes} bytes`);
    assert.ok((await rig.check('n1', vmid)).consistent);
    const files = await n1.storage.exportLeftBehind(vmid, 'left-behind-g1', join(rig.path, 'tail'));
    const kept = checkProbeDisks(files[0] ?? '', files[1] ?? '');
    assert.ok(kept.consistent, kept.detail);
    assert.equal(kept.counter, tailCounter);
    assert.match(await sync('n2', 'n1'), /delta/);
    assert.ok((await rig.check('n1', vmid)).consistent);
    await n1.storage.releaseLeftBehind(vmid, 'left-behind-g1');
    assert.ok((await rig.check('n1', vmid)).consistent);
  },
);

function quietly(read: () => string): string {
  try {
    return read();
  } catch {
    return '';
  }
}
