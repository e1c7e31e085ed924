/** Wall-clock time for people: `2031-04-05 14:03:21`, in the machine's time zone. */
export function formatTime(atMs: number): string {
  return formatTimeMs(atMs).slice(0, 19);
}

/** As `formatTime`, with milliseconds. */
export function formatTimeMs(atMs: number): string {
  const zoneMs = new Date(atMs).getTimezoneOffset() * 60_000;
  return new Date(atMs - zoneMs).toISOString().replace('T', ' ').slice(0, 23);
}
