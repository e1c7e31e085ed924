import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { existsSync, mkdirSync, mkdtempSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { isAppError } from '#base/error.ts';
import { parseKeepRules } from '#core/backup/prune.ts';
import type { Datastore } from '#ports/datastore.ts';
import { openDatastore } from '../../src/adapters/datastore/datastore.ts';
import { chunkOf, makeBareStore, realParts, sendArchive, snapshotAt } from './datastore-parts.ts';

const mebibyte = 1024 * 1024;
const owner = 'root@pam';

async function backup(store: Datastore, atSeconds: number, bytes: number): Promise<void> {
  const session = await store.startBackup(snapshotAt(atSeconds), owner);
  try {
    await sendArchive(session, [chunkOf(randomBytes(bytes))]);
    await session.finish();
  } finally {
    await session.abort();
  }
}

/** Takes all space that is left. */
function fillUp(folder: string): void {
  for (const size of [mebibyte, 65_536, 4_096]) {
    for (let number = 0; ; number += 1) {
      try {
        writeFileSync(join(folder, `fill-${size}-${number}`), Buffer.alloc(size), { flag: 'wx' });
      } catch {
        rmSync(join(folder, `fill-${size}-${number}`), { force: true });
        break;
      }
    }
  }
}

test(
  'on a full disk backups are refused, and prune and collection make space',
  { skip: process.getuid?.() === 0 ? false : 'only root may mount a small disk' },
  async () => {
    const folder = mkdtempSync(join(tmpdir(), 'holdfast-full-'));
    assert.equal(spawnSync('mount', ['-t', 'tmpfs', '-o', 'size=24m', 'none', folder]).status, 0);
    try {
      mkdirSync(join(folder, '.chunks'));
      const reserve = join(folder, '.holdfast/reserve');
      const store = await openDatastore({ ...realParts(folder), reserveBytes: 4 * mebibyte });
      assert.equal(statSync(reserve).size, 4 * mebibyte);
      for (const at of [1, 2, 3]) await backup(store, at * 3_600, 3 * mebibyte);
      const running = await store.startBackup(snapshotAt(4 * 3_600), owner);
      fillUp(folder);
      const isFull = (error: unknown): boolean =>
        isAppError(error, 'unavailable') && /no space left; prune snapshots and collect garbage/.test(error.message);
      await assert.rejects(running.addChunk(chunkOf(randomBytes(mebibyte))), isFull);
      await running.abort();
      await assert.rejects(
        store.startBackup(snapshotAt(5 * 3_600), owner),
        /bytes are left, fewer than the \d+ kept free; prune/,
      );

      const verdicts = await store.prune(snapshotAt(1), parseKeepRules({ last: 1 }), { dryRun: false });
      assert.deepEqual(
        verdicts.map(({ mark, error }) => [mark, error]),
        [
          ['keep', null],
          ['remove', null],
          ['remove', null],
        ],
      );
      const { removedChunks, warnings } = await store.collectGarbage();
      assert.deepEqual([removedChunks, warnings], [2, []]);
      assert.equal(statSync(reserve).size, 4 * mebibyte, 'the reserve is there again');
      await backup(store, 6 * 3_600, mebibyte);
      assert.deepEqual((await store.verifySnapshot(snapshotAt(3 * 3_600), 'UPID:f')).problems, []);
      await store.close();
    } finally {
      spawnSync('umount', ['-l', folder]); // this process keeps the lock file open
      rmSync(folder, { recursive: true });
    }
  },
);

test('a store that locks its snapshots keeps each from its finish on, whatever its name says of its time', async () => {
  using made = await makeBareStore({ lockSeconds: 86_400 });
  await backup(made.store, 1_000, 100);
  const { lockedUntil } = await made.store.readSnapshot(snapshotAt(1_000));
  assert.ok(Math.abs((lockedUntil ?? 0) - Date.now() / 1_000 - 86_400) < 60);
  await assert.rejects(made.store.removeSnapshot(snapshotAt(1_000)), (error) => isAppError(error, 'denied'));
  assert.equal((await made.store.removeGroup(snapshotAt(1_000))).kept.length, 1);
  await backup(made.store, 2_000, 100);
  const verdicts = await made.store.prune(snapshotAt(1), parseKeepRules({ last: 1 }), { dryRun: false });
  assert.deepEqual(
    verdicts.map(({ mark }) => mark),
    ['keep', 'locked'],
  );
  const late = await made.reopen().then((store) => store.readGroup(snapshotAt(1)));
  assert.equal(late.snapshots.length, 2);
  assert.ok(existsSync(join(made.root, 'vm/100/1970-01-01T00:16:40Z/.locked-until')));
});
