/** What was observed when; `atMs` is this machine's wall clock, `source` says who saw it. */
export type TimelineEntry = { atMs: number; sincePlugMs: number; what: string; source: string };

export type Timeline = {
  /** Notes the first observation of `key`; later ones are ignored. Prints it as it comes. */
  note(key: string, atMs: number, what: string, source: string): void;
  at(key: string): number | null;
  entries(): TimelineEntry[];
};

/** A timeline that counts from the moment the plug was pulled. */
export function startTimeline(plugAtMs: number, print: (line: string) => void): Timeline {
  const noted = new Map<string, TimelineEntry>();
  return {
    note(key, atMs, what, source) {
      if (noted.has(key)) return;
      const entry = { atMs, sincePlugMs: Math.round(atMs - plugAtMs), what, source };
      noted.set(key, entry);
      print(`  ${formatSeconds(entry.sincePlugMs)}  ${what}  [${source}]`);
    },
    at: (key) => noted.get(key)?.atMs ?? null,
    entries: () => [...noted.values()].sort((a, b) => a.atMs - b.atMs),
  };
}

/** Milliseconds as signed seconds with two digits, ten characters wide. */
export function formatSeconds(ms: number): string {
  return `${ms < 0 ? '-' : '+'}${(Math.abs(ms) / 1000).toFixed(2)} s`.padStart(10);
}
