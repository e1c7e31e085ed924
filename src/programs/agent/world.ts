import { AppError } from '#base/error.ts';
import { root } from '#core/ha/keys.ts';
import type { Clock } from '#ports/clock.ts';
import type { Store, StoreEntry } from '#ports/store.ts';

/**
 * This node's view of the cluster's record: the whole prefix, followed by one watch. It may lag; whoever acts on it compares
 * revisions when recording, so a stale view costs a round and nothing else.
 */
export type World = {
  /** False until the first snapshot has arrived. */
  isReady(): boolean;
  revision(): bigint;
  read<T>(key: string): { value: T; modRevision: bigint } | null;
  /** All records under a prefix, by key. Unreadable ones are reported once and left out. */
  list<T>(prefix: string): readonly { key: string; value: T; modRevision: bigint }[];
};

export type WorldOptions = {
  store: Store;
  clock: Clock;
  /** Called after each batch with the keys it touched and the boot-time clock at its arrival. */
  onChange: (keys: string[], atBootMs: number) => void;
  onTrouble: (text: string) => void;
};

/** Starts following the record until `signal` aborts; the returned promise settles then. */
export function followWorld(options: WorldOptions, signal: AbortSignal): { world: World; done: Promise<void> } {
  const decoded = new Map<string, { value: unknown; modRevision: bigint }>();
  // Sorted lists are kept until something under their prefix changes: heartbeats come every second, guests hardly ever change.
  const lists = new Map<string, { key: string; value: unknown; modRevision: bigint }[]>();
  let revision = 0n;
  let ready = false;
  const take = (key: string, entry: StoreEntry | null) => {
    for (const prefix of lists.keys()) if (key.startsWith(prefix)) lists.delete(prefix);
    if (entry === null) {
      decoded.delete(key);
      return;
    }
    try {
      decoded.set(key, { value: JSON.parse(entry.value) as unknown, modRevision: entry.modRevision });
    } catch (cause) {
      options.onTrouble(`record ${key} is not JSON and is ignored: ${String(cause)}`);
      decoded.delete(key);
    }
  };
  const follow = async () => {
    for await (const batch of options.store.watch(root, { signal })) {
      const keys: string[] = [];
      if (batch.kind === 'snapshot') {
        const gone = new Set(decoded.keys());
        for (const entry of batch.entries) {
          gone.delete(entry.key);
          keys.push(entry.key);
          take(entry.key, entry);
        }
        for (const key of gone) {
          keys.push(key);
          take(key, null);
        }
        ready = true;
      } else {
        for (const change of batch.changes) {
          keys.push(change.key);
          take(change.key, change.entry);
        }
      }
      revision = batch.revision;
      options.onChange(keys, options.clock.bootMs());
    }
  };
  const world: World = {
    isReady: () => ready,
    revision: () => revision,
    read: <T>(key: string) => (decoded.get(key) as { value: T; modRevision: bigint } | undefined) ?? null,
    list: <T>(prefix: string) => {
      let list = lists.get(prefix);
      if (list === undefined) {
        const found = [...decoded.entries()].filter(([key]) => key.startsWith(prefix)).sort(([a], [b]) => a.localeCompare(b));
        list = found.map(([key, entry]) => ({ key, value: entry.value, modRevision: entry.modRevision }));
        lists.set(prefix, list);
      }
      return list as readonly { key: string; value: T; modRevision: bigint }[];
    },
  };
  return { world, done: follow() };
}

/** Reads one record linearizably and decodes it. Raises AppError invalid when it is not JSON. */
export async function readRecord<T>(store: Store, key: string): Promise<{ value: T; modRevision: bigint } | null> {
  const entry = await store.read(key);
  if (entry === null) return null;
  try {
    return { value: JSON.parse(entry.value) as T, modRevision: entry.modRevision };
  } catch (cause) {
    throw new AppError('invalid', `record ${key} is not JSON`, { cause });
  }
}

/**
 * Writes a record that this program alone owns: reads its revision, compares, tries again a few times when the answer was lost.
 * Raises AppError conflict when somebody else keeps writing it, unavailable when the store does.
 */
export async function writeOwnedRecord(store: Store, key: string, value: unknown): Promise<void> {
  const text = JSON.stringify(value);
  for (let attempt = 0; attempt < 4; attempt += 1) {
    const current = await store.read(key);
    if (current?.value === text) return;
    const outcome = await store.commit([{ key, modRevision: current?.modRevision ?? 0n }], [{ key, value: text }]);
    if (outcome.kind === 'committed') return;
  }
  throw new AppError(
    'conflict',
    `writing ${key}: four attempts met another writer or lost their answer; the next round tries again`,
  );
}
