import assert from 'node:assert/strict';
import { test } from 'node:test';
import { planJobs } from '#core/guest-backup/plan-jobs.ts';
import type { BackupFigures, BackupJob, GuestBackupRecord } from '#core/guest-backup/records.ts';

const hourMs = 3_600_000;
const job: BackupJob = {
  id: 'night',
  target: 'vault',
  guests: null,
  except: [103],
  schedule: '02:00',
  keep: null,
  notes: null,
  rateBytesPerSecond: null,
  freeze: true,
  enabled: true,
  test: null,
  createdAtMs: 0,
};
const toWall = (atSeconds: number) => {
  const date = new Date(atSeconds * 1_000);
  return {
    year: date.getUTCFullYear(),
    month: date.getUTCMonth() + 1,
    day: date.getUTCDate(),
    weekday: (date.getUTCDay() + 6) % 7,
    hour: date.getUTCHours(),
    minute: date.getUTCMinutes(),
  };
};
const record = (change: Partial<GuestBackupRecord>): GuestBackupRecord => ({
  vmid: 101,
  target: 'vault',
  node: 'n1',
  generation: 1,
  last: null,
  failed: null,
  jobs: {},
  ...change,
});
const last = (pointAtMs: number): GuestBackupRecord['last'] => ({
  snapshot: '',
  atSeconds: 0,
  pointAtMs,
  figures: {} as BackupFigures,
});

function due(nowMs: number, records: GuestBackupRecord[], change: Partial<BackupJob> = {}, busy = false): number[] {
  const facts = { jobs: [{ ...job, ...change }], guests: [101, 103], records, underWay: () => busy, nowMs, toWall };
  return planJobs(facts).map(({ vmid }) => vmid);
}

test('a selected guest is due once its hour has come, and then not before the next', () => {
  assert.deepEqual(due(1 * hourMs, []), []);
  assert.deepEqual(due(2 * hourMs, []), [101]);
  const done = record({ jobs: { night: 2 * hourMs }, last: last(2 * hourMs + 1) });
  assert.deepEqual(due(25 * hourMs, [done]), []);
  assert.deepEqual(due(26 * hourMs, [done]), [101]);
  assert.deepEqual(due(100 * hourMs, [done]), [101], 'missed runs are made up for once');
});

test('a run without an end is due again at once, one that is not to be tried again with the next hour', () => {
  assert.deepEqual(due(3 * hourMs, [record({ jobs: { night: 2 * hourMs } })]), [101]);
  assert.deepEqual(due(3 * hourMs, [record({ jobs: { night: 2 * hourMs } })], {}, true), [], 'unless it is under way here');
  const failed = record({ jobs: { night: 2 * hourMs }, failed: { atMs: 2 * hourMs + 5, because: 'x' } });
  assert.deepEqual(due(3 * hourMs, [failed]), []);
  assert.deepEqual(due(26 * hourMs, [failed]), [101]);
});

test('who is not selected, switched off or only run by hand is never due', () => {
  assert.deepEqual(due(100 * hourMs, [], { guests: [103] }), []);
  assert.deepEqual(due(100 * hourMs, [], { enabled: false }), []);
  assert.deepEqual(due(100 * hourMs, [], { schedule: null }), []);
});

test('who waits longest comes first, and a guest that several jobs want is due for one of them', () => {
  const done = record({ jobs: { night: 2 * hourMs }, last: last(2 * hourMs + 1) });
  const other = { ...job, id: 'noon', schedule: '12:00' };
  const later = { ...job, id: 'other', guests: [102, 103], except: [], schedule: '11:00' };
  const facts = { guests: [101, 102], records: [done], underWay: () => false, nowMs: 27 * hourMs, toWall };
  const planned = planJobs({ ...facts, jobs: [{ ...job, guests: [101] }, { ...other, guests: [101] }, later] });
  assert.deepEqual(
    planned.map(({ job: { id }, vmid }) => [id, vmid]),
    [
      ['other', 102],
      ['noon', 101],
    ],
  );
});

test('a run that failed is tried again three times, ever later, unless somebody withdrew it', () => {
  const minuteMs = 60_000;
  const planned = (afterMinutes: number, tries: number | null) => {
    const again = tries === null ? {} : { job: 'night', tries };
    const failed = { atMs: 2 * hourMs, because: 'x', ...again };
    const records = [record({ jobs: { night: 2 * hourMs }, failed })];
    const nowMs = 2 * hourMs + afterMinutes * minuteMs;
    const facts = { jobs: [job], guests: [101], records, underWay: () => false, nowMs, toWall };
    return planJobs(facts).map(({ tries: before }) => before);
  };
  assert.deepEqual([planned(9, 1), planned(10, 1)], [[], [1]]);
  assert.deepEqual([planned(39, 3), planned(40, 3)], [[], [3]]);
  assert.deepEqual(planned(20 * 60, 4), []);
  assert.deepEqual(planned(20 * 60, null), []);
  assert.deepEqual(planned(24 * 60, 4), [0], 'the next run begins to count anew');
});
