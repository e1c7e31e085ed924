import { AppError } from '#base/error.ts';
import type { GuestRecord } from '#core/guest/guest-record.ts';
import { nextStatus, type StatusChange } from '#core/guest/order-end.ts';
import { keys } from '#core/ha/keys.ts';
import type { HaStatus } from '#core/ha/records.ts';
import type { Clock } from '#ports/clock.ts';
import type { Store } from '#ports/store.ts';
import { readRecord, type World } from '#programs/agent/world.ts';

/** Tells the cluster what this node does with its guests, once each time it changes. */
export type StatusDesk = {
  /** What was told last, by this agent or one before it. */
  told(vmid: number): HaStatus | null;
  /** Raises AppError when it cannot be told now. */
  tell(record: GuestRecord, change: StatusChange): Promise<void>;
  /** The guest is no longer ours to speak of. */
  forget(vmid: number): void;
};

export function createStatusDesk(options: { self: string; store: Store; world: World; clock: Clock }): StatusDesk {
  const { self, store, world, clock } = options;
  const last = new Map<number, HaStatus>();
  /** Guests of which something was told without an answer: it may be in the record, or come there yet, so the next word is written in any case. */
  const unsure = new Set<number>();

  const told = (vmid: number) => last.get(vmid) ?? world.read<HaStatus>(keys.haStatus(vmid))?.value ?? null;

  return {
    told,
    async tell(record, change) {
      const before = told(record.vmid);
      const next = nextStatus(self, record, before, change);
      const status: HaStatus = { ...next, atMs: clock.wallMs() };
      if (
        before !== null &&
        !unsure.has(record.vmid) &&
        JSON.stringify({ ...status, atMs: before.atMs }) === JSON.stringify(before)
      )
        return;
      unsure.add(record.vmid);
      if (await write(store, status)) last.set(record.vmid, status);
      unsure.delete(record.vmid);
    },
    forget: (vmid) => void last.delete(vmid),
  };
}

/** False when a later home has spoken: a word of ours that was held up must not cover its. */
async function write(store: Store, status: HaStatus): Promise<boolean> {
  const key = keys.haStatus(status.vmid);
  for (let attempt = 0; attempt < 4; attempt += 1) {
    const current = await readRecord<HaStatus>(store, key);
    if (current !== null && current.value.generation > status.generation) return false;
    const modRevision = current?.modRevision ?? 0n;
    const outcome = await store.commit([{ key, modRevision }], [{ key, value: JSON.stringify(status) }]);
    if (outcome.kind === 'committed') return true;
  }
  throw new AppError('conflict', `writing ${key}: four attempts met another writer or lost their answer`);
}
