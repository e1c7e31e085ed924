import assert from 'node:assert/strict';
import { test } from 'node:test';
import { prefixes } from '#core/ha/keys.ts';
import { createHealthyCluster, listKeys, playAgent, running } from '#cli/fake-world.ts';

test('a request that nobody takes up is withdrawn and says that nothing was changed', async () => {
  const fake = createHealthyCluster();
  const { code, err } = await fake.run('replication', 'sync', '100');
  assert.equal(code, 9);
  assert.match(err, /the agent on n1 did not take up .* in 15 s; it was withdrawn and nothing was changed/);
  assert.deepEqual(await listKeys(fake, prefixes.requests), []);
});

test('what the agent reports as failed ends the command with the same kind', async () => {
  const fake = createHealthyCluster();
  playAgent(fake, [{ state: 'failed', error: { kind: 'busy', message: 'a cycle is under way' } }]);
  const { code, err } = await fake.run('replication', 'sync', 'ehr-db', '--to', 'n2');
  assert.equal(code, 7);
  assert.match(err, /holdfast: n1 could not replicate guest 100 now to n2: a cycle is under way$/m);
});

test('Ctrl-C withdraws a request that waits and leaves one that runs', async () => {
  const waiting = createHealthyCluster();
  const before = waiting.onSleep;
  waiting.onSleep = () => {
    before();
    waiting.interrupt.abort(new Error('interrupted'));
  };
  const first = await waiting.run('replication', 'sync', '100');
  assert.equal(first.code, 130);
  assert.match(first.err, /the request was withdrawn, nothing was changed/);
  assert.deepEqual(await listKeys(waiting, prefixes.requests), []);

  const busy = createHealthyCluster();
  playAgent(busy, [running]);
  const played = busy.onSleep;
  let sleeps = 0;
  busy.onSleep = () => {
    played();
    sleeps += 1;
    if (sleeps === 3) busy.interrupt.abort(new Error('interrupted'));
  };
  const second = await busy.run('replication', 'sync', '100');
  assert.equal(second.code, 130);
  assert.match(second.err, /n1 goes on with it, see `holdfast requests`/);
  const [key = ''] = await listKeys(busy, prefixes.requests);
  const id = key.slice(prefixes.requests.length);
  busy.interrupt = new AbortController();
  assert.match((await busy.run('requests')).out, /n1 +running +replicate guest 100 now +copying disk0/);
  const works = await busy.run('requests', 'remove', id);
  assert.deepEqual([works.code, /n1 works on it/.test(works.err)], [4, true]);
  busy.store.put(key, { ...busy.store.peek<object>(key), state: 'done', result: [] });
  assert.equal((await busy.run('requests', 'remove', id)).code, 0);
  assert.equal((await busy.run('requests', 'remove', id)).code, 3);
});
