import type { NodeEnding } from '#core/guest/guest-plan.ts';
import type { Clock } from '#ports/clock.ts';
import type { GuestStorage } from '#ports/guest-storage.ts';
import type { Hypervisor, RunningGuest } from '#ports/hypervisor.ts';
import type { Store } from '#ports/store.ts';
import type { Bell } from '#programs/agent/bell.ts';
import type { World } from '#programs/agent/world.ts';
import type { Replication } from '#programs/replication/replication.ts';

/** What the guests' loop and its actions touch. */
export type GuestLoopOptions = {
  self: string;
  store: Store;
  world: World;
  clock: Clock;
  bell: Bell;
  hypervisor: Pick<Hypervisor, 'start' | 'adopt'>;
  storage: GuestStorage;
  replication: Pick<Replication, 'armBitmaps' | 'startGuest' | 'stopGuest' | 'syncNow' | 'sendLast' | 'announce'>;
  /** The epoch granted to this node while its guard serves (guard.json); null otherwise. */
  readEpoch: () => number | null;
  /** What becomes of the guests because this node is about to end; null: it is not. */
  readEnding: () => NodeEnding | null;
  log: { info(fields: object, text: string): void; warn(fields: object, text: string): void };
};

/**
 * How an attempt at an order went. `failed` is counted and told under the order; other trouble (the store, another action) is raised and
 * tried again for ever.
 */
export type Attempt = { kind: 'done' | 'skipped' } | { kind: 'failed'; error: unknown };

export const done: Attempt = { kind: 'done' };

/** Somebody moved first, or nothing could be done: our view of the record will show why. */
export const skipped: Attempt = { kind: 'skipped' };

/** A spawned or found QEMU is taken over by the loop from here on. */
export type Attach = (guest: RunningGuest) => void;
