import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { WatchBatch } from '#ports/store.ts';
import { createBatchQueue } from './batch-queue.ts';

function changes(revision: bigint, count: number): WatchBatch {
  const one = { key: 'a', entry: { key: 'a', value: '1', modRevision: revision } };
  return { kind: 'changes', changes: Array.from({ length: count }, () => one), revision };
}

const snapshot: WatchBatch = { kind: 'snapshot', entries: [], revision: 9n };

test('batches come out in order, and a reader may wait for them', async () => {
  const queue = createBatchQueue(10);
  const first = queue.next();
  assert(queue.push(changes(1n, 1)));
  assert(queue.push(changes(2n, 1)));
  assert.equal((await first)?.revision, 1n);
  assert.equal((await queue.next())?.revision, 2n);
});

test('more changes than may wait are thrown away, and a snapshot takes their place', async () => {
  const queue = createBatchQueue(10);
  assert(queue.push(changes(1n, 6)));
  assert.equal(queue.push(changes(2n, 5)), false);
  assert(queue.push(snapshot));
  assert(queue.push(changes(10n, 10)));
  assert.deepEqual([(await queue.next())?.revision, (await queue.next())?.revision], [9n, 10n]);
});

test('room is made by reading', async () => {
  const queue = createBatchQueue(10);
  for (let revision = 1n; revision < 50n; revision += 1n) {
    assert(queue.push(changes(revision, 10)));
    assert.equal((await queue.next())?.revision, revision);
  }
});

test('what came before the end is still read; then the end, or its error', async () => {
  const queue = createBatchQueue(10);
  queue.push(changes(1n, 1));
  queue.end();
  assert.equal((await queue.next())?.revision, 1n);
  assert.equal(await queue.next(), null);
  const failed = createBatchQueue(10);
  failed.end({ cause: new Error('broken') });
  await assert.rejects(failed.next(), /broken/);
});
