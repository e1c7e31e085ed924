import assert from 'node:assert/strict';
import { test } from 'node:test';
import { isAppError } from '#base/error.ts';
import type { Store, WatchBatch } from '#ports/store.ts';

/** One store under test. */
export type StoreFixture = {
  store: Store;
  /** A second client whose connection `whileAway` can take away. */
  fragile: Store;
  /** Cuts `fragile` off the store, runs `action`, and lets it back. */
  whileAway(this: void, action: () => Promise<void>): Promise<void>;
  /** Forgets all history there is now. */
  compact(this: void): Promise<void>;
};

const patienceMs = 10_000;

/** What every Store promises, whatever is behind it. */
export function testStore(label: string, fixture: () => StoreFixture): void {
  let prefixes = 0;
  const freshPrefix = () => `/contract/${(prefixes += 1)}/`;

  test(`${label}: a key is made only once, and changed only by who has seen its last revision`, async () => {
    const { store } = fixture();
    const key = `${freshPrefix()}a`;
    assert.equal(await store.read(key), null);
    const first = await store.commit([{ key, modRevision: 0n }], [{ key, value: 'one' }]);
    assert(first.kind === 'committed');
    assert.deepEqual(await store.commit([{ key, modRevision: 0n }], [{ key, value: 'two' }]), { kind: 'conflict' });
    assert.deepEqual(await store.read(key), { key, value: 'one', modRevision: first.revision });
    const second = await store.commit([{ key, modRevision: first.revision }], [{ key, value: 'three' }]);
    assert(second.kind === 'committed' && second.revision > first.revision);
    assert.deepEqual(await store.commit([{ key, modRevision: first.revision }], [{ key, value: 'four' }]), { kind: 'conflict' });
    assert.equal((await store.read(key))?.value, 'three');
  });

  test(`${label}: all writes of a commit share one revision, or none is made`, async () => {
    const { store } = fixture();
    const prefix = freshPrefix();
    const [a, b, c] = [`${prefix}a`, `${prefix}b`, `${prefix}c`] as const;
    const made = await store.commit(
      [],
      [
        { key: a, value: '1' },
        { key: b, value: '1' },
      ],
    );
    assert(made.kind === 'committed');
    const compares = [
      { key: a, modRevision: made.revision },
      { key: b, modRevision: 0n },
    ];
    const writes = [
      { key: a, value: null },
      { key: c, value: '2' },
    ];
    assert.deepEqual(await store.commit(compares, writes), { kind: 'conflict' });
    assert.deepEqual(
      (await store.list(prefix)).entries.map(({ key, modRevision }) => [key, modRevision]),
      [
        [a, made.revision],
        [b, made.revision],
      ],
    );
    const moved = await store.commit([{ key: a, modRevision: made.revision }], writes);
    assert(moved.kind === 'committed');
    const { entries, revision } = await store.list(prefix);
    assert.deepEqual(
      entries.map(({ key }) => key),
      [b, c],
    );
    assert(revision >= moved.revision);
    assert.equal(await store.read(a), null);
  });

  test(`${label}: a list holds the keys under its prefix and no others, in order`, async () => {
    const { store } = fixture();
    const prefix = freshPrefix();
    const names = [`${prefix}b`, `${prefix}a/x`, `${prefix}é`, `${prefix.slice(0, -1)}0`, prefix.slice(0, -1)];
    for (const key of names) await store.commit([], [{ key, value: 'Grüße, 病院 🏥' }]);
    const { entries } = await store.list(prefix);
    assert.deepEqual(
      entries.map(({ key }) => key),
      [`${prefix}a/x`, `${prefix}b`, `${prefix}é`],
    );
    assert(entries.every(({ value }) => value === 'Grüße, 病院 🏥'));
  });

  test(`${label}: a commit that writes one key twice is invalid`, async () => {
    const { store } = fixture();
    const key = `${freshPrefix()}a`;
    const writes = [
      { key, value: '1' },
      { key, value: null },
    ];
    await assert.rejects(store.commit([], writes), (error) => isAppError(error, 'invalid') && error.message.includes(key));
    assert.equal(await store.read(key), null);
  });

  test(`${label}: a caller who gave up before sending writes nothing`, async () => {
    const { store } = fixture();
    const key = `${freshPrefix()}a`;
    const signal = AbortSignal.abort(new Error('no longer wanted'));
    await assert.rejects(store.commit([], [{ key, value: '1' }], { signal }), (error) => isAppError(error, 'unavailable'));
    await assert.rejects(store.read(key, { signal }), (error) => isAppError(error, 'unavailable'));
    assert.equal(await store.read(key), null);
  });

  test(`${label}: a watch begins with what is there and goes on with every change, in order`, async () => {
    const { store } = fixture();
    const prefix = freshPrefix();
    await store.commit([], [{ key: `${prefix}old`, value: '0' }]);
    await using watch = openWatch(store, prefix);
    const snapshot = await watch.next();
    assert(snapshot.kind === 'snapshot');
    assert.deepEqual(
      snapshot.entries.map(({ key, value }) => [key, value]),
      [[`${prefix}old`, '0']],
    );
    await store.commit([], [{ key: `${prefix}new`, value: '1' }]);
    await store.commit([], [{ key: `${prefix.slice(0, -1)}-outside`, value: '1' }]);
    await store.commit(
      [],
      [
        { key: `${prefix}old`, value: null },
        { key: `${prefix}new`, value: '2' },
      ],
    );
    assert.deepEqual(await takeChanges(watch, 3), [
      [`${prefix}new`, '1'],
      [`${prefix}old`, null],
      [`${prefix}new`, '2'],
    ]);
  });

  test(`${label}: nothing written while a watch opens is lost or told twice`, async () => {
    const { store } = fixture();
    const prefix = freshPrefix();
    const count = 40;
    const writing = writeCounter(store, prefix, 1, count);
    await using watch = openWatch(store, prefix);
    const seen = await followCounter(watch, count);
    await writing;
    assert(seen.length > 0);
  });

  test(`${label}: a slow reader still gets every change`, async () => {
    const { store } = fixture();
    const prefix = freshPrefix();
    await using watch = openWatch(store, prefix);
    await watch.next();
    await writeCounter(store, prefix, 1, 80);
    assert.deepEqual(
      (await takeChanges(watch, 80)).map(([, value]) => Number(value)),
      Array.from({ length: 80 }, (_, index) => index + 1),
    );
  });

  test(`${label}: a watch that was away tells what it missed`, async () => {
    const { store, fragile, whileAway } = fixture();
    const prefix = freshPrefix();
    await using watch = openWatch(fragile, prefix);
    await watch.next();
    await whileAway(() => writeCounter(store, prefix, 1, 20));
    await writeCounter(store, prefix, 21, 25);
    assert.deepEqual(
      (await takeChanges(watch, 25)).map(([, value]) => Number(value)),
      Array.from({ length: 25 }, (_, index) => index + 1),
    );
  });

  test(`${label}: a watch that was away too long starts again with what is there`, async () => {
    const { store, fragile, whileAway, compact } = fixture();
    const prefix = freshPrefix();
    await using watch = openWatch(fragile, prefix);
    assert.equal((await watch.next()).kind, 'snapshot');
    await whileAway(async () => {
      await writeCounter(store, prefix, 1, 5);
      await compact();
    });
    const again = await watch.next();
    assert(again.kind === 'snapshot');
    assert.deepEqual(
      again.entries.map(({ value }) => value),
      ['5'],
    );
    await writeCounter(store, prefix, 6, 6);
    assert.deepEqual(await takeChanges(watch, 1), [[`${prefix}counter`, '6']]);
  });

  test(`${label}: a watch ends when its signal aborts`, async () => {
    const { store } = fixture();
    const stop = new AbortController();
    const batches: WatchBatch[] = [];
    for await (const batch of store.watch(freshPrefix(), { signal: stop.signal })) {
      batches.push(batch);
      stop.abort();
    }
    assert.equal(batches.length, 1);
    const before = store.watch(freshPrefix(), { signal: AbortSignal.abort() })[Symbol.asyncIterator]();
    assert.equal((await before.next()).done, true);
  });
}

export type OpenWatch = { next(): Promise<WatchBatch> } & AsyncDisposable;

/** A watch read batch by batch; a batch that does not come within 10 s fails the test. */
export function openWatch(store: Store, prefix: string): OpenWatch {
  const stop = new AbortController();
  const iterator = store.watch(prefix, { signal: stop.signal })[Symbol.asyncIterator]();
  return {
    async next() {
      const result = await within(iterator.next(), `a batch of ${prefix}`);
      assert(result.done !== true, 'the watch ended by itself');
      return result.value;
    },
    async [Symbol.asyncDispose]() {
      stop.abort();
      await iterator.return?.();
    },
  };
}

/** Fails with `what` when `promise` has not settled after 10 s. */
export async function within<T>(promise: Promise<T>, what: string, waitMs = patienceMs): Promise<T> {
  const late = Promise.withResolvers<never>();
  const timer = setTimeout(() => late.reject(new Error(`${what}: not within ${waitMs} ms`)), waitMs);
  try {
    return await Promise.race([promise, late.promise]);
  } finally {
    clearTimeout(timer);
  }
}

/** The next `count` changes as [key, value]; a snapshot in between is a failure: nothing may be lost here. */
async function takeChanges(watch: OpenWatch, count: number): Promise<[string, string | null][]> {
  const taken: [string, string | null][] = [];
  while (taken.length < count) {
    const batch = await watch.next();
    assert(batch.kind === 'changes', 'history was lost');
    taken.push(...batch.changes.map(({ key, entry }): [string, string | null] => [key, entry?.value ?? null]));
  }
  return taken;
}

/** Sets the counter to each number in turn, once: after `maybe` it reads again, as every user of a store must. */
async function writeCounter(store: Store, prefix: string, from: number, to: number): Promise<void> {
  const key = `${prefix}counter`;
  const untilMs = performance.now() + patienceMs;
  let entry: { value: string; modRevision: bigint } | null | undefined;
  for (let number = from; number <= to;) {
    assert(performance.now() < untilMs, `the counter came only to ${number - 1}`);
    try {
      if (entry === undefined) entry = await store.read(key);
      if (Number(entry?.value ?? 0) < number) {
        const outcome = await store.commit([{ key, modRevision: entry?.modRevision ?? 0n }], [{ key, value: String(number) }]);
        entry = outcome.kind === 'committed' ? { value: String(number), modRevision: outcome.revision } : undefined;
      }
      if (entry !== undefined) number += 1;
    } catch (error) {
      if (!isAppError(error, 'timeout', 'unavailable')) throw error;
      entry = undefined;
    }
  }
}

/** Follows the counter to `last`, checking that each step is by one. Returns what was seen as changes. */
async function followCounter(watch: OpenWatch, last: number): Promise<number[]> {
  const first = await watch.next();
  assert(first.kind === 'snapshot');
  let number = Number(first.entries[0]?.value ?? 0);
  const seen: number[] = [];
  while (number < last) {
    for (const [, value] of await takeChanges(watch, 1)) {
      assert.equal(Number(value), number + 1);
      number += 1;
      seen.push(number);
    }
  }
  return seen;
}
