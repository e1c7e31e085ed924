import { formatErrorChain, isAppError } from '#base/error.ts';
import { formatGroup, formatSnapshot, type GroupId } from '#core/backup/names.ts';
import type { KeepRules } from '#core/backup/prune.ts';
import { readVerifyState } from '#core/backup/manifest.ts';
import type { Datastore, GroupInfo, SnapshotInfo } from '#ports/datastore.ts';
import type { TaskNote } from '#ports/tasks.ts';
import { namespacesBelow } from './context.ts';

/** What work on a datastore needs: the store, where to write what was done, and when to stop. */
export type Work = { upid: string; store: Datastore; note: TaskNote; warn: TaskNote; signal: AbortSignal };
/** The groups that somebody may work on. */
export type MayWork = (group: GroupInfo) => boolean;
export type Scope = { namespace: readonly string[]; depth: number | null; type: string | null; id: string | null };

/** The groups in a scope, one after the other; one that vanishes meanwhile is passed over. */
export async function* groupsIn(work: Pick<Work, 'store' | 'signal'>, scope: Scope): AsyncGenerator<GroupInfo> {
  for (const namespace of await namespacesBelow(work.store, scope.namespace, scope.depth)) {
    work.signal.throwIfAborted();
    for (const group of await work.store.listGroups(namespace)) {
      work.signal.throwIfAborted();
      if (scope.type !== null && group.group.type !== scope.type) continue;
      if (scope.id !== null && group.group.id !== scope.id) continue;
      yield group;
    }
  }
}

/** Prunes one group and notes what stays and why. */
export async function pruneGroup(work: Work, group: GroupId, rules: KeepRules, dryRun: boolean): Promise<void> {
  work.note(`prune ${formatGroup(group)}${dryRun ? ' (nothing is removed)' : ''}`);
  for (const { snapshot, mark, rule, error } of await work.store.prune(group, rules, { dryRun })) {
    work.note(`${mark}${rule === null ? '' : ` (${rule})`} ${formatSnapshot(snapshot)}`);
    if (error !== null) work.warn(`${formatSnapshot(snapshot)} was not removed: ${error}`);
  }
}

/** Prunes all groups of a scope. */
export async function pruneScope(work: Work, scope: Scope, rules: KeepRules, dryRun: boolean, may: MayWork): Promise<void> {
  let count = 0;
  for await (const group of groupsIn(work, scope)) {
    if (!may(group)) continue;
    await pruneGroup(work, group.group, rules, dryRun);
    count += 1;
  }
  work.note(`${count} groups looked at`);
}

/** `ignoreVerified` passes over what was verified before; unless that is longer ago than `outdatedAfterDays`. */
export type VerifyChoice = { atSeconds: number | null; ignoreVerified: boolean; outdatedAfterDays: number | null };

/** Verifies the snapshots of a scope, newest first in each group. Raises at the end when some have failed. */
export async function verifyScope(
  work: Work,
  scope: Scope,
  choice: VerifyChoice,
  nowSeconds: number,
  may: MayWork,
): Promise<void> {
  const failed: string[] = [];
  let count = 0;
  // A chunk that this run found right is not read again for the next snapshot that refers to it.
  const notAfter = nowSeconds - 1;
  for await (const group of groupsIn(work, scope)) {
    if (!may(group) || (group.group.type === 'host' && group.group.id === 'benchmark')) continue;
    for (const info of group.snapshots) {
      if (!info.isFinished || (choice.atSeconds !== null && info.snapshot.atSeconds !== choice.atSeconds)) continue;
      work.signal.throwIfAborted();
      if (!(await isDue(work.store, info, choice, nowSeconds))) continue;
      count += 1;
      if (!(await verifyOne(work, info, notAfter))) failed.push(formatSnapshot(info.snapshot));
    }
  }
  work.note(`${count} snapshots verified, ${failed.length} failed`);
  if (failed.length > 0) throw new VerifyFailure(failed);
}

class VerifyFailure extends Error {
  constructor(failed: readonly string[]) {
    super(`verification failed: ${failed.slice(0, 5).join(', ')}${failed.length > 5 ? ` and ${failed.length - 5} more` : ''}`);
  }
}

async function verifyOne(work: Work, { snapshot }: SnapshotInfo, notAfter: number): Promise<boolean> {
  work.note(`verify ${formatSnapshot(snapshot)}`);
  try {
    const { problems } = await work.store.verifySnapshot(snapshot, work.upid, { signal: work.signal, notAfter });
    for (const problem of problems) work.warn(problem);
    return problems.length === 0;
  } catch (error) {
    if (work.signal.aborted || !isAppError(error)) throw error;
    if (isAppError(error, 'missing', 'busy')) {
      work.note(`${formatSnapshot(snapshot)} is passed over: ${formatErrorChain(error)}`);
      return true;
    }
    work.warn(`${formatSnapshot(snapshot)}: ${formatErrorChain(error)}`);
    return false;
  }
}

async function isDue(store: Datastore, info: SnapshotInfo, choice: VerifyChoice, nowSeconds: number): Promise<boolean> {
  if (!choice.ignoreVerified) return true;
  const state = await store
    .readManifest(info.snapshot)
    .then(readVerifyState)
    .catch(() => null); // one that cannot be read is due
  if (state === null) return true;
  const verifiedAt = Number.parseInt(state.upid.split(':')[5] ?? '', 16); // when its task began
  if (choice.outdatedAfterDays === null) return false;
  return !(verifiedAt > nowSeconds - choice.outdatedAfterDays * 86_400);
}

/** Collects garbage and notes the figures. */
export async function collect(work: Work): Promise<void> {
  const result = await work.store.collectGarbage({ signal: work.signal, upid: work.upid, note: work.note });
  for (const warning of result.warnings) work.warn(warning);
  if (result.missingChunks > 0) work.warn(`${result.missingChunks} chunks are referred to and not there`);
  work.note(`${result.indexFiles} indexes, ${result.indexBytes} bytes of data`);
  work.note(`removed ${result.removedChunks} chunks, ${result.removedBytes} bytes, and ${result.removedBad} bad ones`);
  work.note(`kept for running backups: ${result.pendingChunks} chunks, ${result.pendingBytes} bytes`);
  work.note(`on disk: ${result.diskChunks} chunks, ${result.diskBytes} bytes; ${result.stillBad} bad ones set aside`);
}

/** A part of the rolling verification. */
export async function scrub(work: Work, budget: { bytes: number; olderThan: number }): Promise<void> {
  const { checked, bad } = await work.store.verifyChunks({ ...budget, signal: work.signal });
  for (const problem of bad) work.warn(problem);
  work.note(`${checked} chunks read, ${bad.length} bad`);
}
