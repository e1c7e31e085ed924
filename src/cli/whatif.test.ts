import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { GuestRecord } from '#core/guest/guest-record.ts';
import { keys } from '#core/ha/keys.ts';
import type { HaStatus } from '#core/ha/records.ts';
import type { ReplicaRecord } from '#core/replica/records.ts';
import { createHealthyCluster, type FakeWorld } from '#cli/fake-world.ts';

/** The healthy cluster with a guest 101 beside 100 on n1, whose only copy lies on n2, and a guest 102 on n3. */
function createCluster(): FakeWorld {
  const fake = createHealthyCluster();
  const record = fake.store.peek<GuestRecord>(keys.guest(100));
  const status = fake.store.peek<HaStatus>(keys.haStatus(100));
  const copy = fake.store.peek<ReplicaRecord>(keys.replica(100, 'n2'));
  for (const [vmid, name, home, copyOn] of [
    [101, 'pacs', 'n1', 'n2'],
    [102, 'web', 'n3', 'n1'],
  ] as const) {
    fake.store.put(keys.guest(vmid), { ...record, vmid, name, home });
    fake.store.put(keys.haResource(vmid), { vmid, want: 'started', maxDataAgeMs: null });
    fake.store.put(keys.haStatus(vmid), { ...status, vmid, node: home, startTookMs: 2_000 });
    fake.store.put(keys.replica(vmid, copyOn), { ...copy, vmid, node: copyOn, leftBehind: [] });
  }
  return fake;
}

type Answer = {
  fits: boolean;
  quorum: { holds: boolean };
  guests: { vmid: number; from: string; to: string | null; because: string; dataAgeMs: number | null; downtime: object | null }[];
  stays: { vmid: number; now: string | null }[];
};

test('whatif tells where each guest of a lost node would run, with which data, after how long', async () => {
  const fake = createCluster();
  const before = await fake.store.list('/');
  const { code, out } = await fake.run('whatif', '--down', 'n1');
  assert.equal(code, 0, out);
  assert.match(out, /^ +100 +ehr-db +n1 +n[23] +21 s +16 s \+ its start +/m);
  assert.match(out, /^ +101 +pacs +n1 +n2 +21 s +18 s +/m);
  assert.match(out, /^Guest 102 web stays where it is\.$/m);
  assert.match(out, /^Without n1 every guest would find a place\.$/m);
  const kept = ['/holdfast/guests/', '/holdfast/ha/', '/holdfast/replicas/'];
  const left = (entries: { key: string }[]) => entries.filter(({ key }) => kept.some((prefix) => key.startsWith(prefix)));
  assert.deepEqual(left((await fake.store.list('/')).entries), left(before.entries));
});

test('whatif --json gives the same to programs', async () => {
  const fake = createCluster();
  const answer = JSON.parse((await fake.run('whatif', '--down', 'n1', '--json')).out) as Answer;
  assert.deepEqual([answer.fits, answer.quorum.holds, answer.stays.map(({ vmid }) => vmid)], [true, true, [102]]);
  const pacs = answer.guests.find(({ vmid }) => vmid === 101);
  assert.deepEqual([pacs?.from, pacs?.to], ['n1', 'n2']);
  assert.deepEqual(pacs?.downtime, { silenceMs: 15_500, powerOffMs: null, startMs: 2_000 });
});

test('what would not fit is told with the reason of each node, and the exit code says so', async () => {
  const fake = createCluster();
  const pacs = fake.store.peek<GuestRecord>(keys.guest(101));
  fake.store.put(keys.guest(101), { ...pacs, config: { ...pacs?.config, memoryMb: 8_192 } });
  const web = fake.store.peek<GuestRecord>(keys.guest(102));
  fake.store.put(keys.guest(102), { ...web, home: 'n2' });
  const { code, out } = await fake.run('whatif', '--down', 'n1');
  assert.equal(code, 21, out);
  assert.match(out, /^ +101 +pacs +n1 +nowhere +- +- +.*n2/m);
  assert.match(out, /^Without n1 this would run nowhere: 101 pacs\.$/m);
});

test('a controller that says off shortens the wait; a lost leader must be replaced first', async () => {
  const fake = createCluster();
  fake.store.put(keys.nodeBmc('n1'), { kind: 'ipmilan', address: '10.0.0.9', port: 623, user: 'u', passwordFile: '/p' });
  const follower = await fake.run('whatif', '--down', 'n1');
  assert.match(follower.out, /^ +101 .* 6\.0 s to 18 s /m);
  fake.store.put(keys.manager, { node: 'n1', epoch: 5, sinceAtMs: 0 });
  const leader = await fake.run('whatif', '--down', 'n1');
  assert.match(leader.out, /^ +101 .* 8\.0 s to 18 s /m);
});

test('without quorum nothing starts, and that is said first of all', async () => {
  const fake = createCluster();
  const { code, out } = await fake.run('whatif', '--down', 'n1,n3');
  assert.equal(code, 21);
  assert.match(out, /^Without n1, n3 the store has no quorum \(1 of 3 members left, 2 needed\): nothing starts anywhere/m);
});

test('a guest that does not run now is not promised to run then', async () => {
  const fake = createCluster();
  fake.store.put(keys.haStatus(102), { ...fake.store.peek<HaStatus>(keys.haStatus(102)), state: 'stopped' });
  const { code, out } = await fake.run('whatif', '--down', 'n1');
  assert.equal(code, 0);
  assert.match(out, /^Guest 102 web stays where it is; not running now, and not then: 102 web\.$/m);
});

test('an unknown node is refused by the option that named it', async () => {
  const fake = createCluster();
  const { code, err } = await fake.run('whatif', '--down', 'n1,n9');
  assert.deepEqual([code, err], [3, 'holdfast: down: there is no node n9; known: n1, n2, n3\n']);
  assert.equal((await fake.run('whatif')).code, 2);
});
