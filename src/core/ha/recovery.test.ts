import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { GuestRecord } from '#core/guest/guest-record.ts';
import { planRecovery, type RecoveryNode } from '#core/ha/recovery.ts';
import type { HaResource } from '#core/ha/records.ts';
import type { ReplicaRecord } from '#core/replica/records.ts';

const guest: GuestRecord = {
  vmid: 100,
  name: 'db',
  config: { cores: 1, memoryMb: 512, disks: [], nics: [], boot: null },
  home: 'n1',
  generation: 2,
  order: null,
};
const resource: HaResource = { vmid: 100, want: 'started', maxDataAgeMs: 60_000 };
const node = (name: string, change: Partial<RecoveryNode> = {}): RecoveryNode => ({
  name,
  epoch: 9,
  usable: true,
  because: '',
  freeMemoryMb: 4096,
  guestCount: 0,
  ...change,
});
const replica = (name: string, seq: number, pointAtMs: number, generation = 2): ReplicaRecord => ({
  vmid: 100,
  node: name,
  source: 'n1',
  point: { generation, seq },
  pointAtMs,
  appliedAtMs: pointAtMs,
  lastCycle: { kind: 'delta', bytes: 0, tookMs: 0, pausedMs: 0 },
  leftBehind: [],
});

test('the freshest copy wins, even over a node with less load', () => {
  const choice = planRecovery(
    guest,
    resource,
    [replica('n2', 4, 90_000), replica('n3', 5, 95_000)],
    [node('n2'), node('n3', { guestCount: 7 })],
    100_000,
  );
  assert.equal(choice.kind, 'place');
  if (choice.kind === 'place') {
    assert.equal(choice.node, 'n3');
    assert.equal(choice.dataAgeMs, 5000);
    assert.deepEqual(choice.promote, { generation: 2, seq: 5 });
  }
});

test('a newer generation is fresher than any point of an older one', () => {
  const choice = planRecovery(
    guest,
    resource,
    [replica('n2', 900, 99_000, 1), replica('n3', 1, 98_000, 2)],
    [node('n2'), node('n3')],
    100_000,
  );
  assert.equal(choice.kind === 'place' && choice.node, 'n3');
});

test('equal copies go to the node with fewer guests, then by name', () => {
  const copies = [replica('n2', 5, 90_000), replica('n3', 5, 90_000)];
  const byLoad = planRecovery(guest, resource, copies, [node('n2', { guestCount: 2 }), node('n3', { guestCount: 1 })], 100_000);
  assert.equal(byLoad.kind === 'place' && byLoad.node, 'n3');
  const byName = planRecovery(guest, resource, copies, [node('n3'), node('n2')], 100_000);
  assert.equal(byName.kind === 'place' && byName.node, 'n2');
});

test('unusable, full or too old: passed over, each with its reason', () => {
  const choice = planRecovery(
    guest,
    resource,
    [replica('n2', 5, 95_000), replica('n3', 4, 94_000), replica('n4', 3, 10_000)],
    [node('n2', { usable: false, because: 'is silent' }), node('n3', { freeMemoryMb: 100 }), node('n4')],
    100_000,
  );
  assert.equal(choice.kind, 'defer');
  assert.match(
    choice.because,
    /n2: is silent; n3: 100 MiB free, 512 MiB needed; n4: its copy is 90000 ms old, the limit is 60000 ms/,
  );
});

test('no copy anywhere is said as such, and the lost home’s own copy is no target', () => {
  const choice = planRecovery(guest, resource, [replica('n1', 9, 99_000)], [node('n1'), node('n2')], 100_000);
  assert.deepEqual(choice, { kind: 'defer', because: 'no verified replica of guest 100 on any node' });
});
