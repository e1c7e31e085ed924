import { keys } from '#core/ha/keys.ts';
import type { ReplicationJob } from '#core/replica/records.ts';
import { listExpiredTails } from '#core/replica/tail-expiry.ts';
import type { Clock } from '#ports/clock.ts';
import type { GuestStorage } from '#ports/guest-storage.ts';
import type { World } from '#programs/agent/world.ts';
import type { Log } from '#programs/log.ts';

/** Removes the left-behind tails here that are past the time for which their guest's job keeps them; without such a time none. Returns whose they were. */
export async function releaseExpiredTails(parts: {
  storage: Pick<GuestStorage, 'listCopies' | 'releaseLeftBehind'>;
  world: Pick<World, 'read'>;
  clock: Pick<Clock, 'wallMs'>;
  log: Pick<Log, 'info'>;
}): Promise<number[]> {
  const released: number[] = [];
  const { storage, world, clock, log } = parts;
  for (const { vmid, leftBehind } of await storage.listCopies()) {
    const keepDays = world.read<ReplicationJob>(keys.replicationJob(vmid))?.value.keepTailsDays;
    for (const { name, untilAtMs } of listExpiredTails(leftBehind, keepDays, clock.wallMs())) {
      log.info({ event: 'tail.expired', guest: vmid, name, untilAtMs, keepDays }, 'its guest keeps tails no longer');
      await storage.releaseLeftBehind(vmid, name);
      released.push(vmid);
    }
  }
  return released;
}
