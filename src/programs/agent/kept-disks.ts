import { keys } from '#core/ha/keys.ts';
import type { KeptDisksRecord } from '#core/guest-backup/records.ts';
import type { GuestStorage } from '#ports/guest-storage.ts';
import type { Store } from '#ports/store.ts';
import { writeOwnedRecord } from '#programs/agent/world.ts';

/** Tells the cluster which tails the primary copy here keeps; those of replicas are told with the replica. */
export async function publishKeptDisks(
  parts: { self: string; store: Store; storage: Pick<GuestStorage, 'listCopies'> },
  vmid: number,
): Promise<void> {
  const { self, store } = parts;
  const copy = (await parts.storage.listCopies()).find((held) => held.vmid === vmid);
  const key = keys.keptDisks(vmid, self);
  const tails = copy?.role === 'primary' ? copy.leftBehind : [];
  if (tails.length > 0) return await writeOwnedRecord(store, key, { vmid, node: self, tails } satisfies KeptDisksRecord);
  const known = await store.read(key);
  if (known !== null) await store.commit([{ key, modRevision: known.modRevision }], [{ key, value: null }]);
}
