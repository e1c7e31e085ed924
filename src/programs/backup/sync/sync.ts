import type { ByteFunctions } from '#core/backup/byte-functions.ts';
import type { GroupFilter } from '#core/backup/group-filter.ts';
import type { Remote } from '../jobs-book.ts';
import type { Work } from '../rest/work.ts';
import { openPeer } from './peer.ts';
import { pull } from './pull.ts';
import { push } from './push.ts';

/** What a sync is about. `owner`: whose the groups are that come here. `depth` null: all namespaces below. */
export type SyncChoice = {
  direction: 'pull' | 'push';
  namespace: readonly string[];
  remoteStore: string;
  remoteNamespace: readonly string[];
  owner: string;
  depth: number | null;
  filters: readonly GroupFilter[];
  transferLast: number | null;
  /** Of a pull: what the other server has no more goes here too, unless it is protected or locked. */
  removeVanished: boolean;
};

/** Keeps a namespace here and one at another server in step. */
export async function sync(work: Work, remote: Remote, choice: SyncChoice, functions: ByteFunctions): Promise<void> {
  work.note(
    `${choice.direction} ${choice.direction === 'pull' ? 'from' : 'to'} ${remote.name}: ${remote.host}:${remote.port}, datastore ${choice.remoteStore}`,
  );
  const peer = await openPeer(remote, choice.remoteStore, work.signal);
  await (choice.direction === 'pull' ? pull : push)({ work, peer, choice, functions });
}
