import { setTimeout as pause } from 'node:timers/promises';
import { AppError, isAppError } from '#base/error.ts';
import { limits } from '#base/limits.ts';
import type { GuestRecord } from '#core/guest/guest-record.ts';
import { keys, prefixes } from '#core/ha/keys.ts';
import type { HaResource } from '#core/ha/records.ts';
import { hasBegunToMake, type RequestRecord } from '#core/ha/requests.ts';
import type { GuestStorage } from '#ports/guest-storage.ts';
import type { Store } from '#ports/store.ts';
import type { GuestLoop } from '#programs/agent/guest-loop.ts';
import type { LiveRestores } from '#programs/agent/live-restores.ts';
import { readRecord, type World } from '#programs/agent/world.ts';
import type { Log } from '#programs/log.ts';

export type DeletionOptions = {
  self: string;
  store: Store;
  world: World;
  storage: Pick<GuestStorage, 'listCopies' | 'remove'>;
  guests: Pick<GuestLoop, 'running'>;
  live: Pick<LiveRestores, 'end'>;
};

/**
 * Deletes a guest that is at home here and does not run: its records in one commit, then its disks. No action on the guest may be under way or begin
 * until it returns. Idempotent. Raises AppError conflict (it runs, is at home elsewhere, or was changed meanwhile), unavailable (the store does not
 * say whether it is deleted).
 */
export async function deleteGuest(options: DeletionOptions, vmid: number): Promise<string[]> {
  await deleteRecords(options, vmid);
  await options.live.end(vmid);
  await options.storage.remove(vmid);
  return [`guest ${vmid} deleted`];
}

/**
 * A commit whose answer was lost may still be on its way, and a guest that was started by what the record said before would run although it is deleted.
 * So the store is asked until it is known, while nothing else is done with the guest.
 */
async function deleteRecords(options: DeletionOptions, vmid: number): Promise<void> {
  const untilMs = performance.now() + limits.deleteSureMs;
  let isUnsure = false;
  for (;;) {
    try {
      const outcome = await tryToDelete(options, vmid);
      if (outcome === 'deleted') return;
      isUnsure = true;
    } catch (error) {
      if (!isUnsure || !isAppError(error, 'unavailable', 'timeout')) throw error;
    }
    if (performance.now() > untilMs)
      throw new AppError('unavailable', `guest ${vmid}: the store does not say whether it is deleted; look again and repeat`);
    await pause(limits.deleteAgainMs);
  }
}

async function tryToDelete(options: DeletionOptions, vmid: number): Promise<'deleted' | 'unsure'> {
  const { store, self } = options;
  // Whatever the record says: what follows takes the disks away.
  if (options.guests.running().some((guest) => guest.vmid === vmid)) {
    throw new AppError('conflict', `guest ${vmid} runs on ${self}; stop it first. Nothing was changed`);
  }
  const record = await readRecord<GuestRecord>(store, keys.guest(vmid));
  if (record === null) return 'deleted';
  const resource = await readRecord<HaResource>(store, keys.haResource(vmid));
  if (record.value.home !== self) {
    throw new AppError('conflict', `guest ${vmid}: its home is ${record.value.home}, not ${self}; nothing was changed`);
  }
  const requests = options.world.list<RequestRecord>(prefixes.requests).map(({ value }) => value);
  const made = requests.filter((request) => hasBegunToMake(request, self, vmid));
  const outcome = await store.commit(
    [
      { key: keys.guest(vmid), modRevision: record.modRevision },
      { key: keys.haResource(vmid), modRevision: resource?.modRevision ?? 0n },
    ],
    [
      { key: keys.guest(vmid), value: null },
      { key: keys.haResource(vmid), value: null },
      { key: keys.haStatus(vmid), value: null },
      { key: keys.replicationJob(vmid), value: null },
      { key: keys.keptDisks(vmid, self), value: null },
      ...made.map(({ id }) => ({ key: keys.request(id), value: null })),
      {
        key: keys.guestTombstone(vmid),
        value: JSON.stringify({ vmid, generation: record.value.generation, deletedAtMs: Date.now() }),
      },
    ],
  );
  if (outcome.kind === 'maybe') return 'unsure';
  if (outcome.kind === 'committed' || (await store.read(keys.guest(vmid))) === null) return 'deleted';
  throw new AppError('conflict', `guest ${vmid} was changed meanwhile; look again and repeat`);
}

/** Copies of guests that were deleted on purpose (there is a tombstone, and no record) go; a record that is merely missing removes nothing. */
export async function dropDeletedCopies(
  options: Pick<DeletionOptions, 'self' | 'store' | 'world' | 'storage'> & { log: Pick<Log, 'info'> },
): Promise<void> {
  const copies = await options.storage.listCopies();
  for (const copy of copies) {
    if (options.world.read(keys.guest(copy.vmid)) !== null || options.world.read(keys.guestTombstone(copy.vmid)) === null)
      continue;
    const record = await options.store.read(keys.guest(copy.vmid));
    const tombstone = await options.store.read(keys.guestTombstone(copy.vmid));
    if (record !== null || tombstone === null) continue;
    options.log.info({ event: 'copy.dropped', guest: copy.vmid }, 'its guest was deleted');
    await options.storage.remove(copy.vmid);
    const own = await options.store.read(keys.replica(copy.vmid, options.self));
    if (own !== null) {
      await options.store.commit([{ key: own.key, modRevision: own.modRevision }], [{ key: own.key, value: null }]);
    }
  }
}
