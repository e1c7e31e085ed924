import type { WatchBatch } from '#ports/store.ts';

/** Holds batches between the connection, which must be read without pause, and a reader, who may take his time. */
export interface BatchQueue {
  /** False: too many changes are waiting; all were thrown away and the next batch must be a snapshot. */
  push(batch: WatchBatch): boolean;
  /** No more batches will come; `error`: to be raised in the reader. */
  end(error?: { cause: unknown }): void;
  next(): Promise<WatchBatch | null>;
}

/** `maxChanges`: changes that may wait before the reader gets a snapshot instead. */
export function createBatchQueue(maxChanges: number): BatchQueue {
  let waiting: WatchBatch[] = [];
  let changes = 0;
  let ended: { error: { cause: unknown } | undefined } | null = null;
  let bell = Promise.withResolvers<void>();
  return {
    push(batch) {
      changes += batch.kind === 'changes' ? batch.changes.length : 0;
      if (batch.kind === 'snapshot' || changes > maxChanges) {
        // A snapshot tells everything that the batches before it would have told.
        waiting = [];
        changes = 0;
        if (batch.kind === 'changes') return false;
      }
      waiting.push(batch);
      bell.resolve();
      return true;
    },
    end(error) {
      ended ??= { error };
      bell.resolve();
    },
    async next() {
      for (;;) {
        const batch = waiting.shift();
        if (batch !== undefined) {
          changes -= batch.kind === 'changes' ? batch.changes.length : 0;
          return batch;
        }
        if (ended?.error !== undefined) throw ended.error.cause;
        if (ended !== null) return null;
        bell = Promise.withResolvers<void>();
        await bell.promise;
      }
    },
  };
}
