import { AppError } from '#base/error.ts';
import type { CommitOutcome, Compare, Store, StoreEntry, StoreHealth, WatchBatch, Write } from '#ports/store.ts';

/** What the next commit of one client comes to, whatever the compares say afterwards. */
export type CommitFault =
  /** Applied if the compares hold, but the answer is lost. */
  | 'maybe-applied'
  /** Never reached the store; the client cannot know. */
  | 'maybe-lost'
  /** Certainly not sent: raises AppError unavailable. */
  | 'not-sent';

/** One client's view of the store, with the troubles of its own connection. */
export interface MemoryClient extends Store, StoreHealth {
  /** False: reads raise AppError unavailable, commits too (certainly not sent), watches stand still and go on where they were. */
  setReachable(reachable: boolean): void;
  /** The next commits meet these faults, one each, in order. */
  failCommits(...faults: CommitFault[]): void;
}

export interface MemoryStore extends MemoryClient {
  /** Another client of the same data, with faults of its own. */
  connect(): MemoryClient;
  /** Forgets the history: a watch that stood still meanwhile starts again with a snapshot. */
  compact(): void;
  readonly revision: bigint;
}

type Change = { key: string; entry: StoreEntry | null; revision: bigint };

type Data = {
  entries: Map<string, StoreEntry>;
  /** Changes behind `compacted`, in order. */
  history: Change[];
  revision: bigint;
  compacted: bigint;
  /** Called after each change and each change of reachability. */
  listeners: Set<() => void>;
};

/** An in-process Store with etcd's semantics, for tests. All clients see every commit at once; time plays no part. */
export function createMemoryStore(): MemoryStore {
  const data: Data = { entries: new Map(), history: [], revision: 1n, compacted: 1n, listeners: new Set() };
  const own = connectClient(data);
  return {
    ...own,
    connect: () => connectClient(data),
    compact() {
      data.history = [];
      data.compacted = data.revision;
    },
    get revision() {
      return data.revision;
    },
  };
}

function connectClient(data: Data): MemoryClient {
  const link = { reachable: true, faults: [] as CommitFault[] };

  async function reach(what: string, signal: AbortSignal | undefined): Promise<void> {
    await Promise.resolve(); // a real store never answers in the same breath
    if (signal?.aborted === true) throw new AppError('unavailable', `${what}: given up by the caller`, { cause: signal.reason });
    if (!link.reachable) throw new AppError('unavailable', `${what}: the memory store is set unreachable`);
  }

  return {
    async read(key, options) {
      await reach(`read ${key}`, options?.signal);
      return data.entries.get(key) ?? null;
    },
    async list(prefix, options) {
      await reach(`list ${prefix}`, options?.signal);
      return { entries: listEntries(data, prefix), revision: data.revision };
    },
    async commit(compares, writes, options) {
      refuseDoubleKeys(writes);
      await reach('commit', options?.signal);
      return commitWithFault(data, compares, writes, link.faults.shift());
    },
    watch: (prefix, { signal }) => watchData(data, link, prefix, signal),
    async listMembers() {
      await Promise.resolve();
      return [{ name: 'memory', endpoint: 'memory:', healthy: link.reachable, leader: true }];
    },
    setReachable(reachable) {
      link.reachable = reachable;
      for (const listener of data.listeners) listener();
    },
    failCommits(...faults) {
      link.faults.push(...faults);
    },
  };
}

function listEntries(data: Data, prefix: string): StoreEntry[] {
  return [...data.entries.values()].filter(({ key }) => key.startsWith(prefix)).sort((a, b) => (a.key < b.key ? -1 : 1));
}

function refuseDoubleKeys(writes: Write[]): void {
  const written = new Set<string>();
  for (const { key } of writes) {
    if (written.has(key)) throw new AppError('invalid', `commit: ${key} is written twice in one commit`);
    written.add(key);
  }
}

function commitWithFault(data: Data, compares: Compare[], writes: Write[], fault: CommitFault | undefined): CommitOutcome {
  switch (fault) {
    case undefined:
      return applyCommit(data, compares, writes);
    case 'maybe-applied':
      applyCommit(data, compares, writes);
      return { kind: 'maybe', cause: new Error('answer lost on purpose, after the commit') };
    case 'maybe-lost':
      return { kind: 'maybe', cause: new Error('answer lost on purpose, before the commit') };
    case 'not-sent':
      throw new AppError('unavailable', 'commit: not sent, on purpose');
  }
}

function applyCommit(data: Data, compares: Compare[], writes: Write[]): CommitOutcome {
  const holds = compares.every(({ key, modRevision }) => (data.entries.get(key)?.modRevision ?? 0n) === modRevision);
  if (!holds) return { kind: 'conflict' };
  const revision = data.revision + 1n;
  const changes = writes.flatMap(({ key, value }): Change[] => {
    if (value !== null) return [{ key, entry: { key, value, modRevision: revision }, revision }];
    return data.entries.has(key) ? [{ key, entry: null, revision }] : []; // etcd makes no revision for a deletion of nothing
  });
  if (changes.length === 0) return { kind: 'committed', revision: data.revision };
  for (const { key, entry } of changes) {
    if (entry === null) data.entries.delete(key);
    else data.entries.set(key, entry);
  }
  data.revision = revision;
  data.history.push(...changes);
  for (const listener of data.listeners) listener();
  return { kind: 'committed', revision };
}

async function* watchData(
  data: Data,
  link: { reachable: boolean },
  prefix: string,
  signal: AbortSignal,
): AsyncGenerator<WatchBatch> {
  let bell = Promise.withResolvers<void>();
  const ring = () => bell.resolve();
  data.listeners.add(ring);
  signal.addEventListener('abort', ring);
  let place: bigint | null = null;
  try {
    while (!signal.aborted) {
      bell = Promise.withResolvers<void>();
      const batch: WatchBatch | null = link.reachable ? nextBatch(data, prefix, place) : null;
      if (batch === null) {
        await bell.promise;
        continue;
      }
      place = batch.revision;
      yield batch;
    }
  } finally {
    data.listeners.delete(ring);
    signal.removeEventListener('abort', ring);
  }
}

function nextBatch(data: Data, prefix: string, place: bigint | null): WatchBatch | null {
  if (place === null || place < data.compacted) {
    return { kind: 'snapshot', entries: listEntries(data, prefix), revision: data.revision };
  }
  const fresh = data.history.filter(({ key, revision }) => revision > place && key.startsWith(prefix));
  const last = fresh.at(-1);
  if (last === undefined) return null;
  return { kind: 'changes', changes: fresh.map(({ key, entry }) => ({ key, entry })), revision: last.revision };
}
