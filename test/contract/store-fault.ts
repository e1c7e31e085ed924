import assert from 'node:assert/strict';
import { setTimeout as pause } from 'node:timers/promises';
import { isAppError } from '#base/error.ts';
import type { Store } from '#ports/store.ts';
import type { TestMember } from './etcd-cluster.ts';
import { within } from './store-suite.ts';

export type Fault = 'kill' | 'freeze';

/** Longest time between two successes, in ms, and how many changes the watch told. */
export type Gaps = { commitMs: number; readMs: number; watchMs: number; events: number };

/** The load runs this long without trouble before the fault and after everything works again. */
const calmMs = 300;

/**
 * Runs three loops over `store` (a counter raised by compare-and-set, reads of it, a watch of it), does the fault to `victim`, waits until all
 * three work again, and checks that the watch told every step of the counter once and in order.
 */
export async function followFault(store: Store, victim: TestMember, fault: Fault, prefix: string): Promise<Gaps> {
  const stop = new AbortController();
  const commits = createPulse();
  const reads = createPulse();
  const watched = createPulse();
  const key = `${prefix}counter`;
  const loops = [raiseCounter(store, key, commits, stop.signal), readCounter(store, key, reads, stop.signal)];
  const follower = followCounter(store, prefix, watched);
  const pulses = [commits, reads, watched];

  await within(Promise.all(pulses.map((pulse) => pulse.beats(5))), 'the load starts');
  await pause(calmMs);
  for (const pulse of pulses) pulse.reset();
  if (fault === 'kill') await victim.kill();
  else victim.freeze();
  await pause(calmMs); // answers that were under way when the signal was sent have come in
  await within(Promise.all(pulses.map((pulse) => pulse.beats(20))), 'everything works again');
  await pause(calmMs);

  stop.abort();
  await within(Promise.all(loops), 'the load ends');
  const last = Number((await store.read(key))!.value);
  assert.deepEqual(
    await follower.stopAt(last),
    Array.from({ length: last }, (_, index) => index + 1),
  );
  return { commitMs: commits.worstMs(), readMs: reads.worstMs(), watchMs: watched.worstMs(), events: last };
}

/** Counts successes and the longest wait between two. */
function createPulse() {
  let lastMs = performance.now();
  let worstMs = 0;
  let count = 0;
  return {
    beat() {
      worstMs = Math.max(worstMs, performance.now() - lastMs);
      lastMs = performance.now();
      count += 1;
    },
    reset() {
      lastMs = performance.now();
      worstMs = 0;
    },
    /** Settles after so many more successes. */
    async beats(more: number) {
      const wanted = count + more;
      while (count < wanted) await pause(5);
    },
    worstMs: () => Math.round(worstMs),
  };
}

/** Each step is a compare-and-set on what was read last; after `maybe` the counter must be where it was or one further. */
async function raiseCounter(store: Store, key: string, pulse: ReturnType<typeof createPulse>, stop: AbortSignal): Promise<void> {
  let number = 0;
  let modRevision = 0n;
  while (!stop.aborted) {
    const outcome = await ignoreTrouble(store.commit([{ key, modRevision }], [{ key, value: String(number + 1) }]));
    if (outcome?.kind === 'committed') {
      number += 1;
      modRevision = outcome.revision;
      pulse.beat();
      await pause(10);
      continue;
    }
    assert.notEqual(outcome?.kind, 'conflict', 'nobody else writes: a conflict means that a write was done twice');
    const entry = await readAgain(store, key);
    const found = Number(entry?.value ?? 0);
    assert(
      found === number || (found === number + 1 && outcome?.kind === 'maybe'),
      `${number} became ${found} after ${outcome?.kind}`,
    );
    number = found;
    modRevision = entry?.modRevision ?? 0n;
  }
}

async function readAgain(store: Store, key: string) {
  for (;;) {
    const answer = await ignoreTrouble(store.read(key).then((entry) => ({ entry })));
    if (answer !== null) return answer.entry;
  }
}

async function readCounter(store: Store, key: string, pulse: ReturnType<typeof createPulse>, stop: AbortSignal): Promise<void> {
  while (!stop.aborted) {
    if ((await ignoreTrouble(store.read(key).then(() => true))) === true) pulse.beat();
    await pause(10);
  }
}

/** Follows the counter in the background; `stopAt` ends it once `last` was told, or late, and returns everything that was told. */
function followCounter(store: Store, prefix: string, pulse: ReturnType<typeof createPulse>) {
  const told: number[] = [];
  const ended = new AbortController();

  async function follow(): Promise<void> {
    let snapshots = 0;
    for await (const batch of store.watch(prefix, { signal: ended.signal })) {
      if (batch.kind === 'snapshot') {
        snapshots += 1;
        told.push(...batch.entries.flatMap(({ value }) => Array.from({ length: Number(value) }, (_, index) => index + 1)));
        continue;
      }
      told.push(...batch.changes.map(({ entry }) => Number(entry?.value)));
      pulse.beat();
    }
    assert.equal(snapshots, 1, 'the watch lost its history');
  }

  const following = follow();
  return {
    async stopAt(last: number): Promise<number[]> {
      const untilMs = performance.now() + 5_000;
      while ((told.at(-1) ?? 0) < last && performance.now() < untilMs) await pause(10);
      ended.abort();
      await following;
      return told;
    },
  };
}

async function ignoreTrouble<T>(call: Promise<T>): Promise<T | null> {
  try {
    return await call;
  } catch (error) {
    if (isAppError(error, 'timeout', 'unavailable')) return null;
    throw error;
  }
}
