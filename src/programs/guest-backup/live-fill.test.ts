import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { AppError } from '#base/error.ts';
import { liveLimits } from '#core/guest-backup/live-limits.ts';
import { createLiveFill, type LiveFill } from './live-fill.ts';
import { type LiveDisk, type LiveDisks, openLiveDisks } from './live-disks.ts';
import type { LiveSource } from './live-source.ts';

const chunkBytes = 8192;
const sizes = { disk0: 5 * chunkBytes - 512, disk1: 3 * chunkBytes };
const timing = { ...liveLimits, readMs: 1_000, lookMs: 10, badChunkMs: 20 };

async function openDisks(t: TestContext): Promise<{ again: () => Promise<LiveDisks>; path: (disk: string) => string }> {
  const folder = mkdtempSync(join(tmpdir(), 'hf-live-'));
  t.after(() => rmSync(folder, { recursive: true }));
  const path = (disk: string): string => join(folder, `${disk}.raw`);
  const arriving = Object.entries(sizes).map(([name, sizeBytes]) => {
    writeFileSync(path(name), '');
    truncateSync(path(name), sizeBytes);
    return { name, sizeBytes, chunkBytes, path: path(name), mapPath: join(folder, `${name}.chunks`) };
  });
  const again = async (): Promise<LiveDisks> => {
    const live = await openLiveDisks(arriving);
    t.after(() => live[Symbol.asyncDispose]());
    return live;
  };
  return { again, path };
}

/** Every byte of a chunk is the disk's number times sixteen and the chunk's; chunk 1 of disk1 is zeros. */
const byteOf = (disk: LiveDisk, at: number): number => (disk.name === 'disk0' ? 16 : 32) + at;

type Gate = { asked: string[]; before: (name: string) => Promise<void> | void };

function makeSource(gate: Gate): LiveSource & { isEnded: boolean } {
  let cut = (): void => {};
  const gone = new Promise<never>((_, reject) => (cut = () => reject(new AppError('unavailable', 'the connection was cut'))));
  gone.catch(() => {});
  const source = {
    isEnded: false,
    width: 6,
    piece: (disk: LiveDisk, at: number) => ({
      isZero: disk.name === 'disk1' && at === 1,
      async fetch() {
        const name = `${disk.name}/${at}`;
        gate.asked.push(name);
        await Promise.race([gate.before(name), gone]);
        const bytes = Math.min(chunkBytes, disk.sizeBytes - at * chunkBytes);
        await disk.file.write(Buffer.alloc(bytes, byteOf(disk, at)), 0, bytes, at * chunkBytes);
      },
    }),
    [Symbol.asyncDispose]() {
      source.isEnded = true;
      cut();
      return Promise.resolve();
    },
  };
  return source;
}

function readDisk(live: LiveDisks, fill: LiveFill, name: string, at: number, bytes: number): Promise<Uint8Array> {
  return fill.readable(live.disks.find((disk) => disk.name === name)!).read(at, bytes);
}

const never = new AbortController().signal;

test('all chunks of all disks come to their places, zeros without being asked for, and a read may cross them', async (t) => {
  const { again, path } = await openDisks(t);
  const live = await again();
  const fill = createLiveFill(live, timing);
  const gate: Gate = { asked: [], before: () => {} };
  const source = makeSource(gate);
  const early = readDisk(live, fill, 'disk0', chunkBytes - 2, 4);
  await fill.fillFrom(source, never);
  assert.deepEqual([...(await early)], [16, 16, 17, 17]);
  assert.deepEqual([gate.asked.length, source.isEnded, live.book.here], [7, true, 8]);
  assert.deepEqual(
    [...readFileSync(path('disk1'))].filter((_, at) => at % chunkBytes === 1),
    [32, 0, 34],
  );
  assert.equal(readFileSync(path('disk0')).length, sizes.disk0);
  const { doneBytes, totalBytes } = fill.progress();
  assert.deepEqual([doneBytes, totalBytes], [sizes.disk0 + sizes.disk1, sizes.disk0 + sizes.disk1]);
  assert.deepEqual([...(await readDisk(live, fill, 'disk0', sizes.disk0 - 1, 1))], [20]);
});

test('what a guest waits for is fetched beside all that is under way, and one that waits in vain is told and owed', async (t) => {
  const live = await (await openDisks(t)).again();
  const fill = createLiveFill(live, timing);
  let open = (): void => {};
  const opened = new Promise<void>((resolve) => (open = resolve));
  const gate: Gate = { asked: [], before: (name) => (name === 'disk1/2' ? undefined : opened) };
  const filled = fill.fillFrom(makeSource(gate), never);
  assert.deepEqual([...(await readDisk(live, fill, 'disk1', 2 * chunkBytes, 2))], [34, 34]);
  assert.ok(gate.asked.length <= 1 + timing.busyWidth, 'it did not queue up behind more than it must');
  await assert.rejects(readDisk(live, fill, 'disk0', 0, 1), /did not come within 1000 ms/);
  assert.equal(fill.progress().owed, 1);
  open();
  await filled;
  assert.equal(fill.progress().owed, 0);
});

test('a source that is lost loses nothing that has arrived; a chunk that it cannot give holds nothing up', async (t) => {
  const disks = await openDisks(t);
  const live = await disks.again();
  const fill = createLiveFill(live, timing);
  const first: Gate = {
    asked: [],
    before: (name) => (name === 'disk0/3' ? Promise.reject(new AppError('timeout', 'it hangs')) : undefined),
  };
  await assert.rejects(fill.fillFrom(makeSource(first), never), /it hangs/);
  const came = live.book.here;
  assert.ok(came < 8);
  await live.save();

  const next = await disks.again();
  assert.equal(next.book.here, came, 'the next one knows what is there');
  const refill = createLiveFill(next, timing);
  const missing = next.disks.flatMap(({ name, first: from, count }) =>
    Array.from({ length: count }, (_, at) => at).flatMap((at) => (next.book.isHere(from + at) ? [] : [`${name}/${at}`])),
  );
  let damaged = 2;
  const bad: (string | undefined)[] = [];
  const second: Gate = {
    asked: [],
    before(name) {
      if (name !== 'disk0/3') return undefined;
      bad.push(refill.progress().bad?.because);
      return damaged-- > 0 ? Promise.reject(new AppError('invalid', 'it is damaged')) : undefined;
    },
  };
  await refill.fillFrom(makeSource(second), never);
  assert.deepEqual([next.book.here, refill.progress().bad], [8, null]);
  assert.equal(bad.length, 3);
  const isFetched = (name: string): boolean => name !== 'disk0/3' && name !== 'disk1/1';
  assert.deepEqual(second.asked.filter(isFetched).toSorted(), missing.filter(isFetched).toSorted(), 'nothing twice');
  assert.deepEqual([...(await readDisk(next, refill, 'disk0', 3 * chunkBytes, 1))], [19]);
});
