import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { GuestRecord } from '#core/guest/guest-record.ts';
import { keys, prefixes } from '#core/ha/keys.ts';
import type { HaResource } from '#core/ha/records.ts';
import { beat, createHealthyCluster, listKeys, playAgent, running, type FakeWorld } from '#cli/fake-world.ts';

/** The healthy cluster, whose nodes have 8 GiB each, with a guest 101 on n2 that is not wanted started yet. */
function createCluster(memoryMb: number): FakeWorld {
  const fake = createHealthyCluster();
  const guest = fake.store.peek<GuestRecord>(keys.guest(100));
  assert.ok(guest !== null);
  fake.store.put(keys.guest(101), { ...guest, vmid: 101, name: 'pacs', home: 'n2', config: { ...guest.config, memoryMb } });
  fake.store.put(keys.haResource(101), { vmid: 101, want: 'stopped', maxDataAgeMs: null });
  return fake;
}

const wanted = (fake: FakeWorld) => fake.store.peek<HaResource>(keys.haResource(101))?.want;

test('a guest that would find no room after the loss of its node is not started, by whatever command', async () => {
  for (const argv of ['guest start 101 --no-wait', 'ha set 101 --want started']) {
    const fake = createCluster(9 * 1_024);
    const { code, err } = await fake.run(...argv.split(' '));
    assert.equal(code, 4, argv);
    assert.match(
      err,
      /starting guest 101 pacs: after the loss of n2, guest 101 would have no place: n1: .*; n3: 8 GiB of memory free, 9 GiB needed; nothing was changed/,
    );
    assert.equal(wanted(fake), 'stopped');
    assert.equal((await fake.run(...argv.split(' '), '--force')).code, 0);
    assert.equal(wanted(fake), 'started');
  }
});

test('a guest for which there is room is started although it has no copy yet', async () => {
  const fake = createCluster(4 * 1_024);
  assert.equal((await fake.run('guest', 'start', '101', '--no-wait')).code, 0);
  assert.equal(wanted(fake), 'started');
});

test('what is wanted started already, or only changed otherwise, is not asked about', async () => {
  const fake = createCluster(9 * 1_024);
  await fake.run('ha', 'set', '101', '--want', 'started', '--force');
  assert.equal((await fake.run('guest', 'start', '101', '--no-wait')).code, 0);
  assert.equal((await fake.run('ha', 'set', '101', '--retries', '2')).code, 0);
});

test('a guest that would take the room of another is refused in that one’s name', async () => {
  const fake = createCluster(8 * 1_024);
  const guest = fake.store.peek<GuestRecord>(keys.guest(101));
  fake.store.put(keys.guest(102), { ...guest, vmid: 102, name: 'web', home: 'n3' });
  fake.store.put(keys.haResource(102), { vmid: 102, want: 'started', maxDataAgeMs: null });
  const { code, err } = await fake.run('guest', 'start', '101', '--no-wait');
  assert.deepEqual([code, /guest 100 would have no place/.test(err)], [4, true], err);
});

test('guest create --start asks before anything is made', async () => {
  const fake = createHealthyCluster();
  const argv = 'guest create --name big --memory 9G --disk disk0=1G --start'.split(' ');
  const refused = await fake.run(...argv);
  assert.deepEqual([refused.code, /starting guest 101 big: after the loss of n1/.test(refused.err)], [4, true], refused.err);
  assert.deepEqual(await listKeys(fake, prefixes.requests), []);
  playAgent(fake, [running, { state: 'done', result: [] }]);
  assert.equal((await fake.run(...argv, '--force')).code, 0);
});

test('a cluster of one node, and one that is disarmed, take every guest', async () => {
  const alone = createCluster(9 * 1_024);
  alone.onSleep = () => beat(alone, 'n2');
  assert.equal((await alone.run('guest', 'start', '101', '--no-wait')).code, 0);
  const disarmed = createCluster(9 * 1_024);
  const memory = { nodes: {}, drains: [], unguarded: [], imbalancedRounds: 0, nextOrderId: 1, flaps: {} };
  disarmed.store.put(keys.haMemory, { ...memory, disarm: { mode: 'hold', stage: 'complete' } });
  assert.equal((await disarmed.run('guest', 'start', '101', '--no-wait')).code, 0);
});
