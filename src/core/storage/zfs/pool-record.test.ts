import assert from 'node:assert/strict';
import { test } from 'node:test';
import {
  describeMissingPool,
  findPoolNotes,
  formatPoolUse,
  listPoolChanges,
  saysTheSame,
  type PoolRecord,
} from './pool-record.ts';
import type { PoolStatus } from './pool-status.ts';

const device = (name: string, depth: number) => ({
  name,
  depth,
  state: 'ONLINE',
  readErrors: 0,
  writeErrors: 0,
  checksumErrors: 0,
  note: null,
});
const raidz = (disks: number): PoolStatus => ({
  name: 'tank',
  state: 'ONLINE',
  status: null,
  action: null,
  scan: null,
  devices: [
    device('tank', 0),
    device('raidz1-0', 1),
    ...Array.from({ length: disks }, (_, index) => device(`/dev/disk${index}`, 2)),
  ],
  lostData: null,
});
const fine: PoolRecord = {
  node: 'n1',
  pool: 'tank',
  use: { sizeBytes: 2 ** 40, allocatedBytes: 2 ** 38, usedPercent: 25 },
  health: { level: 'fine', problems: [] },
  notes: [],
  forecast: { bytesPerDay: 2 ** 30, daysLeft: 614.4 },
  isScrubbing: false,
  atMs: 1,
};
const worn: PoolRecord = { ...fine, health: { level: 'worn', problems: [{ what: 'disk a is REMOVED', next: 'replace it' }] } };

test('blocks too small for the width of a pool, and sectors too small for its disks, are noted with what helps', () => {
  const facts = { sectorBytes: 4_096, volumeBlocks: new Map([[16_384, 2]]) };
  assert.deepEqual(findPoolNotes(raidz(3), facts), []);
  const [note = ''] = findPoolNotes(raidz(5), facts);
  assert.match(note, /2 disks have blocks of 16 KiB.* 1\.20 times .*RAID-Z1 of 5.*block-bytes = 32768/);
  assert.match(findPoolNotes(raidz(3), { ...facts, sectorBytes: 512 })[0] ?? '', /sectors of 512 bytes/);
});

test('a scrub that runs is a note, no problem', () => {
  const scan = { kind: 'scrub' as const, state: 'running' as const, progress: 0.42, repaired: null, errors: null, when: null };
  const [note = ''] = findPoolNotes({ ...raidz(3), scan }, { sectorBytes: 4_096, volumeBlocks: new Map() });
  assert.match(note, /42 % done/);
});

test('what is new of a pool is told once, and that it is well again', () => {
  assert.deepEqual(listPoolChanges(fine, worn), ['disk a is REMOVED. Next: replace it']);
  assert.deepEqual(listPoolChanges(worn, worn), []);
  assert.deepEqual(listPoolChanges(worn, fine), ['tank is well again']);
  assert.deepEqual(listPoolChanges(null, fine), []);
});

test('bytes and the progress of a scan are not worth a write, a percent of use is', () => {
  const use = { ...fine.use!, allocatedBytes: 1 };
  assert.ok(saysTheSame(fine, { ...fine, use, atMs: 2 }));
  const scan = (percent: number) => ({ ...fine, notes: [`a scrub, ${percent} % done`] });
  assert.ok(saysTheSame(scan(1), scan(2)));
  assert.ok(!saysTheSame(fine, worn));
  assert.ok(!saysTheSame(fine, { ...fine, use: { ...fine.use!, usedPercent: 26 } }));
});

test('a pool that is not imported is lost, with the command that brings it in', () => {
  const record = describeMissingPool('n1', 'tank', 'no such pool', 5);
  assert.equal(record.health.level, 'lost');
  assert.match(record.health.problems[0]?.next ?? '', /pool import tank/);
  assert.equal(formatPoolUse(record), 'not known');
  assert.match(formatPoolUse(fine), /^25 % of 1 TiB, 85 % in /);
});
