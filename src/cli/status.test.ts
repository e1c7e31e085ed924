import assert from 'node:assert/strict';
import { test } from 'node:test';
import { AppError } from '#base/error.ts';
import { keys } from '#core/ha/keys.ts';
import { beat, createFakeWorld, createHealthyCluster } from '#cli/fake-world.ts';

test('status of a healthy cluster ends in its verdict and exits with 0', async () => {
  const { code, out } = await createHealthyCluster().run('status');
  assert.equal(code, 0);
  const lines = out.trimEnd().split('\n');
  assert.equal(
    lines.at(-1),
    'Guest 100 ehr-db runs and has a verified copy on 2 other nodes, oldest data 21 s. One thing is worth a look.',
  );
  const tables = lines.slice(
    0,
    lines.findIndex((line) => line.startsWith('- ')),
  );
  assert.ok(tables.length > 10 && tables.every((line) => line.length <= 100), out);
  assert.match(out, /^quorum {3}3 of 3 members work \(n1 leads, n2, n3\)$/m);
  assert.match(out, /^manager {2}n2 \(epoch 4\)$/m);
  assert.match(out, /^n1 +serving +3 +ok +6\.0 s +kvm +1 +512\/8192 MiB$/m);
  assert.match(out, /^100 ehr-db +n2 +21 s +1 min +g1\.12 +delta +3 MiB +0\.3 s +11 ms$/m);
  assert.match(out, /^ +100 +n3 +left-behind-g1 +5 MiB +42 s$/m);
});

test('status --json carries the same facts, and nothing else is printed', async () => {
  const { code, out } = await createHealthyCluster().run('status', '--json');
  const view = JSON.parse(out) as { verdict: { level: string }; guests: { state: string }[] };
  assert.deepEqual([code, view.verdict.level, view.guests[0]?.state], [0, 'ok', 'running']);
});

test('status tells of backups whose last try failed, of guests and targets that there still are', async () => {
  const fake = createHealthyCluster();
  const record = {
    node: 'n1',
    generation: 1,
    last: null,
    jobs: {},
    failed: { atMs: fake.nowMs - 3_600_000, because: 'it hangs' },
  };
  fake.store.put(keys.backupTarget('vault'), { id: 'vault' });
  fake.store.put(keys.guestBackup(100, 'vault'), { ...record, vmid: 100, target: 'vault' });
  fake.store.put(keys.guestBackup(100, 'gone'), { ...record, vmid: 100, target: 'gone' });
  fake.store.put(keys.guestBackup(999, 'vault'), { ...record, vmid: 999, target: 'vault' });
  const { out } = await fake.run('status');
  assert.deepEqual(out.match(/^.*FAILED.*$/gm), [
    'guest 100: backup to vault FAILED 1 h ago (it hangs); there is none there yet',
  ]);
});

test('a node that stops renewing is seen within the watch, and its guest counts as down', async () => {
  const fake = createHealthyCluster();
  fake.onSleep = () => ['n2', 'n3'].forEach((node) => beat(fake, node));
  const { code, out } = await fake.run('status');
  assert.equal(code, 21);
  assert.match(out, /^n1 +silent/m);
  assert.match(out, /guest 100 ehr-db does not run \(frozen: its home n1 is silent\)/);
});

test('without quorum status still tells which members answer', async () => {
  const fake = createFakeWorld();
  fake.healthy = ['n3'];
  fake.store.list = () => Promise.reject(new AppError('timeout', 'list: no answer'));
  fake.store.read = () => Promise.reject(new AppError('timeout', 'read: no answer'));
  const { code, out } = await fake.run('status');
  assert.equal(code, 21);
  assert.equal((await fake.run('guest', 'list')).code, 9);
  assert.match(out, /there is no quorum: 1 of 3 members of the store work \(not: n1, n2\)/);
});

test('common options may stand before or after the command, and usage errors exit with 2', async () => {
  const fake = createHealthyCluster();
  assert.ok((await fake.run('--json', 'node', 'list')).out.startsWith('['));
  assert.ok((await fake.run('node', 'list', '--json')).out.startsWith('['));
  assert.equal((await fake.run('guest', 'lst')).code, 2);
  assert.equal((await fake.run('guest', 'create')).code, 2);
  assert.equal((await fake.run('--help')).code, 0);
});

test('a pool that has lost a disk is shown, named in the verdict with its next step, and changes the exit code', async () => {
  const fake = createHealthyCluster();
  const use = { sizeBytes: 2 ** 40, allocatedBytes: 2 ** 38, usedPercent: 25 };
  const problem = { what: 'disk b is REMOVED', next: 'replace it: holdfast pool replace tank b NEW-DISK' };
  const record = { pool: 'tank', use, notes: [], forecast: null, isScrubbing: false, atMs: 0 };
  fake.store.put(keys.nodePool('n1'), { ...record, node: 'n1', health: { level: 'worn', problems: [problem] } });
  const { code, out } = await fake.run('status');
  assert.equal(code, 20);
  assert.match(out, /n1 +tank +worn +25 % of 1 TiB/);
  assert.match(out, /n1: disk b is REMOVED\. Next: replace it: holdfast pool replace tank b NEW-DISK/);
});
