import assert from 'node:assert/strict';
import { readdirSync, readFileSync, utimesSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { connectNbd } from '#adapters/nbd/nbd-client.ts';
import { isAppError } from '#base/error.ts';
import { baseOfWrites } from '#core/storage/manifest.ts';
import type { NewContent } from '#ports/guest-storage.ts';
import { makeDirBench } from './checker/dir-bench.ts';
import { openStorage } from './checker/dir-rig.ts';
import { disks, piece, vmid } from './checker/storage-suite.ts';

/** New content for the disks of a primary copy: all of it or none, and what lay there is kept. */
const content = (change: Partial<NewContent> = {}): NewContent => ({
  tail: 'replaced-1',
  fromAtMs: 5_000,
  disks,
  async write(_disk, { socketPath, exportName }) {
    const nbd = await connectNbd(socketPath, exportName, { deadlineMs: 2_000 });
    assert.ok([1, 0].includes((await nbd.read(0, 1))[0] ?? -1), 'the place shows what lies there');
    await nbd.write(0, piece(7));
    nbd.close();
    return 65_536;
  },
  confirm: () => Promise.resolve(),
  ...change,
});

test('the new content is the disks, and the old content a tail that outlives the next roles', async () => {
  await using bench = await makeDirBench('replace');
  const { storage } = bench;
  await bench.receive({ generation: 1, seq: 1 }, 1, 0);
  await storage.promote(vmid, 2, { generation: 1, seq: 1 });
  await bench.write(1, 65_536);
  const folder = join(bench.path, 'dir', String(vmid));
  const longAgo = new Date(1_000_000);
  for (const name of readdirSync(folder)) utimesSync(join(folder, name), longAgo, longAgo);
  const beganAtMs = Date.now();
  assert.deepEqual(await storage.replace(vmid, 2, content()), { changedBytes: 131_072 });
  assert.equal(await bench.readByte(0), 7);
  assert.equal(await bench.readByte(65_536), 1, 'what was not written shows through');
  const manifest = await bench.manifest();
  assert.equal(manifest && baseOfWrites(manifest), null, 'nobody may count writes from the point it was promoted from');

  await bench.write(9, 0);
  const [kept] = (await storage.listCopies())[0]?.leftBehind ?? [];
  assert.deepEqual([kept?.name, kept?.sizeBytes, kept?.fromAtMs], ['replaced-1', 131_072, 5_000]);
  assert.ok((kept?.untilAtMs ?? 0) >= beganAtMs - 2_000, 'how long it is kept counts from the replacement');
  await storage.demote(vmid);
  await bench.receive({ generation: 3, seq: 1 }, 4, 0);
  const [old] = await storage.exportLeftBehind(vmid, 'replaced-1', join(bench.path, 'old'));
  assert.equal(readFileSync(old ?? '')[0], 1);
  const [own] = await storage.exportLeftBehind(vmid, 'left-behind-g2', join(bench.path, 'own'));
  assert.equal(readFileSync(own ?? '')[0], 9);
  await assert.rejects(storage.replace(vmid, 2, content()), (error) => isAppError(error, 'conflict'));
});

test('whatever fails before it counts, the disks are the old ones and nothing is left over', async () => {
  await using bench = await makeDirBench('refused');
  const { storage } = bench;
  await storage.create(vmid, 1, disks);
  await bench.write(1, 0);
  const files = readdirSync(join(bench.path, 'dir', String(vmid)));
  const mustStay = async (why: string): Promise<void> => {
    assert.equal(await bench.readByte(0), 1, why);
    assert.deepEqual(readdirSync(join(bench.path, 'dir', String(vmid))), files, why);
    assert.deepEqual((await storage.listCopies())[0]?.leftBehind, [], why);
  };
  const failing = { write: () => Promise.reject(new Error('torn')) };
  await assert.rejects(storage.replace(vmid, 1, content(failing)), /torn/);
  await mustStay('a disk could not be written');
  await assert.rejects(storage.replace(vmid, 1, content({ confirm: () => Promise.reject(new Error('not home')) })), /not home/);
  await mustStay('it must not count');
  await assert.rejects(
    storage.replace(vmid, 1, content({ disks: disks.slice(0, 1) })),
    /it has disk1, and the new content has not/,
  );
  await mustStay('a disk would be lost');
  await assert.rejects(storage.replace(vmid, 2, content()), (error) => isAppError(error, 'conflict'));
  await mustStay('another generation');
  const same = await storage.replace(vmid, 1, content({ write: () => Promise.resolve(0) }));
  assert.equal(same.changedBytes, 0);
  await mustStay('nothing was different');
});

test('a replacement that a crash cut is gone at the next start', async () => {
  await using bench = await makeDirBench('cut');
  const { storage } = bench;
  await storage.create(vmid, 1, disks);
  await bench.write(1, 0);
  const reached = Promise.withResolvers<void>();
  const cut = content({
    write: () => {
      reached.resolve();
      return new Promise<number>(() => {});
    },
  });
  void storage.replace(vmid, 1, cut).catch(() => {});
  await reached.promise;
  const folder = join(bench.path, 'dir', String(vmid));
  assert.equal(readdirSync(folder).filter((name) => name.includes('replaced-1')).length, 2);
  await openStorage(bench.path);
  assert.equal(readdirSync(folder).filter((name) => name.includes('replaced-1')).length, 0);
  assert.equal(await bench.readByte(0), 1);
});

test('a disk may have another size then, and there may be one more', async () => {
  await using bench = await makeDirBench('sizes');
  const { storage } = bench;
  await storage.create(vmid, 1, disks);
  await bench.write(1, 0);
  const more = [{ name: 'disk0', sizeBytes: 16 << 20 }, disks[1]!, { name: 'disk2', sizeBytes: 1 << 20 }];
  await storage.replace(vmid, 1, content({ disks: more }));
  const manifest = await bench.manifest();
  assert.deepEqual(
    manifest?.disks.map(({ name, layers }) => [name, layers.at(-1)?.sizeBytes]),
    [
      ['disk0', 16 << 20],
      ['disk1', 4 << 20],
      ['disk2', 1 << 20],
    ],
  );
  await storage.openPrimary(vmid, 1);
  const files = await storage.exportLeftBehind(vmid, 'replaced-1', join(bench.path, 'old'));
  assert.deepEqual(
    files.map((file) => readFileSync(file).length),
    [8 << 20, 4 << 20],
  );
});
