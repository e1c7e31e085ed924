import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { closeSync, existsSync, openSync, readFileSync, readdirSync, truncateSync, writeFileSync, writeSync } from 'node:fs';
import { chmodSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { isAppError } from '#base/error.ts';
import { connectNbd } from '#adapters/nbd/nbd-client.ts';
import type { DirStorage } from '#adapters/dir/dir-storage.ts';
import { currentDepths } from '#core/storage/manifest.ts';
import { makeDirBench } from './checker/dir-bench.ts';
import { aboutPoint, fillIncoming, makeWorkDirectory, openStorage, receivePoint } from './checker/dir-rig.ts';
import { defineStorageSuite, disks, piece, vmid } from './checker/storage-suite.ts';

defineStorageSuite('dir', makeDirBench);

const mib = 1 << 20;

async function readByte(storage: DirStorage, offset: number): Promise<number> {
  const served = await storage.serveImage(vmid, currentDepths, 'look');
  const nbd = await connectNbd(served.nbdSocket, 'disk0', { deadlineMs: 2_000 });
  const byte = (await nbd.read(offset, 1))[0] ?? -1;
  nbd.close();
  await served.close();
  return byte;
}

async function setUp(name: string) {
  const work = makeWorkDirectory(name);
  chmodSync(work.path, 0o711);
  return { work, storage: await openStorage(work.path) };
}

test('points become layers, the newest is promoted under a new layer and itself stays untouched', async () => {
  const { work, storage } = await setUp('promote');
  using _ = work;
  await receivePoint(storage, vmid, { generation: 1, seq: 1 }, { disks, content: piece(1), offset: 0 });
  await receivePoint(storage, vmid, { generation: 1, seq: 2 }, { disks, content: piece(2), offset: 65_536 });
  assert.deepEqual([await readByte(storage, 0), await readByte(storage, 65_536)], [1, 2]);

  await assert.rejects(storage.promote(vmid, 2, { generation: 1, seq: 3 }), (error) => isAppError(error, 'conflict'));
  await assert.rejects(storage.promote(vmid, 1, { generation: 1, seq: 1 }), (error) => isAppError(error, 'conflict'));
  const promoted = await storage.promote(vmid, 2, { generation: 1, seq: 1 });
  assert.deepEqual(promoted, { point: { generation: 1, seq: 2 }, pointAtMs: 2000 });
  assert.deepEqual(await storage.promote(vmid, 2, { generation: 1, seq: 1 }), promoted);

  const [chain] = await storage.openPrimary(vmid, 2);
  execFileSync('qemu-io', ['-c', 'write -P 9 0 64k', `json:${JSON.stringify(chain?.blockdev)}`]);
  assert.equal(await readByte(storage, 0), 9);

  await storage.demote(vmid);
  await storage.demote(vmid);
  const [copy] = await storage.listCopies();
  assert.equal(copy?.role, 'replica');
  assert.equal(copy?.point, null);
  assert.equal(copy?.leftBehind[0]?.name, 'left-behind-g2');
  const exported = await storage.exportLeftBehind(vmid, 'left-behind-g2', join(work.path, 'out'));
  assert.deepEqual([...readFileSync(exported[0] ?? '').subarray(65_535, 65_537)], [9, 2]);
});

test('a tail outlives the points and merges above it until it is released', async () => {
  const { work, storage } = await setUp('tail');
  using _ = work;
  await storage.create(vmid, 1, disks);
  const [chain] = await storage.openPrimary(vmid, 1);
  execFileSync('qemu-io', ['-c', 'write -P 9 0 64k', `json:${JSON.stringify(chain?.blockdev)}`]);
  await storage.demote(vmid);
  await assert.rejects(storage.promote(vmid, 2, { generation: 1, seq: 1 }), (error) => isAppError(error, 'missing'));
  for (const seq of [1, 2, 3]) {
    await receivePoint(storage, vmid, { generation: 2, seq }, { disks, content: piece(seq), offset: 0 });
  }
  const keep = { recent: 1, minutes: 0, hours: 0 };
  await storage.thin(vmid, keep);
  const thinned = await storage.readManifest(vmid);
  assert.deepEqual(thinned && currentDepths(thinned), { disk0: 2, disk1: 2 });
  const [tail] = await storage.exportLeftBehind(vmid, 'left-behind-g1', join(work.path, 'out'));
  assert.equal(readFileSync(tail ?? '')[0], 9);
  assert.equal(await readByte(storage, 0), 3);
  await storage.releaseLeftBehind(vmid, 'left-behind-g1');
  await storage.thin(vmid, keep);
  const merged = await storage.readManifest(vmid);
  assert.deepEqual(merged && currentDepths(merged), { disk0: 1, disk1: 1 });
  assert.equal(await readByte(storage, 0), 3);
  assert.equal(readdirSync(join(work.path, 'dir', String(vmid))).length, 3);
  await assert.rejects(storage.releaseLeftBehind(vmid, 'left-behind-g1'), (error) => isAppError(error, 'missing'));
});

test('a damaged replica is refused with the file named, and nothing changes', async () => {
  const { work, storage } = await setUp('damage');
  using _ = work;
  for (const seq of [1, 2, 3]) {
    await receivePoint(storage, vmid, { generation: 1, seq }, { disks, content: piece(seq), offset: seq * 65_536 });
  }
  const before = await storage.readManifest(vmid);
  const path = (file: string) => join(work.path, 'dir', String(vmid), file);
  const refused = async (file: string, damage: () => void) => {
    const whole = readFileSync(path(file));
    damage();
    await assert.rejects(storage.promote(vmid, 2, { generation: 1, seq: 3 }), (error) => {
      assert.ok(isAppError(error, 'invalid', 'missing') && error.message.includes(file), String(error));
      return true;
    });
    writeFileSync(path(file), whole);
    assert.deepEqual(await storage.readManifest(vmid), before);
  };
  await refused('disk1-g1-2.qcow2', () => truncateSync(path('disk1-g1-2.qcow2'), 100_000));
  await refused('disk0-g1-1.raw', () => truncateSync(path('disk0-g1-1.raw'), mib));
  await refused('disk0-g1-3.qcow2', () => {
    const file = openSync(path('disk0-g1-3.qcow2'), 'r+');
    writeSync(file, new Uint8Array(64), 0, 64, 4 * 65_536); // the first mapping table
    closeSync(file);
  });
  await refused('disk0-g1-2.qcow2', () => execFileSync('rm', [path('disk0-g1-2.qcow2')]));
  await storage.promote(vmid, 2, { generation: 1, seq: 3 });
});

test('what was on its way in when we stopped is gone after the next start, daemon and files', async () => {
  const { work, storage } = await setUp('leftover');
  using _ = work;
  await receivePoint(storage, vmid, { generation: 1, seq: 1 }, { disks, content: piece(1), offset: 0 });
  const incoming = await storage.beginIncoming({ vmid, peer: 'n1', point: { generation: 1, seq: 2 }, disks });
  await fillIncoming(incoming, piece(2), 0);
  assert.ok(existsSync(join(work.path, 'dir/100/disk0-g1-2.qcow2')));

  const logged: string[] = [];
  const restarted = await openStorage(work.path, logged);
  assert.ok(!existsSync(join(work.path, 'dir/100/disk0-g1-2.qcow2')));
  assert.match(logged.join(), /ended 1 leftover/);
  assert.equal(await readByte(restarted, 0), 1);
  await assert.rejects(incoming.seal(aboutPoint(1)));
  assert.equal((await restarted.readManifest(vmid))?.points.length, 1);
});

const lastPoint = {
  point: { generation: 1, seq: 7 },
  copiedTo: ['n2'],
  source: 'n1',
  pointAtMs: 7_000,
  configSha256: 'c0',
  lastCycle: { kind: 'delta' as const, bytes: 0, tookMs: 0, pausedMs: 0 },
};

async function handedOver(name: string) {
  const { work, storage } = await setUp(name);
  await storage.create(vmid, 1, disks);
  const [chain] = await storage.openPrimary(vmid, 1);
  execFileSync('qemu-io', ['-c', 'write -P 9 0 64k', `json:${JSON.stringify(chain?.blockdev)}`]);
  await storage.noteHandedOver(vmid, 1, lastPoint);
  return { work, storage };
}

test('a home that handed over to one that began from something else is a replica at its last point and keeps its writes as well', async () => {
  for (const identicalTo of [{ generation: 1, seq: 6 }, null]) {
    const { work, storage } = await handedOver('other');
    using _ = work;
    await storage.demote(vmid, identicalTo);
    const [copy] = await storage.listCopies();
    assert.deepEqual([copy?.point, copy?.leftBehind[0]?.name], [lastPoint.point, 'left-behind-g1']);
    await receivePoint(storage, vmid, { generation: 2, seq: 1 }, { disks, content: piece(2), offset: 0 });
    await storage.thin(vmid, { recent: 1, minutes: 0, hours: 0 });
    const [tail] = await storage.exportLeftBehind(vmid, 'left-behind-g1', join(work.path, 'out'));
    assert.equal(readFileSync(tail ?? '')[0], 9);
    assert.equal(await readByte(storage, 0), 2);
  }
});

test('a second generation that is handed over is verified by what it was then', async () => {
  const { work, storage } = await setUp('second');
  using _ = work;
  await receivePoint(storage, vmid, { generation: 1, seq: 1 }, { disks, content: piece(1), offset: 0 });
  await storage.promote(vmid, 2, { generation: 1, seq: 1 });
  const [chain] = await storage.openPrimary(vmid, 2);
  execFileSync('qemu-io', ['-c', 'write -P 9 0 64k', `json:${JSON.stringify(chain?.blockdev)}`]);
  const last = { ...lastPoint, point: { generation: 2, seq: 3 } };
  await storage.noteHandedOver(vmid, 2, last);
  // Opened again and written to, it is handed over anew; what was sealed before must not be held against it.
  const [again] = await storage.openPrimary(vmid, 2);
  execFileSync('qemu-io', ['-c', 'write -P 8 1M 64k', `json:${JSON.stringify(again?.blockdev)}`]);
  await assert.rejects(storage.noteHandedOver(vmid, 1, last), (error) => isAppError(error, 'conflict'));
  await storage.noteHandedOver(vmid, 2, { ...last, point: { generation: 2, seq: 4 } });
  await storage.demote(vmid, { generation: 2, seq: 4 });
  await storage.promote(vmid, 3, { generation: 2, seq: 4 });
  assert.deepEqual([await readByte(storage, 0), await readByte(storage, 1 << 20)], [9, 8]);
  await storage.demote(vmid);
  const own = join(work.path, `dir/${vmid}/disk0-g2-own.qcow2`);
  execFileSync('qemu-io', ['-c', 'write -P 7 2M 64k', own]);
  await receivePoint(storage, vmid, { generation: 4, seq: 1 }, { disks, content: piece(4), offset: 0 });
  await assert.rejects(storage.promote(vmid, 5, { generation: 4, seq: 1 }), (error) => isAppError(error, 'invalid'));
});

test('a tail that was found equal in all its disks is let go; one disk that was not looked at keeps it', async () => {
  const { work, storage } = await setUp('equal');
  using _ = work;
  await storage.create(vmid, 1, disks);
  await storage.demote(vmid);
  const measured = { sizeBytes: 0, fromAtMs: 5 };
  const tails = async () => (await storage.listCopies())[0]?.leftBehind.map(({ name, sizeBytes }) => [name, sizeBytes]);
  await storage.noteTailSize(vmid, 'left-behind-g1', { ...measured, disks: disks.slice(0, 1) });
  assert.deepEqual(await tails(), [['left-behind-g1', 0]]);
  await storage.noteTailSize(vmid, 'left-behind-g1', { ...measured, sizeBytes: 65_536, disks });
  assert.deepEqual(await tails(), [['left-behind-g1', 65_536]]);
  await storage.noteTailSize(vmid, 'left-behind-g1', { ...measured, disks });
  assert.deepEqual(await tails(), []);
});
