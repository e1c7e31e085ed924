/**
 * The cluster's record. One linearizable key-value store with compare-and-set; the real one is etcd.
 */

export type StoreEntry = {
  key: string;
  value: string;
  /** Revision of the last write to this key; the token for compare-and-set. */
  modRevision: bigint;
};

/** `modRevision` 0n: the key must not exist. */
export type Compare = { key: string; modRevision: bigint };

/** `value` null: delete the key. */
export type Write = { key: string; value: string | null };

/**
 * - committed: all compares held and all writes are durable on a majority.
 * - conflict: a compare failed, nothing was written.
 * - maybe: the answer was lost; the writes may or may not have been applied. The only allowed reaction is to read again.
 */
export type CommitOutcome = { kind: 'committed'; revision: bigint } | { kind: 'conflict' } | { kind: 'maybe'; cause: unknown };

export type CallOptions = { deadlineMs?: number; signal?: AbortSignal };

export type WatchBatch =
  /** First batch, and again whenever history was lost (compaction): the whole prefix as it is. */
  | { kind: 'snapshot'; entries: StoreEntry[]; revision: bigint }
  /** `entry` null: deleted. In order of revision; none is lost and none is repeated between two snapshots. */
  | { kind: 'changes'; changes: { key: string; entry: StoreEntry | null }[]; revision: bigint };

export interface Store {
  /** Linearizable read. Raises AppError unavailable/timeout when no member answers within the deadline. */
  read(key: string, options?: CallOptions): Promise<StoreEntry | null>;
  /** Linearizable read of all keys under a prefix, at one revision. */
  list(prefix: string, options?: CallOptions): Promise<{ entries: StoreEntry[]; revision: bigint }>;
  /** All-or-nothing: if every compare holds, apply every write. Never throws for transport trouble: that is `maybe` (or, when certainly not sent, AppError unavailable). */
  commit(compares: Compare[], writes: Write[], options?: CallOptions): Promise<CommitOutcome>;
  /** Follows a prefix until `signal` aborts; resumes by itself across members and connection loss. */
  watch(prefix: string, options: { signal: AbortSignal }): AsyncIterable<WatchBatch>;
}

/** Etcd's own view, for `status`. */
export type StoreMember = { name: string; endpoint: string; healthy: boolean; leader: boolean };
export interface StoreHealth {
  /** Asks every member; a member that does not answer within the deadline is `healthy: false`. */
  listMembers(options?: CallOptions): Promise<StoreMember[]>;
}
