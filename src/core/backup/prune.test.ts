import assert from 'node:assert/strict';
import { test } from 'node:test';
import { parseKeepRules, planPrune, simulatePrune, type KeepRule, type LocalTime, type PruneCandidate } from './prune.ts';

const utc = (atSeconds: number): LocalTime => {
  const date = new Date(atSeconds * 1_000);
  return { year: date.getUTCFullYear(), month: date.getUTCMonth() + 1, day: date.getUTCDate(), hour: date.getUTCHours() };
};
const at = (text: string): number => Date.parse(`${text}Z`) / 1_000;
const text = (atSeconds: number): string => new Date(atSeconds * 1_000).toISOString().slice(0, 16);

function prune(
  times: string[],
  rules: Partial<Record<KeepRule, number>>,
  marks: Record<string, Partial<PruneCandidate>> = {},
): string[] {
  const snapshots = times.map((time) => ({
    atSeconds: at(time),
    isFinished: true,
    isProtected: false,
    isLocked: false,
    ...marks[time],
  }));
  return planPrune(snapshots, parseKeepRules(rules), utc)
    .filter(({ mark }) => mark !== 'remove')
    .map(({ snapshot, mark, rule }) => `${text(snapshot.atSeconds)} ${rule ?? mark}`);
}

const days = (from: string, count: number): string[] => Array.from({ length: count }, (_, day) => text(at(from) + day * 86_400));

test('without any rule everything stays', () => {
  assert.equal(prune(days('2026-01-01T10:00', 5), {}).length, 5);
  assert.equal(prune(days('2026-01-01T10:00', 5), { daily: 0 }).length, 5);
});

test('the newest of each period stays, as many periods as the rule says', () => {
  const times = ['2026-01-01T08:00', '2026-01-01T20:00', '2026-01-02T08:00', '2026-01-04T08:00', '2026-01-04T09:00'];
  assert.deepEqual(prune(times, { daily: 2 }), ['2026-01-04T09:00 daily', '2026-01-02T08:00 daily']);
  assert.deepEqual(prune(times, { last: 3 }), ['2026-01-04T09:00 last', '2026-01-04T08:00 last', '2026-01-02T08:00 last']);
  assert.deepEqual(prune(times, { hourly: 1, yearly: 1 }), ['2026-01-04T09:00 hourly']);
});

test('periods that an earlier rule already covers do not count for a later one', () => {
  const kept = prune(days('2026-01-01T10:00', 40), { daily: 3, weekly: 2, monthly: 1 });
  assert.deepEqual(kept, [
    '2026-02-09T10:00 daily',
    '2026-02-08T10:00 daily',
    '2026-02-07T10:00 daily',
    // 2026-02-09 is a Monday: its week and the one before are covered by the days above.
    '2026-02-01T10:00 weekly',
    '2026-01-25T10:00 weekly',
    // February is covered; of January the newest that no earlier rule kept would be next, but January is covered by a week.
  ]);
});

test('weeks belong to years as ISO 8601 says', () => {
  // 2025-12-29 to 2026-01-04 is one week, the first of 2026.
  const kept = prune(['2025-12-28T10:00', '2025-12-29T10:00', '2026-01-01T10:00', '2026-01-04T10:00'], { weekly: 5 });
  assert.deepEqual(kept, ['2026-01-04T10:00 weekly', '2025-12-28T10:00 weekly']);
});

test('unfinished snapshots go, but for the newest of all, which may still be running', () => {
  const open = { isFinished: false };
  const times = ['2026-01-01T10:00', '2026-01-02T10:00', '2026-01-03T10:00'];
  assert.deepEqual(prune(times, { last: 1 }, { '2026-01-01T10:00': open, '2026-01-03T10:00': open }), [
    '2026-01-03T10:00 keep-partial',
    '2026-01-02T10:00 last',
  ]);
});

test('protected snapshots stay and take no period from others; locked ones stay and count as any', () => {
  const times = days('2026-01-01T10:00', 4);
  const kept = prune(times, { last: 1 }, { '2026-01-04T10:00': { isProtected: true }, '2026-01-01T10:00': { isLocked: true } });
  assert.deepEqual(kept, ['2026-01-04T10:00 protected', '2026-01-03T10:00 last', '2026-01-01T10:00 locked']);
  const allLocked = Object.fromEntries(times.map((time) => [time, { isLocked: true }]));
  assert.equal(
    prune(times, { last: 1 }, allLocked)[0],
    '2026-01-04T10:00 last',
    'where all new ones are locked the rules still hold',
  );
});

test('the simulator tells what daily backups leave after two years', () => {
  const times = days('2024-01-01T22:00', 730).map(at);
  const { left, most } = simulatePrune(times, parseKeepRules({ daily: 7, weekly: 4, monthly: 12, yearly: 3 }), utc);
  const count = (rule: KeepRule): number => left.filter((snapshot) => snapshot.rule === rule).length;
  assert.deepEqual([count('daily'), count('weekly'), count('monthly')], [7, 4, 12]);
  assert.ok(most <= 27 && most >= left.length, `${most}`);
});

test('a rule that is no whole number is refused, naming it', () => {
  assert.throws(() => parseKeepRules({ weekly: -1 }), /keep-weekly/);
  assert.throws(() => parseKeepRules({ last: '3' }), /keep-last/);
});
