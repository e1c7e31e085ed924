import { AppError, formatErrorChain, isAppError } from '#base/error.ts';
import type { ByteFunctions } from '#core/backup/byte-functions.ts';
import { formatGroup, type GroupId } from '#core/backup/names.ts';
import type { Work } from '../rest/work.ts';
import type { Peer } from './peer.ts';
import type { SyncChoice } from './sync.ts';

/** What both directions of a sync work with. */
export type SyncParts = { work: Work; peer: Peer; choice: SyncChoice; functions: ByteFunctions };

/** Brings one group in step by `act`. Returns false when it failed; the log says why, and the other groups are to be done all the same. */
export async function keepGroup(work: Work, group: GroupId, act: () => Promise<void>): Promise<boolean> {
  work.signal.throwIfAborted();
  try {
    await act();
    return true;
  } catch (error) {
    if (work.signal.aborted || !isAppError(error)) throw error;
    work.warn(`${formatGroup(group)}: ${formatErrorChain(error)}`);
    return false;
  }
}

/** The end of a sync. Raises AppError unavailable when a group failed. */
export function refuseFailed(groups: number): void {
  if (groups > 0) throw new AppError('unavailable', `${groups} groups are not in step; the log says why`);
}
