import assert from 'node:assert/strict';
import { test } from 'node:test';
import { isAppError } from '#base/error.ts';
import { nextCalendarEvent, parseCalendarEvent, type WallClock } from './calendar-event.ts';

function utc(atSeconds: number): WallClock {
  const date = new Date(atSeconds * 1_000);
  return {
    year: date.getUTCFullYear(),
    month: date.getUTCMonth() + 1,
    day: date.getUTCDate(),
    weekday: (date.getUTCDay() + 6) % 7,
    hour: date.getUTCHours(),
    minute: date.getUTCMinutes(),
  };
}

function next(text: string, after: string): string | null {
  const at = nextCalendarEvent(parseCalendarEvent(text), Date.parse(`${after}Z`) / 1_000, utc);
  return at === null ? null : new Date(at * 1_000).toISOString().slice(0, 16);
}

test('the next time after one that fits the event', () => {
  const cases: [string, string, string | null][] = [
    ['daily', '2026-11-22T10:00', '2026-11-23T00:00'],
    ['hourly', '2026-11-22T10:00', '2026-11-22T11:00'],
    ['*:0/15', '2026-11-22T10:01', '2026-11-22T10:15'],
    ['0/15', '2026-11-22T10:46', '2026-11-22T11:00'],
    ['mon..fri 02:30', '2026-11-20T02:30', '2026-11-23T02:30'],
    ['sat 18:15', '2026-11-22T10:00', '2026-11-28T18:15'],
    ['weekly', '2026-11-22T10:00', '2026-11-23T00:00'],
    ['monthly', '2026-11-22T10:00', '2026-12-01T00:00'],
    ['yearly', '2026-11-22T10:00', '2027-01-01T00:00'],
    ['*-02-29 04:00', '2026-11-22T10:00', '2028-02-29T04:00'],
    ['02,14:05', '2026-11-22T02:05', '2026-11-22T14:05'],
    ['8..10:30', '2026-11-22T10:30', '2026-11-23T08:30'],
    ['2020-01-01', '2026-11-22T10:00', null],
    ['02-30', '2026-11-22T10:00', null],
  ];
  for (const [text, after, expected] of cases) assert.equal(next(text, after), expected, text);
});

test('an hour that the wall skips is passed over, one shown twice comes twice', () => {
  // Forward at 2 o'clock: the wall never shows 2:30.
  const skipping = (at: number): WallClock => utc(at >= 7_200 && at < 86_400 ? at + 3_600 : at);
  assert.equal(nextCalendarEvent(parseCalendarEvent('02:30'), 0, skipping), 86_400 + 2 * 3_600 + 1_800);
  const repeating = (at: number): WallClock => utc(at >= 7_200 ? at - 3_600 : at);
  const first = nextCalendarEvent(parseCalendarEvent('01:30'), 0, repeating) ?? 0;
  assert.deepEqual([first, nextCalendarEvent(parseCalendarEvent('01:30'), first, repeating)], [5_400, 9_000]);
});

test('what is no event is refused, naming the field', () => {
  for (const text of ['', 'never', '25:00', '10:60', 'mon tue', '1:2:3', 'fri..mon', '*:0/0', '5..3:00', '1-2-3-4', 7, '13-01'])
    assert.throws(
      () => parseCalendarEvent(text, 'schedule'),
      (error) => isAppError(error, 'invalid') && error.message.startsWith('schedule: '),
    );
});
