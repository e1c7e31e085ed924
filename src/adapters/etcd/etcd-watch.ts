import { setTimeout as pause } from 'node:timers/promises';
import { AppError, formatErrorChain, isAppError } from '#base/error.ts';
import { limits } from '#base/limits.ts';
import type { StoreEntry, WatchBatch } from '#ports/store.ts';
import { type BatchQueue, createBatchQueue } from './batch-queue.ts';
import type { EtcdMember, EtcdMembers } from './etcd-members.ts';
import { followStream } from './etcd-watch-stream.ts';

export type WatchContext = {
  members: EtcdMembers;
  list(prefix: string, signal: AbortSignal): Promise<{ entries: StoreEntry[]; revision: bigint }>;
  onTrouble(text: string): void;
};

/**
 * Follows `prefix` until `ended` aborts: a snapshot, then the changes behind it. The connection is read in the background, so that a
 * slow reader neither stalls it nor makes it look dead.
 */
export async function* watchPrefix(context: WatchContext, prefix: string, ended: AbortSignal): AsyncGenerator<WatchBatch> {
  const left = new AbortController();
  const stop = AbortSignal.any([ended, left.signal]);
  const queue = createBatchQueue(limits.watchQueueChanges);
  const pump = pumpBatches(context, prefix, queue, stop).then(
    () => queue.end(),
    (cause: unknown) => queue.end({ cause }),
  );
  try {
    for (let batch = await queue.next(); batch !== null && !ended.aborted; batch = await queue.next()) yield batch;
  } finally {
    left.abort();
    await pump;
  }
}

/** snapshot -> stream of changes -> (trouble: next member, same place) -> (history lost: snapshot again) */
async function pumpBatches(context: WatchContext, prefix: string, queue: BatchQueue, stop: AbortSignal): Promise<void> {
  const { members } = context;
  const say = sayOnChange((text) => context.onTrouble(text));
  let place: bigint | null = null;
  let member = members.current;
  let failures = 0;
  while (!stop.aborted) {
    if (place === null) {
      place = await takeSnapshot(context, prefix, queue, stop, say);
      member = members.current;
      if (place === null) await pauseUntil(limits.watchRetryMs, stop);
      continue;
    }
    const end = await followStream(member, { prefix, revision: place, stop, push: (batch) => queue.push(batch) });
    if (stop.aborted) return;
    if (end.kind === 'history-lost') {
      place = null;
      continue;
    }
    failures = end.revision > place || end.opened ? 1 : failures + 1;
    place = end.revision;
    const next: EtcdMember = members.after(member);
    say(`etcd: watch of ${prefix} left ${member.endpoint} for ${next.endpoint}: ${formatErrorChain(end.because)}`);
    if (end.dead) distrust(members, member, end.because, next);
    member = next;
    if (failures % members.all.length === 0) await pauseUntil(limits.watchRetryMs, stop);
  }
}

/** A member that is silent for the watch will be silent for calls too. */
function distrust(members: EtcdMembers, member: EtcdMember, because: unknown, next: EtcdMember): void {
  member.distrustConnection();
  members.leave(member, because, next);
}

/** Returns the snapshot's revision; null when no member could give one. */
async function takeSnapshot(
  context: WatchContext,
  prefix: string,
  queue: BatchQueue,
  stop: AbortSignal,
  say: (text: string) => void,
): Promise<bigint | null> {
  try {
    const { entries, revision } = await context.list(prefix, stop);
    queue.push({ kind: 'snapshot', entries, revision });
    return revision;
  } catch (error) {
    if (!isAppError(error)) throw error;
    if (!stop.aborted) say(formatErrorChain(new AppError(error.kind, `etcd: watch of ${prefix} waits`, { cause: error })));
    return null;
  }
}

/** A watch that cannot connect says so once, not at each try. */
function sayOnChange(onTrouble: (text: string) => void): (text: string) => void {
  let last = '';
  return (text) => {
    if (text !== last) onTrouble(text);
    last = text;
  };
}

async function pauseUntil(waitMs: number, stop: AbortSignal): Promise<void> {
  await pause(waitMs, undefined, { signal: stop }).catch(() => {}); // stopped: the loop's own condition ends it
}
