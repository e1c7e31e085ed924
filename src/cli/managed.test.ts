import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { GuestRecord } from '#core/guest/guest-record.ts';
import { keys } from '#core/ha/keys.ts';
import type { GuestEntry } from '#core/ha/manager/memory.ts';
import type { AgentRecord, HaMemory } from '#core/ha/records.ts';
import { createHealthyCluster, type FakeWorld } from '#cli/fake-world.ts';

/** The healthy cluster after some work of the manager: guest 100 failed on n2 and is moving, n3 is drained, n2 flapped. */
function createManagedCluster(): FakeWorld {
  const fake = createHealthyCluster();
  const entry: GuestEntry = {
    state: { kind: 'moving-cold', to: 'n2' },
    node: 'n1',
    orderId: 8,
    failedNodes: ['n2'],
    returnTo: 'n3',
    command: null,
    sinceMs: fake.nowMs - 60_000,
    because: 'a move was asked for',
  };
  fake.store.put(keys.guest(100), { ...fake.store.peek<GuestRecord>(keys.guest(100)), ha: entry });
  const memory: HaMemory = {
    nodes: { n1: 'up', n2: 'up', n3: 'draining' },
    drains: ['n3'],
    disarm: null,
    unguarded: [],
    imbalancedRounds: 0,
    nextOrderId: 9,
    flaps: { n2: { claimedAtMs: [fake.nowMs - 120_000, fake.nowMs - 60_000], quarantined: true } },
  };
  fake.store.put(keys.haMemory, memory);
  const agent: AgentRecord = { mode: 'maintenance', bootId: 'b', because: 'policy migrate: guests leave first', atMs: 0 };
  fake.store.put(keys.nodeAgent('n3'), agent);
  return fake;
}

test('ha list tells state, place and next step of each guest', async () => {
  const fake = createManagedCluster();
  const { code, out } = await fake.run('ha', 'list');
  assert.equal(code, 0);
  assert.match(out, /^ +100 +ehr-db +started +moving-cold +n1 > n2 +1 min 1 s +agent: n1 moves it/m);
  assert.ok(
    out.split('\n').every((line) => line.length <= 100),
    out,
  );
  const [guest] = JSON.parse((await fake.run('ha', 'list', '--json')).out) as { manager: { orderId: number } }[];
  assert.equal(guest?.manager.orderId, 8);
});

test('ha list says of a guest without a manager why it has none', async () => {
  const fake = createHealthyCluster();
  assert.match((await fake.run('ha', 'list')).out, /the manager has not adopted it yet/);
  await fake.run('ha', 'set', '100', '--want', 'ignored');
  assert.match((await fake.run('ha', 'list')).out, /it is to be ignored/);
});

test('ha show tells everything about one guest', async () => {
  const fake = createManagedCluster();
  await fake.run('ha', 'rule', 'prefer-nodes', 'db', '--guests', '100', '--nodes', 'n1');
  const { out } = await fake.run('ha', 'show', 'ehr-db');
  for (const line of [
    /^guest +100 ehr-db, wanted started, at home on n1 \(generation 1\)$/m,
    /^manager +moving-cold on n1 for .*: a move was asked for$/m,
    /^next +agent: n1 moves it to n2; in .* at most$/m,
    /^failed on +n2$/m,
    /^returns to +n3 when it is undrained$/m,
    /^order +run \(number 1, node epoch 3\)$/m,
    /^recovery +onto verified copies of any age$/m,
    /^rule +rule db: guests 100 belong on n1 \(rank 0\)$/m,
  ]) {
    assert.match(out, line);
  }
});

test('ha nodes tells states, drains, quarantine and what agents say', async () => {
  const fake = createManagedCluster();
  const { out } = await fake.run('ha', 'nodes');
  assert.match(out, /^n2 leads; armed; claims: within 1 h, quarantined at 5$/m);
  assert.match(out, /^n1 +up +serving +active +-$/m);
  assert.match(out, /^n2 +up +serving +active +2 +quarantined: receives no guests$/m);
  assert.match(out, /^n3 +draining +serving +maintenance +- +drained by an operator; policy migrate: guests$/m);
});

test('status names quarantined and drained nodes', async () => {
  const { code, out } = await createManagedCluster().run('status');
  assert.equal(code, 20);
  assert.match(out, /n2 receives no guests: it is quarantined \(claimed 2 times in 1 h\)/);
  assert.match(out, /n3 is drained: guests stay away from it: `holdfast ha undrain n3` when the work is done/);
});
