import assert from 'node:assert/strict';
import { test } from 'node:test';
import { createPointLock } from '#programs/replication/point-lock.ts';

test('one at a time for each guest, in order; who is urgent hurries whoever holds it', async () => {
  const lock = createPointLock();
  const story: string[] = [];
  const urgent = new AbortController();
  const first = lock.hold(100, async (hurry) => {
    story.push('first');
    await new Promise((resolve) => hurry.addEventListener('abort', resolve));
    story.push('first hurries');
  });
  const second = lock.hold(100, async (hurry) => void story.push(`second, hurried: ${hurry.aborted}`));
  await lock.hold(101, async () => void story.push('another guest'));
  const third = lock.hold(100, async () => void story.push('third'), { urgent: urgent.signal });
  urgent.abort();
  await Promise.all([first, second, third]);
  assert.deepEqual(story, ['first', 'another guest', 'first hurries', 'second, hurried: false', 'third']);
});

test('a failure lets the next one in', async () => {
  const lock = createPointLock();
  await assert.rejects(
    lock.hold(100, async () => Promise.reject(new Error('no'))),
    /no/,
  );
  assert.equal(await lock.hold(100, async () => 1), 1);
});
