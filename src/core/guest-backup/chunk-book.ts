/**
 * Which chunks of disks that stream in are here, which are being fetched, and which comes next. Chunks are numbered through all disks.
 *
 *     missing ──begin──► under way ──arrived──► here
 *        ▲                   └──failed──► bad: asked for again later
 *        └──────lost─────────┘ (the server went away)
 *
 * What somebody waits for comes first; else the order of the disk, going on where the last wish was: who reads one chunk often reads the next.
 */
export type ChunkBook = {
  readonly count: number;
  readonly here: number;
  isHere(chunk: number): boolean;
  /** Somebody waits for it. */
  want(chunk: number): void;
  /** Somebody waited for it in vain; it stays wanted. */
  owe(chunk: number): void;
  /** Chunks that somebody waited for in vain and that are not here yet. */
  readonly owed: number;
  /** The next chunk to fetch, under way from now on; null: none can be begun now. `wantedOnly`: one that somebody waits for. */
  begin(nowMs: number, wantedOnly?: boolean): number | null;
  arrived(chunk: number): void;
  failed(chunk: number, retryAtMs: number): void;
  /** The fetch was cut off; it is missing again. */
  lost(chunk: number): void;
  /** Chunks that could not be had when they were asked for last. */
  readonly bad: number;
};

const state = { missing: 0, underWay: 1, here: 2, bad: 3 } as const;

/** `isHere`: what has arrived before. */
export function createChunkBook(count: number, isHere: (chunk: number) => boolean): ChunkBook {
  const states = new Uint8Array(count);
  const wanted = new Set<number>();
  const owed = new Set<number>();
  const bad = new Map<number, number>();
  let here = 0;
  let cursor = 0;
  for (let chunk = 0; chunk < count; chunk += 1) {
    if (!isHere(chunk)) continue;
    states[chunk] = state.here;
    here += 1;
  }

  function canBegin(chunk: number, nowMs: number): boolean {
    return states[chunk] === state.missing || (states[chunk] === state.bad && (bad.get(chunk) ?? 0) <= nowMs);
  }

  function findNext(nowMs: number): number | null {
    for (let step = 0; step < count; step += 1) {
      const chunk = (cursor + step) % count;
      if (states[chunk] === state.missing) return chunk;
    }
    for (const [chunk, retryAtMs] of bad) if (retryAtMs <= nowMs) return chunk;
    return null;
  }

  function settle(chunk: number, next: number): void {
    states[chunk] = next;
    bad.delete(chunk);
  }

  return {
    count,
    get here() {
      return here;
    },
    get owed() {
      return owed.size;
    },
    get bad() {
      return bad.size;
    },
    isHere: (chunk) => states[chunk] === state.here,
    want(chunk) {
      if (states[chunk] !== state.here) wanted.add(chunk);
    },
    owe(chunk) {
      if (states[chunk] !== state.here) owed.add(chunk);
    },
    begin(nowMs, wantedOnly = false) {
      const wish = [...wanted].find((chunk) => canBegin(chunk, nowMs)) ?? null;
      const next = wish ?? (wantedOnly || here === count ? null : findNext(nowMs));
      if (next === null) return null;
      settle(next, state.underWay);
      cursor = (next + 1) % count;
      return next;
    },
    arrived(chunk) {
      if (states[chunk] === state.here) return;
      settle(chunk, state.here);
      wanted.delete(chunk);
      owed.delete(chunk);
      here += 1;
    },
    failed(chunk, retryAtMs) {
      settle(chunk, state.bad);
      bad.set(chunk, retryAtMs);
    },
    lost: (chunk) => settle(chunk, state.missing),
  };
}

/** A bit for each chunk from `first` on, `count` of them, the lowest bit of a byte first. */
export function encodeChunkMap(book: Pick<ChunkBook, 'isHere'>, first: number, count: number): Uint8Array {
  const map = new Uint8Array(Math.ceil(count / 8));
  for (let at = 0; at < count; at += 1) if (book.isHere(first + at)) map[at >> 3]! |= 1 << (at & 7);
  return map;
}

/** True when the map says that chunk `at` is there; one that is cut off or missing says nothing. */
export function isInChunkMap(map: Uint8Array, at: number): boolean {
  return ((map[at >> 3] ?? 0) & (1 << (at & 7))) !== 0;
}
