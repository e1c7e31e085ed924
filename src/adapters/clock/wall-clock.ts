import type { WallClock } from '#core/text/calendar-event.ts';

/** What the clocks on this machine's walls show at `atSeconds` (Unix time), by its own time zone. */
export function toWall(atSeconds: number): WallClock {
  const date = new Date(atSeconds * 1_000);
  return {
    year: date.getFullYear(),
    month: date.getMonth() + 1,
    day: date.getDate(),
    weekday: (date.getDay() + 6) % 7,
    hour: date.getHours(),
    minute: date.getMinutes(),
  };
}
