import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { existsSync, readdirSync, readFileSync, statSync, utimesSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { isAppError } from '#base/error.ts';
import { encodeBlob } from '#core/backup/blob.ts';
import { encodeText, formatHex } from '#core/backup/bytes.ts';
import { computeIndexCsum } from '#core/backup/chunk-index.ts';
import { deriveCryptKey } from '#core/backup/crypt-key.ts';
import { fixedChunkBytes } from '#core/backup/index-writer.ts';
import { readVerifyState } from '#core/backup/manifest.ts';
import { chunkPath } from '#core/backup/names.ts';
import { parseKeepRules } from '#core/backup/prune.ts';
import type { CheckedChunk, Datastore } from '#ports/datastore.ts';
import { nodeBytes } from '../../src/adapters/bytes/node-bytes.ts';
import { chunkOf, makeStore, sendArchive, sendIndex, snapshotAt } from './datastore-parts.ts';

const owner = 'root@pam';
const hour = 3_600;
const pathOf = (root: string, { digest }: CheckedChunk): string => join(root, chunkPath(formatHex(digest)));
const kind =
  (...kinds: Parameters<typeof isAppError> extends [unknown, ...infer Rest] ? Rest : never) =>
  (error: unknown): boolean =>
    isAppError(error, ...kinds);

async function backup(store: Datastore, atSeconds: number, chunks: CheckedChunk[]): Promise<void> {
  const session = await store.startBackup(snapshotAt(atSeconds), owner);
  await sendArchive(session, chunks);
  await session.finish();
}

test('a datastore on disk', async (context) => {
  using made = await makeStore();
  const { root, store } = made;
  const shared = chunkOf(randomBytes(5_000));
  const early = chunkOf(encodeText('early'.repeat(100)));

  await context.test('is laid out as the original lays it out', async () => {
    assert.equal(readdirSync(join(root, '.chunks')).length, 65_536);
    await backup(store, hour, [shared, early]);
    const folder = join(root, 'vm/100/1970-01-01T01:00:00Z');
    assert.deepEqual(readdirSync(folder).toSorted(), ['data.didx', 'index.json.blob']);
    assert.equal(readFileSync(join(root, 'vm/100/owner'), 'utf8'), 'root@pam\n');
    assert.deepEqual(new Uint8Array(readFileSync(pathOf(root, shared))), new Uint8Array(shared.encoded));
    const manifest = await store.readManifest(snapshotAt(hour));
    const sizes = { count: 2, size: 5_500, compressed_size: shared.encoded.length + early.encoded.length, duplicates: 0 };
    assert.deepEqual(manifest.unprotected['chunk_upload_stats'], sizes);
  });

  await context.test('a duplicate is touched, not written', async () => {
    const path = pathOf(root, shared);
    utimesSync(path, 1_000, 2_000);
    const session = await store.startBackup(snapshotAt(2 * hour), owner);
    assert.deepEqual(await session.addChunk(shared), { isDuplicate: true });
    const { atimeMs, mtimeMs } = statSync(path);
    assert.equal(mtimeMs, 2_000_000);
    assert.ok(Date.now() - atimeMs < 60_000);
    await session.abort();
    assert.ok(!existsSync(join(root, 'vm/100/1970-01-01T02:00:00Z')));
  });

  await context.test('one backup of a group at a time, its base cannot go, its folder is locked for others', async () => {
    const session = await store.startBackup(snapshotAt(2 * hour), owner);
    await assert.rejects(store.startBackup(snapshotAt(3 * hour), owner), kind('busy'));
    await assert.rejects(store.removeSnapshot(snapshotAt(hour)), kind('busy'));
    await assert.rejects(store.openSnapshot(snapshotAt(2 * hour)), kind('missing', 'busy'));
    for (const folder of ['vm/100', 'vm/100/1970-01-01T02:00:00Z', 'vm/100/1970-01-01T01:00:00Z']) {
      assert.equal(spawnSync('flock', ['-n', '-x', join(root, folder), 'true']).status, 1, folder);
    }
    await session.abort();
    assert.equal(spawnSync('flock', ['-n', '-x', join(root, 'vm/100'), 'true']).status, 0);
    await assert.rejects(store.startBackup(snapshotAt(hour), owner), kind('conflict'));
    await assert.rejects(store.startBackup(snapshotAt(3 * hour), 'other@pam'), kind('denied'));
    await assert.rejects(store.startBackup({ ...snapshotAt(hour), namespace: ['nowhere'] }, owner), kind('missing'));
  });

  await context.test('the process lock keeps other programs and us apart', async () => {
    const tryLock = (how: string): number | null =>
      spawnSync('python3', [
        '-c',
        `import fcntl,sys;f=open(sys.argv[1],'a+');fcntl.lockf(f,fcntl.${how}|fcntl.LOCK_NB)`,
        join(root, '.lock'),
      ]).status;
    assert.equal(tryLock('LOCK_EX'), 0);
    const session = await store.startBackup(snapshotAt(2 * hour), owner);
    assert.notEqual(tryLock('LOCK_EX'), 0);
    assert.equal(tryLock('LOCK_SH'), 0);
    await store.collectGarbage(); // own writers are no obstacle, and the lock falls back to theirs
    assert.notEqual(tryLock('LOCK_EX'), 0);
    await session.abort();
    assert.equal(tryLock('LOCK_EX'), 0);
    const other = spawn('python3', [
      '-c',
      "import fcntl,sys;f=open(sys.argv[1],'a+');fcntl.lockf(f,fcntl.LOCK_SH);print('held',flush=True);sys.stdin.read()",
      join(root, '.lock'),
    ]);
    await new Promise((resolve) => void other.stdout.once('data', resolve));
    await assert.rejects(store.collectGarbage(), kind('busy'));
    other.stdin.end();
    await new Promise((resolve) => void other.once('exit', resolve));
    await store.collectGarbage();
  });

  await context.test('space is free as soon as nothing refers to it, also while a backup runs', async () => {
    const running = await store.startBackup(snapshotAt(2 * hour), owner);
    const unused = chunkOf(encodeText('running'.repeat(50)));
    await running.addChunk(unused);
    const other = await store.startBackup(snapshotAt(2 * hour, '200'), owner);
    const dropped = chunkOf(encodeText('dropped'.repeat(50)));
    await other.addChunk(dropped);
    await other.abort();
    const result = await store.collectGarbage();
    assert.deepEqual([result.removedChunks, result.pendingChunks], [1, 1]);
    assert.ok(!existsSync(pathOf(root, dropped)) && existsSync(pathOf(root, unused)));
    await sendIndex(running, [unused, unused]);
    await running.finish();
    assert.equal((await store.collectGarbage()).removedChunks, 0);
    const status = JSON.parse(readFileSync(join(root, '.gc-status'), 'utf8')) as Record<string, number>;
    assert.equal(status['disk-chunks'], 3);
  });

  await context.test('a chunk of another crypt class is never a duplicate', async () => {
    const key = deriveCryptKey(randomBytes(32), nodeBytes);
    const session = await store.startBackup(snapshotAt(3 * hour), owner);
    const real = chunkOf(randomBytes(3_000));
    const forged = { ...chunkOf(randomBytes(2_000), key), digest: real.digest };
    await session.addChunk(forged);
    assert.deepEqual(await session.addChunk(real), { isDuplicate: false });
    assert.deepEqual(new Uint8Array(readFileSync(pathOf(root, real))), new Uint8Array(real.encoded));
    assert.ok(existsSync(`${pathOf(root, real)}.0.bad`), 'the forgery is kept as evidence');
    await assert.rejects(session.addChunk(forged), kind('conflict'));
    await session.abort();
    await store.collectGarbage();
  });

  await context.test('a damaged chunk is set aside, and the next backup sends everything again', async () => {
    const path = pathOf(root, shared);
    const bytes = readFileSync(path);
    bytes[100]! ^= 1;
    writeFileSync(path, bytes);
    const { problems } = await store.verifySnapshot(snapshotAt(hour), 'UPID:x');
    assert.match(problems.join(), /its CRC is .* it is damaged/);
    assert.equal(readVerifyState(await store.readManifest(snapshotAt(hour)))?.state, 'failed');
    assert.ok(!existsSync(path) && existsSync(`${path}.0.bad`));
    assert.equal((await store.collectGarbage()).stillBad, 1);
    await store.removeSnapshot(snapshotAt(2 * hour));
    const session = await store.startBackup(snapshotAt(4 * hour), owner);
    assert.equal(session.base, null);
    await sendArchive(session, [shared, early]);
    await session.finish();
    assert.equal((await store.collectGarbage()).removedBad, 1);
    assert.deepEqual((await store.verifySnapshot(snapshotAt(hour), 'UPID:y')).problems, []);
  });

  await context.test('the rolling verification finds damage, and a base with a lost chunk is none', async () => {
    const path = pathOf(root, early);
    writeFileSync(path, readFileSync(path).subarray(0, 20));
    const { checked, bad } = await store.verifyChunks({ bytes: 1e9, olderThan: Date.now() / 1_000 + 10 });
    assert.deepEqual([checked >= 2, bad.length], [true, 1]);
    const session = await store.startBackup(snapshotAt(5 * hour), owner);
    assert.equal(session.base, null);
    await sendArchive(session, [shared, early]);
    await session.finish();
  });

  await context.test(
    'a chunk that is found damaged during a backup that knows it fails that backup, not the next restore',
    async () => {
      const session = await store.startBackup(snapshotAt(6 * hour), owner);
      assert.ok(session.base);
      await session.readBase('data.didx');
      await sendIndex(session, [shared, early]);
      writeFileSync(pathOf(root, shared), 'x');
      await store.verifyChunks({ bytes: 1e9, olderThan: Date.now() / 1_000 + 10 });
      assert.equal(session.knownSize(shared.digest), null);
      await assert.rejects(session.finish(), /found damaged on this server meanwhile/);
      await session.abort();
      const again = await store.startBackup(snapshotAt(6 * hour), owner);
      await sendArchive(again, [shared, early]);
      await again.finish();
    },
  );

  await context.test('protected and locked snapshots cannot be removed or pruned', async () => {
    const now = Math.floor(Date.now() / 1_000);
    await store.setProtected(snapshotAt(hour), true);
    await store.lockUntil(snapshotAt(4 * hour), now + 1_000);
    await assert.rejects(store.removeSnapshot(snapshotAt(hour)), kind('conflict'));
    await assert.rejects(store.removeSnapshot(snapshotAt(4 * hour)), kind('denied'));
    await assert.rejects(store.lockUntil(snapshotAt(4 * hour), now), kind('denied'));
    const rules = parseKeepRules({ last: 1 });
    const verdicts = await store.prune(snapshotAt(1), rules, { dryRun: false });
    assert.deepEqual(
      verdicts.map(({ snapshot, mark }) => [snapshot.atSeconds / hour, mark]),
      [
        [6, 'keep'],
        [5, 'remove'],
        [4, 'locked'],
        [1, 'protected'],
      ],
    );
    const left = (await store.readGroup(snapshotAt(1))).snapshots.map(({ snapshot }) => snapshot.atSeconds / hour);
    assert.deepEqual(left, [6, 4, 1]);
  });

  await context.test('an image backed up by its changes is pre-filled from the one before', async () => {
    const zeros = chunkOf(new Uint8Array(fixedChunkBytes));
    const changed = chunkOf(new Uint8Array(fixedChunkBytes).fill(7));
    const finish = async (
      atSeconds: number,
      digests: CheckedChunk[],
      appended: [CheckedChunk, number][],
      reuse: Uint8Array | null,
    ) => {
      const session = await store.startBackup(snapshotAt(atSeconds, '300'), owner);
      const writer = await session.startIndex('disk.img.fidx', 'fixed', { sizeBytes: 2 * fixedChunkBytes, reuseCsum: reuse });
      for (const [chunk, start] of appended) {
        await session.addChunk(chunk);
        writer.append(chunk, start);
      }
      const csum = computeIndexCsum(Buffer.concat(digests.map(({ digest }) => digest)), nodeBytes);
      const sizeBytes = appended.length * fixedChunkBytes;
      await session.addIndex('disk.img.fidx', writer.close({ chunkCount: appended.length, sizeBytes, csum }, nodeBytes));
      await session.addBlob('index.json.blob', manifestBlob(atSeconds, csum));
      await session.finish();
      return csum;
    };
    const first = await finish(
      hour,
      [zeros, zeros],
      [
        [zeros, 0],
        [zeros, fixedChunkBytes],
      ],
      null,
    );
    await finish(2 * hour, [zeros, changed], [[changed, fixedChunkBytes]], first);
    await assert.rejects(finish(3 * hour, [zeros, changed], [[changed, 0]], first), /reuse-csum/);
    assert.deepEqual((await store.verifySnapshot(snapshotAt(2 * hour, '300'), 'UPID:z')).problems, []);
    assert.ok(statSync(pathOf(root, zeros)).size < 1_000);
  });

  await context.test('a forged manifest, a foreign name or a file twice is refused and nothing is stored', async () => {
    const session = await store.startBackup(snapshotAt(7 * hour), owner);
    await sendArchive(session, [shared]);
    await assert.rejects(session.startIndex('data.didx', 'dynamic', { sizeBytes: 0, reuseCsum: null }), kind('conflict'));
    await assert.rejects(
      session.addBlob('../evil.blob', encodeBlob(new Uint8Array(1), { compress: false, crypt: null }, nodeBytes)),
      kind('invalid'),
    );
    await assert.rejects(session.addBlob('a.blob', encodeText('no blob at all')), kind('invalid'));
    await session.addBlob('index.json.blob', manifestBlob(8 * hour, new Uint8Array(32)));
    await assert.rejects(session.finish(), /it is that of vm\/300/);
    await session.abort();
    assert.ok(!existsSync(join(root, 'vm/100/1970-01-01T07:00:00Z')));
  });

  await context.test(
    'closed in order it need not scan; after a crash it clears up and finds chunks that nothing refers to',
    async () => {
      await store.close();
      assert.ok(existsSync(join(root, '.holdfast/clean')));
      const second = await made.reopen();
      assert.ok(!existsSync(join(root, '.holdfast/clean')));
      const session = await second.startBackup(snapshotAt(9 * hour), owner);
      const stray = chunkOf(randomBytes(1_000));
      await session.addChunk(stray);
      // The process ends here without a word; only its locks would go with it.
      const third = await made.reopen();
      assert.ok(existsSync(join(root, 'vm/100/1970-01-01T09:00:00Z')), 'what is locked may still be written by an older process');
      await session.abort();
      assert.equal((await third.collectGarbage()).removedChunks >= 1, true);
      assert.ok(!existsSync(pathOf(root, stray)));
    },
  );
});

function manifestBlob(atSeconds: number, csum: Uint8Array): Uint8Array {
  const files = [{ filename: 'disk.img.fidx', 'crypt-mode': 'none', size: 2 * fixedChunkBytes, csum: formatHex(csum) }];
  const json = { 'backup-type': 'vm', 'backup-id': '300', 'backup-time': atSeconds, files };
  return encodeBlob(encodeText(JSON.stringify(json)), { compress: true, crypt: null }, nodeBytes);
}
