import assert from 'node:assert/strict';
import { test } from 'node:test';
import { planBackup, type BackedUp } from '#core/guest-backup/plan-backup.ts';

const disks = [
  { name: 'disk0', sizeBytes: 10 },
  { name: 'disk1', sizeBytes: 20 },
];
const newest: BackedUp = {
  group: 'vm/100',
  atSeconds: 7,
  key: null,
  disks: disks.map((disk) => ({ ...disk, csum: `c-${disk.name}` })),
};

test('nothing there: whole; the very backup that the bitmap counts from: the bitmap', () => {
  assert.equal(planBackup(disks, { base: newest, pending: null }, null).kind, 'whole');
  const reordered = { ...newest, disks: newest.disks.toReversed() };
  assert.equal(planBackup(disks, { base: newest, pending: null }, reordered).kind, 'delta');
});

test('a backup whose end was not heard of counts as well', () => {
  const older = { ...newest, atSeconds: 6 };
  assert.equal(planBackup(disks, { base: older, pending: newest }, newest).kind, 'delta');
  assert.equal(planBackup(disks, { base: older, pending: newest }, older).kind, 'delta');
});

test('anything else is compared, never taken on trust', () => {
  const others: BackedUp[] = [
    { ...newest, atSeconds: 8 },
    { ...newest, group: 'vm/101' },
    { ...newest, key: 'ab' },
    { ...newest, disks: newest.disks.map((disk) => ({ ...disk, csum: 'x' })) },
  ];
  for (const other of others) assert.equal(planBackup(disks, { base: newest, pending: null }, other).kind, 'compare');
  assert.equal(planBackup(disks, null, newest).kind, 'compare');
  const grown = [{ name: 'disk0', sizeBytes: 11 }, disks[1]!];
  assert.match(planBackup(grown, { base: newest, pending: null }, newest).because, /resized/);
  assert.match(planBackup(disks.slice(1), { base: newest, pending: null }, newest).because, /removed/);
});
