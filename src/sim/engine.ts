import { createChance } from '#core/ha/seeded-chance.ts';

/** `run` null: it was taken back. */
export type Entry = { readonly atMs: number; readonly order: number; run: (() => void) | null };

/** True time and what happens in it. Everything of a simulated cluster happens inside one of these events, one after the other. */
export class Engine {
  /** Milliseconds of true time since the start. */
  nowMs = 0;
  events = 0;
  private order = 0;
  private readonly heap: Entry[] = [];

  at(atMs: number, run: () => void): Entry {
    this.order += 1;
    const entry: Entry = { atMs: Math.max(atMs, this.nowMs), order: this.order, run };
    this.push(entry);
    return entry;
  }

  after(waitMs: number, run: () => void): Entry {
    return this.at(this.nowMs + waitMs, run);
  }

  /** Takes an event back: nothing happens at its time. */
  cancel(entry: Entry): void {
    entry.run = null;
  }

  /** Runs the next event; false when there is none before `untilMs`, and then it is `untilMs`. */
  step(untilMs: number): boolean {
    for (;;) {
      const first = this.heap[0];
      if (first === undefined || first.atMs > untilMs) {
        this.nowMs = untilMs;
        return false;
      }
      this.pop();
      if (first.run === null) continue;
      this.nowMs = first.atMs;
      this.events += 1;
      first.run();
      return true;
    }
  }

  private push(entry: Entry): void {
    const { heap } = this;
    let index = heap.length;
    heap.push(entry);
    while (index > 0) {
      const above = (index - 1) >> 1;
      const parent = heap[above];
      if (parent === undefined || !isBefore(entry, parent)) break;
      heap[index] = parent;
      index = above;
    }
    heap[index] = entry;
  }

  private pop(): void {
    const { heap } = this;
    const last = heap.pop();
    if (last === undefined || heap.length === 0) return;
    let index = 0;
    for (;;) {
      let child = 2 * index + 1;
      const [left, right] = [heap[child], heap[child + 1]];
      if (left === undefined) break;
      if (right !== undefined && isBefore(right, left)) child += 1;
      const smaller = heap[child];
      if (smaller === undefined || !isBefore(smaller, last)) break;
      heap[index] = smaller;
      index = child;
    }
    heap[index] = last;
  }
}

function isBefore(a: Entry, b: Entry): boolean {
  return a.atMs < b.atMs || (a.atMs === b.atMs && a.order < b.order);
}

/** Seeded chance in the forms that a world needs. */
export class Dice {
  private readonly next: () => number;

  constructor(seed: number) {
    this.next = createChance(seed);
  }

  between(low: number, high: number): number {
    return low + this.next() * (high - low);
  }

  whole(low: number, high: number): number {
    return Math.floor(this.between(low, high + 1));
  }

  yes(probability: number): boolean {
    return this.next() < probability;
  }

  pick<T>(list: readonly T[]): T {
    const found = list[Math.floor(this.next() * list.length)];
    if (found === undefined) throw new RangeError('picked from an empty list');
    return found;
  }
}
