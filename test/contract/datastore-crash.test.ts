import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { existsSync, mkdirSync, readdirSync, readFileSync, statSync, utimesSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { formatHex } from '#core/backup/bytes.ts';
import { digestAt, parseIndex } from '#core/backup/chunk-index.ts';
import type { Datastore } from '#ports/datastore.ts';
import { openDatastore } from '../../src/adapters/datastore/datastore.ts';
import { chunkOf, makeBareStore, realParts, sendArchive, snapshotAt } from './datastore-parts.ts';

/** What a store knows of its chunks after its process was killed. */

/** Collects; how many chunk folders it listed because of a crash, of how many, and what it said. */
async function collect(store: Datastore): Promise<{ listed: string | null; removed: number; said: string[] }> {
  const said: string[] = [];
  const { removedChunks } = await store.collectGarbage({ note: (text) => said.push(text) });
  const listed = said.flatMap((text) => /^after a crash: (\d+ of \d+) /.exec(text)?.[1] ?? [])[0] ?? null;
  return { listed, removed: removedChunks, said };
}

function chunksOn(root: string): Set<string> {
  const names = readdirSync(join(root, '.chunks'), { recursive: true, encoding: 'utf8' });
  return new Set(names.map((name) => name.slice(5)).filter((name) => name.length === 64));
}

/** As if the folders of chunks had not changed for an hour. */
function age(root: string): void {
  const anHourAgo = new Date(Date.now() - 3_600_000);
  for (const prefix of readdirSync(join(root, '.chunks'))) utimesSync(join(root, '.chunks', prefix), anHourAgo, anHourAgo);
}

function referredIn(root: string): Set<string> {
  const found = new Set<string>();
  for (const name of readdirSync(root, { recursive: true, encoding: 'utf8' })) {
    if (!name.endsWith('.didx')) continue;
    const index = parseIndex('dynamic', readFileSync(join(root, name)), name);
    for (let at = 0; at < index.count; at += 1) found.add(formatHex(digestAt(index, at)));
  }
  return found;
}

test('a server killed anywhere loses no acknowledged backup and leaves no debris', async () => {
  using made = await makeBareStore();
  await made.store.close();
  const script = fileURLToPath(new URL('datastore-writer.ts', import.meta.url));
  const acknowledged = new Set<number>();
  let next = 1;
  for (let round = 0; round < 6; round += 1) {
    const lines = await runAndKill([script, made.root, String(next)], 5 + 2 * round, (round * 37) % 100);
    for (const [verb, second] of lines.map((line) => line.split(' '))) {
      if (verb === 'done') acknowledged.add(Number(second));
      else acknowledged.delete(Number(second));
      next = Math.max(next, Number(second) + 1);
    }
    next += 1;
    const store = await made.reopen();
    for (const folder of ['tmp', 'trash', 'sessions'])
      assert.deepEqual(readdirSync(join(made.root, '.holdfast', folder)), [], folder);
    const { snapshots } = await store.readGroup(snapshotAt(1));
    assert.ok(snapshots.every(({ isFinished }) => isFinished));
    for (const second of acknowledged) {
      assert.deepEqual(
        (await store.verifySnapshot(snapshotAt(second), 'UPID:k')).problems,
        [],
        `backup ${second}, round ${round}`,
      );
    }
    assert.ok((await collect(store)).listed !== null);
    assert.deepEqual(chunksOn(made.root), referredIn(made.root), `round ${round}: exactly what is referred to stays`);
    age(made.root); // what is known by now
    // The next writer begins as after a crash, or as after an end in order.
    if (round % 2 === 0) await store.close();
  }
  assert.ok(next > 20, `only ${next} backups were begun`);
});

/** Lets the writer work until it has said so many lines, and a little longer, then kills it. */
async function runAndKill(command: string[], lines: number, moreMs: number): Promise<string[]> {
  const child = spawn(process.execPath, command, { stdio: ['ignore', 'pipe', 'inherit'] });
  const out: Buffer[] = [];
  let said = 0;
  child.stdout.on('data', (data: Buffer) => {
    out.push(data);
    const before = said;
    said += data.toString().split('\n').length - 1;
    if (before < lines && said >= lines) setTimeout(() => child.kill('SIGKILL'), moreMs);
  });
  await new Promise((resolve) => void child.once('close', resolve));
  return Buffer.concat(out)
    .toString()
    .split('\n')
    .filter((line) => /^(done|gone) \d+$/.test(line));
}

test('after a crash only folders that changed are listed; what hides from that is found by the look in turn, or by being missed', async () => {
  using made = await makeBareStore();
  const parts = realParts(made.root);
  const pathOf = (hex: string): string => join(made.root, '.chunks', hex.slice(0, 4), hex);
  const first = await made.store.startBackup(snapshotAt(60), 'root@pam');
  const kept = [chunkOf(randomBytes(100)), chunkOf(randomBytes(100))];
  await sendArchive(first, kept);
  await first.finish();
  await made.store.collectGarbage();
  age(made.root);
  const stray = await made.store.startBackup(snapshotAt(120), 'root@pam');
  const litter = chunkOf(randomBytes(100));
  await stray.addChunk(litter);
  await stray.abort();
  // Never closed: as after a crash.
  const second = await openDatastore(parts);
  const told = await collect(second);
  assert.deepEqual([told.listed, told.removed], ['1 of 3', 1]);
  assert.ok(!existsSync(pathOf(formatHex(litter.digest))));

  // Somebody puts a chunk there and sets the folder's time back: nothing tells of it.
  const hidden = chunkOf(randomBytes(100));
  const [path, old] = [pathOf(formatHex(hidden.digest)), new Date('2020-01-01')];
  mkdirSync(join(path, '..'), { recursive: true });
  writeFileSync(path, hidden.encoded);
  utimesSync(join(path, '..'), old, old);
  const third = await openDatastore(parts);
  const found = await collect(third);
  assert.deepEqual([found.removed, found.said.includes('a folder of chunks is not as it was known')], [1, true]);

  // The same with one that a snapshot refers to.
  writeFileSync(path, hidden.encoded);
  utimesSync(join(path, '..'), old, old);
  const index = join(made.root, 'vm/100/1970-01-01T00:01:00Z/data.didx');
  const file = readFileSync(index);
  file.set(hidden.digest, 4096 + 8);
  writeFileSync(index, file);
  const fourth = await openDatastore({ ...parts, foldersInTurn: 0 });
  const missed = await collect(fourth);
  assert.ok(
    missed.said.some((text) => text.includes('of which nothing was known')),
    missed.said.join(', '),
  );
  assert.ok(existsSync(path));
  assert.equal(statSync(path).size, hidden.encoded.length);
});

test('a checkpoint of a clock that went back is not believed', async () => {
  using made = await makeBareStore();
  let nowMs = Date.now();
  const crashed = await openDatastore({ ...realParts(made.root), nowMs: () => nowMs });
  const before = await crashed.startBackup(snapshotAt(30), 'root@pam');
  await sendArchive(before, [chunkOf(randomBytes(100)), chunkOf(randomBytes(100))]);
  await before.finish();
  await collect(crashed);
  age(made.root);
  nowMs -= 3_600_000;
  const session = await crashed.startBackup(snapshotAt(60), 'root@pam');
  await session.addChunk(chunkOf(randomBytes(100)));
  const after = await openDatastore(realParts(made.root));
  assert.equal((await collect(after)).listed, '3 of 3');
  await session.abort();
});
