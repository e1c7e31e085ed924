import type { Dataset, Version } from './listing.ts';

/**
 * One disk's way back to a point that its sender holds as well, so that a stream from there fits. What lies above that point and was confirmed,
 * or written by a guest, is kept; only the beginnings of a point that never became whole are put back.
 *
 *   live at base                                ─► nothing to do
 *   above base: nothing that anybody needs      ─► rollback
 *   above base: a tail, or confirmed points     ─► rename aside ─► clone of base ─► promote, rollback: the past goes with the clone, no byte is copied
 *   no base                                     ─► rename aside; everything will be sent
 */
export type AlignStep =
  | { do: 'forget-partial' }
  | { do: 'rollback'; to: string }
  /** A last look at what is set aside, so that it can be told and exported for ever. */
  | { do: 'snapshot-live'; name: string }
  | { do: 'rename-aside' }
  | { do: 'clone'; of: 'aside'; snapshot: string }
  | { do: 'promote' };

export type AlignFacts = {
  /** The disk's dataset under its own name. */
  live: Dataset | null;
  /** The one under the tail's name. */
  aside: Dataset | null;
  /** GUID of the snapshot to go back to; null: there is none that both have. */
  base: string | null;
  /** What lies above the base is a guest's own writes (a tail of a demotion), or has points that were confirmed. */
  isKept: boolean;
  /** Name of the last snapshot of what is set aside. */
  asideSnapshot: string;
};

/** The steps that are left, in order; none: the disk is at its base (or, without one, not there). A crash after any of them is planned for. */
export function planAlign(facts: AlignFacts): AlignStep[] {
  const { live, aside, base, isKept, asideSnapshot } = facts;
  const forget: AlignStep[] = live !== null && live.resumeToken !== null ? [{ do: 'forget-partial' }] : [];
  if (live === null) return base === null ? [] : planClone(aside, base);
  const snapshots = snapshotsOf(live);
  if (base === null) {
    // Of a first stream that was cut nothing is whole: the next one begins anew in its place, for ZFS takes the dataset away with it.
    if (snapshots.length === 0 && forget.length > 0) return forget;
    return [...forget, ...lastLook(live, asideSnapshot), { do: 'rename-aside' }];
  }
  const index = snapshots.findIndex((version) => version.guid === base);
  if (index === -1) {
    const origin = snapshotsOf(aside).find((version) => version.guid === base);
    const isClone = snapshots.length === 0 && origin !== undefined;
    return isClone ? [{ do: 'promote' }, { do: 'rollback', to: origin.name }] : [];
  }
  const name = snapshots[index]?.name ?? '';
  const above = snapshots.slice(index + 1);
  const aboveBytes = live.writtenBytes + above.reduce((sum, version) => sum + version.writtenBytes, 0);
  if (above.length === 0 && aboveBytes === 0) return forget;
  // A clone that has just taken over the past counts its own bookkeeping as written, and ZFS would take no stream onto that.
  const isFresh = above.length === 0 && aside?.origin === `${live.name}@${name}`;
  if (!isKept || isFresh || aboveBytes === 0) return [...forget, { do: 'rollback', to: name }];
  const away: AlignStep[] = [...lastLook(live, asideSnapshot), { do: 'rename-aside' }];
  return [...forget, ...away, ...cloneSteps(name)];
}

/**
 * Whether the disk is where it was to go after the steps `done`: `live` at its `base`, or away where there is none. A volume that was put back, or took
 * over the past of another, counts some of its own bookkeeping as written for ever, and ZFS takes a stream onto that (seen with OpenZFS 2.3.9).
 * Nobody could write to it since it was put back.
 */
export function isAligned(done: readonly AlignStep[], live: Dataset | null, base: string | null): boolean {
  if (base === null || live === null) return live === null && base === null;
  const newest = snapshotsOf(live).at(-1);
  if (newest?.guid !== base || live.resumeToken !== null) return false;
  const last = done.at(-1);
  return live.writtenBytes === 0 || (last?.do === 'rollback' && last.to === newest.name);
}

function cloneSteps(snapshot: string): AlignStep[] {
  return [{ do: 'clone', of: 'aside', snapshot }, { do: 'promote' }, { do: 'rollback', to: snapshot }];
}

function planClone(aside: Dataset | null, base: string): AlignStep[] {
  const found = snapshotsOf(aside).find((version) => version.guid === base);
  return found === undefined ? [] : cloneSteps(found.name);
}

function lastLook(live: Dataset, name: string): AlignStep[] {
  const newest = snapshotsOf(live).at(-1);
  const isSeen = newest !== undefined && live.writtenBytes === 0;
  return isSeen || newest?.name === name ? [] : [{ do: 'snapshot-live', name }];
}

function snapshotsOf(dataset: Dataset | null): Version[] {
  return (dataset?.versions ?? []).filter((version) => version.kind === 'snapshot');
}
