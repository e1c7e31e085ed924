import assert from 'node:assert/strict';
import { test } from 'node:test';
import { keys, prefixes } from '#core/ha/keys.ts';
import { createHealthyCluster, listKeys, playAgent, running, type FakeWorld } from '#cli/fake-world.ts';

function withTarget(): FakeWorld {
  const fake = createHealthyCluster();
  fake.store.put(keys.backupTarget('vault'), { id: 'vault' });
  return fake;
}

test('a live restore says what it costs before it asks for it', async () => {
  const fake = withTarget();
  const seen = playAgent(fake, [running, { state: 'done', result: ['guest 201 is complete'] }]);
  const { code, out, err } = await fake.run('restore', '100', '201', '--target', 'vault', '--node', 'n2', '--live');
  assert.equal(code, 0, err);
  assert.match(out, /guest 201 is complete/);
  assert.match(
    err,
    /^guest 201 starts on n2 at once; .*vault,\n- no other node has a copy: if n2 is lost for good, all .* is lost/,
  );
  const { kind, node, want, live } = seen[0] as unknown as Record<string, unknown>;
  assert.deepEqual({ kind, node, want, live }, { kind: 'guest-restore', node: 'n2', want: 'started', live: true });
});

test('it makes a new guest only, and is taken back by deleting what was asked', async () => {
  const fake = withTarget();
  const both = await fake.run('restore', '100', '--over', '--live', '--target', 'vault');
  assert.deepEqual([both.code, both.err.startsWith('holdfast: live: it makes a new guest')], [2, true]);
  assert.deepEqual(await listKeys(fake, prefixes.requests), []);
  assert.equal((await fake.run('restore', 'abort', '201')).code, 3);
  fake.store.put(keys.request('1'), { id: '1', kind: 'guest-restore', vmid: 201, node: 'n1', ...running });
  fake.store.put(keys.request('2'), { id: '2', kind: 'guest-restore', vmid: 202, node: 'n1', ...running });
  assert.equal((await fake.run('restore', 'abort', '201')).code, 0);
  assert.deepEqual(await listKeys(fake, prefixes.requests), [keys.request('2')]);
});

test('status tells of a guest whose disks are not all there, and what to do when its node is gone', async () => {
  const fake = withTarget();
  const live = { id: '1', kind: 'guest-restore', vmid: 201, live: true, createdAtMs: 0 };
  fake.store.put(keys.request('1'), { ...live, node: 'n1', ...running });
  const { code, out } = await fake.run('status');
  assert.deepEqual(
    [code, /restore of guest 201 is under way, and no other node has a copy: copying disk0/.test(out)],
    [20, true],
  );
  fake.store.put(keys.request('1'), { ...live, node: 'n9', ...running });
  const away = await fake.run('status');
  assert.match(away.out, /guest 201 was being restored on n9, which is away/);
  assert.match(away.out, /if n9 is lost for good, restore it again under another number/);
});
