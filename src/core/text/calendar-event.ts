import { AppError } from '#base/error.ts';

/** The clock on the wall where the schedule is meant. `month` and `day` from 1; `weekday` 0 is Monday. */
export type WallClock = { year: number; month: number; day: number; weekday: number; hour: number; minute: number };

/** When something is due; null: every value. */
export type CalendarEvent = {
  weekdays: ReadonlySet<number> | null;
  years: ReadonlySet<number> | null;
  months: ReadonlySet<number> | null;
  days: ReadonlySet<number> | null;
  hours: ReadonlySet<number> | null;
  minutes: ReadonlySet<number> | null;
};

const weekdayNames = ['mon', 'tue', 'wed', 'thu', 'fri', 'sat', 'sun'];
/** Words as in systemd's calendar events. */
const words: Readonly<Record<string, string>> = {
  minutely: '*:*',
  hourly: '*:00',
  daily: '00:00',
  weekly: 'mon 00:00',
  monthly: '*-01 00:00',
  quarterly: '*-01,04,07,10-01 00:00',
  yearly: '01-01 00:00',
};
const farthestSeconds = 10 * 366 * 86_400;

/**
 * Reads a calendar event in the form of systemd and Proxmox: `[WEEKDAYS] [[YEAR-]MONTH-DAY] [HOURS:]MINUTES`, each part a list of values,
 * ranges `a..b` and steps `a/b` or `*`: `mon..fri 02:30`, `*:0/15`, `sat 18:15`, `2026-01-*`, `daily`. Raises AppError invalid naming
 * `field`.
 */
export function parseCalendarEvent(text: unknown, field = 'schedule'): CalendarEvent {
  const refuse = (why: string): AppError =>
    new AppError('invalid', `${field}: ${JSON.stringify(text)} is no calendar event such as "mon..fri 02:30": ${why}`);
  if (typeof text !== 'string' || text.length > 128 || text.trim() === '') throw refuse('it is not a short text');
  const event = { weekdays: null, years: null, months: null, days: null, hours: null, minutes: null } as {
    -readonly [Part in keyof CalendarEvent]: CalendarEvent[Part];
  };
  const parts = (words[text.trim().toLowerCase()] ?? text.trim().toLowerCase()).split(/\s+/);
  const seen = new Set<string>();
  let isTimeSet = false;
  for (const part of parts) {
    const kind = /^[a-z]/.test(part) ? 'weekdays' : part.includes('-') ? 'date' : 'time';
    if (seen.has(kind)) throw refuse(`two parts say the ${kind}`);
    seen.add(kind);
    if (kind === 'weekdays') event.weekdays = readWeekdays(part, refuse);
    else if (kind === 'date') readDate(part, event, refuse);
    else {
      const clock = part.split(':');
      if (clock.length > 2) throw refuse('seconds are not counted');
      const [hours, minutes] = clock.length === 2 ? clock : ['*', clock[0]];
      event.hours = readValues(hours ?? '', 0, 23, refuse);
      event.minutes = readValues(minutes ?? '', 0, 59, refuse);
      isTimeSet = true;
    }
  }
  if (!isTimeSet) {
    event.hours = new Set([0]);
    event.minutes = new Set([0]);
  }
  return event;
}

/**
 * The first time after `afterSeconds` (since 1970) at which the event is due; null when there is none within ten years. `toWall` tells
 * the time on the wall; an hour that the wall skips is skipped, one that it shows twice counts twice.
 */
export function nextCalendarEvent(
  event: CalendarEvent,
  afterSeconds: number,
  toWall: (atSeconds: number) => WallClock,
): number | null {
  const has = (set: ReadonlySet<number> | null, value: number): boolean => set === null || set.has(value);
  const until = afterSeconds + farthestSeconds;
  let at = (Math.floor(afterSeconds / 60) + 1) * 60;
  while (at <= until) {
    const { year, month, day, weekday, hour, minute } = toWall(at);
    const isDay = has(event.years, year) && has(event.months, month) && has(event.days, day) && has(event.weekdays, weekday);
    if (!isDay || !has(event.hours, hour)) at += (60 - minute) * 60;
    else if (has(event.minutes, minute)) return at;
    else at += 60;
  }
  return null;
}

type Refuse = (why: string) => AppError;

function readWeekdays(part: string, refuse: Refuse): ReadonlySet<number> {
  const days = new Set<number>();
  for (const item of part.split(',')) {
    const [from, to] = item.split('..').map((name) => weekdayNames.indexOf(name.slice(0, 3)));
    if (from === undefined || from < 0 || (to !== undefined && to < from)) throw refuse(`${item} is no weekday`);
    for (let day = from; day <= (to ?? from); day += 1) days.add(day);
  }
  return days;
}

function readDate(part: string, event: { -readonly [Part in keyof CalendarEvent]: CalendarEvent[Part] }, refuse: Refuse): void {
  const pieces = part.split('-');
  if (pieces.length > 3) throw refuse('a date has at most year, month and day');
  const [day, month, year] = pieces.toReversed();
  event.days = readValues(day ?? '', 1, 31, refuse);
  event.months = readValues(month ?? '', 1, 12, refuse);
  if (year !== undefined) event.years = readValues(year, 1970, 9_999, refuse);
}

function readValues(part: string, least: number, most: number, refuse: Refuse): ReadonlySet<number> | null {
  const values = new Set<number>();
  for (const item of part.split(',')) {
    const match = /^(?:(\*)|(\d{1,4})(?:\.\.(\d{1,4}))?)(?:\/(\d{1,4}))?$/.exec(item);
    if (match === null) throw refuse(`${item === '' ? 'a part' : item} is no number, range or *`);
    const [, star, from, to, step] = match;
    if (star !== undefined && step === undefined) return null;
    const first = star === undefined ? Number(from) : least;
    const last = to === undefined ? (step === undefined ? first : most) : Number(to);
    const by = Number(step ?? 1);
    if (first < least || last > most || last < first || by < 1) throw refuse(`${item} is not within ${least} to ${most}`);
    for (let value = first; value <= last; value += by) values.add(value);
  }
  return values;
}
