import assert from 'node:assert/strict';
import { test } from 'node:test';
import { type GuestPlanFacts, planGuestAction } from '#core/guest/guest-plan.ts';
import type { GuestRecord } from '#core/guest/guest-record.ts';

const record: GuestRecord = {
  vmid: 100,
  name: 'db',
  config: { cores: 1, memoryMb: 512, disks: [], nics: [], boot: null },
  home: 'n1',
  generation: 2,
  order: { id: 1, kind: 'run', nodeEpoch: 7, managerEpoch: 1, promote: null, lostAtMs: null, issuedAtMs: 0 },
};
const facts = (change: Partial<GuestPlanFacts> = {}): GuestPlanFacts => ({
  self: 'n1',
  epoch: 7,
  record,
  want: 'started',
  running: null,
  copy: { role: 'primary', generation: 2 },
  ...change,
});
const kind = (change: Partial<GuestPlanFacts>) => planGuestAction(facts(change)).kind;

test('a valid order with the disks here starts the guest; once it runs, nothing more', () => {
  assert.equal(kind({}), 'start');
  assert.equal(kind({ running: { generation: 2, nodeEpoch: 7 } }), 'none');
});

test('an order of another epoch, or no permit, starts nothing', () => {
  assert.equal(kind({ epoch: 8 }), 'none');
  assert.equal(kind({ epoch: null }), 'none');
});

test('a recovery promotes first; without a promotion missing disks are refused by name', () => {
  const order = { ...record.order, promote: { generation: 1, seq: 4 } } as GuestRecord['order'];
  assert.equal(kind({ copy: { role: 'replica', generation: 1 }, record: { ...record, order } }), 'promote');
  const refused = planGuestAction(facts({ copy: null }));
  assert.equal(refused.kind, 'refuse');
  assert.match(refused.because, /disks of guest 100, generation 2, are missing on n1/);
});

test('a process that should not be here is killed, whatever else holds', () => {
  assert.equal(kind({ record: { ...record, home: 'n2' }, running: { generation: 2, nodeEpoch: 7 } }), 'kill');
  assert.equal(kind({ running: { generation: 1, nodeEpoch: 7 } }), 'kill');
  assert.equal(kind({ running: { generation: 2, nodeEpoch: 6 } }), 'kill');
  assert.equal(kind({ record: null, running: { generation: 2, nodeEpoch: 7 } }), 'kill');
});

test('a primary copy left behind by a move is demoted, never while its guest runs', () => {
  const moved = { ...record, home: 'n2', generation: 3 };
  assert.equal(kind({ record: moved }), 'demote');
  assert.equal(kind({ record: moved, running: { generation: 2, nodeEpoch: 7 } }), 'kill');
  assert.equal(kind({ record: moved, copy: { role: 'replica', generation: 2 } }), 'none');
});

test('a stop order shuts a running guest down', () => {
  const order = { ...record.order, kind: 'stop' } as GuestRecord['order'];
  assert.equal(kind({ record: { ...record, order }, running: { generation: 2, nodeEpoch: 7 } }), 'shutdown');
  assert.equal(kind({ record: { ...record, order } }), 'none');
});

test('a guest that is no longer wanted started is not started again, even while its old order stands', () => {
  for (const want of ['stopped', 'disabled'] as const) assert.equal(kind({ want }), 'none', want);
});
