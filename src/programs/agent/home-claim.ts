import { AppError } from '#base/error.ts';
import type { GuestRecord } from '#core/guest/guest-record.ts';
import { keys } from '#core/ha/keys.ts';
import type { Permit } from '#core/ha/records.ts';
import type { Store } from '#ports/store.ts';
import { readRecord } from '#programs/agent/world.ts';

export type HomeClaimParts = { self: string; store: Store; readEpoch: () => number | null };

/** What this node claims to speak for: a guest of that generation, under that epoch of its own. */
export type HomeClaim = { vmid: number; generation: number; nodeEpoch: number };

/**
 * The guest's record, when this node may speak for it: linearizable, so that a home that was replaced says nothing. Raises AppError conflict, which
 * begins with `what`.
 */
export async function confirmHome(
  { self, store, readEpoch }: HomeClaimParts,
  claim: HomeClaim,
  what: string,
): Promise<{ value: GuestRecord; modRevision: bigint }> {
  const record = await readRecord<GuestRecord>(store, keys.guest(claim.vmid));
  const permit = await readRecord<Permit>(store, keys.nodePermit(self));
  const holds =
    record?.value.home === self &&
    record.value.generation === claim.generation &&
    permit?.value.state === 'granted' &&
    permit.value.epoch === claim.nodeEpoch &&
    readEpoch() === claim.nodeEpoch;
  if (record !== null && holds) return record;
  throw new AppError('conflict', `${what} guest ${claim.vmid}: ${self} is not its home any more; nothing was kept of it`);
}

/** The claim of this node on a guest that is at home here. Raises AppError missing or conflict. */
export async function claimHome({ self, store, readEpoch }: HomeClaimParts, vmid: number, what: string): Promise<HomeClaim> {
  const record = await readRecord<GuestRecord>(store, keys.guest(vmid));
  if (record === null) throw new AppError('missing', `${what} guest ${vmid}: the cluster has no such guest`);
  if (record.value.home !== self || record.value.givenUp !== undefined)
    throw new AppError('conflict', `${what} guest ${vmid}: its home is ${record.value.home}, or it is about to leave; ask again`);
  const nodeEpoch = readEpoch();
  if (nodeEpoch === null)
    throw new AppError('unavailable', `${what} guest ${vmid}: ${self} has no permit now; ask again once it serves`);
  return { vmid, generation: record.value.generation, nodeEpoch };
}
