import assert from 'node:assert/strict';
import { readdirSync, utimesSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { baseOfWrites } from '#core/storage/manifest.ts';
import { makeDirBench } from './checker/dir-bench.ts';
import { openStorage } from './checker/dir-rig.ts';
import { disks, newContent, vmid } from './checker/storage-suite.ts';

/** What new content for the disks of a primary copy does to its files; the rules themselves are in checker/storage-suite.ts. */

test('how long the old content is kept counts from the replacement, and nobody counts writes from an older point', async () => {
  await using bench = await makeDirBench('replace');
  const { storage } = bench;
  await bench.receive({ generation: 1, seq: 1 }, 1, 0);
  await storage.promote(vmid, 2, { generation: 1, seq: 1 });
  await bench.write(1, 65_536);
  const folder = join(bench.path, 'dir', String(vmid));
  const longAgo = new Date(1_000_000);
  for (const name of readdirSync(folder)) utimesSync(join(folder, name), longAgo, longAgo);
  const beganAtMs = Date.now();
  await storage.replace(vmid, 2, newContent());
  const manifest = await bench.manifest();
  assert.equal(manifest && baseOfWrites(manifest), null, 'nobody may count writes from the point it was promoted from');
  await bench.write(9, 0);
  const [kept] = (await storage.listCopies())[0]?.leftBehind ?? [];
  assert.ok((kept?.untilAtMs ?? 0) >= beganAtMs - 2_000, 'how long it is kept counts from the replacement');
});

test('a replacement that fails leaves no file', async () => {
  await using bench = await makeDirBench('refused');
  const { storage } = bench;
  await storage.create(vmid, 1, disks);
  await bench.write(1, 0);
  const files = readdirSync(join(bench.path, 'dir', String(vmid)));
  const mustStay = (): void => assert.deepEqual(readdirSync(join(bench.path, 'dir', String(vmid))), files);
  const torn = { write: () => Promise.reject(new Error('torn')) };
  await assert.rejects(storage.replace(vmid, 1, newContent(torn)), /torn/);
  mustStay();
  await assert.rejects(
    storage.replace(vmid, 1, newContent({ confirm: () => Promise.reject(new Error('not home')) })),
    /not home/,
  );
  mustStay();
  await storage.replace(vmid, 1, newContent({ write: () => Promise.resolve(0) }));
  mustStay();
});

test('the files of a replacement that a crash cut are gone at the next start', async () => {
  await using bench = await makeDirBench('cut');
  const { storage } = bench;
  await storage.create(vmid, 1, disks);
  await bench.write(1, 0);
  const reached = Promise.withResolvers<void>();
  const cut = newContent({
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
});
