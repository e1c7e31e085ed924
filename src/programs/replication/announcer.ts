import { formatErrorChain } from '#base/error.ts';
import type { ReplicaRecord } from '#core/replica/records.ts';
import type { ReplicationDriver } from '#programs/replication/driver.ts';

export type Announcer = {
  /** Tells the cluster what this node holds of a guest, when it is not what was told last. Never fails. */
  announce(vmid: number): Promise<void>;
  /** The same for every guest: catches up on lost announcements, promotions, demotions and released tails. */
  announceAll(): Promise<void>;
};

/** `publish` with null withdraws the record: nothing here could be promoted. */
export function createAnnouncer(deps: {
  driver: Pick<ReplicationDriver, 'describe' | 'listHeld'>;
  publish: (vmid: number, record: ReplicaRecord | null) => Promise<void>;
  log: (text: string) => void;
}): Announcer {
  const told = new Map<number, string>();

  async function announce(vmid: number): Promise<void> {
    try {
      const record = await deps.driver.describe(vmid);
      const text = JSON.stringify(record);
      if (told.get(vmid) === text) return;
      await deps.publish(vmid, record);
      told.set(vmid, text);
    } catch (error) {
      told.delete(vmid);
      deps.log(`guest ${vmid}: what is held here was not announced: ${formatErrorChain(error)}`);
    }
  }

  return {
    announce,
    async announceAll() {
      try {
        for (const vmid of new Set([...(await deps.driver.listHeld()), ...told.keys()])) await announce(vmid);
      } catch (error) {
        deps.log(`what is held here cannot be told: ${formatErrorChain(error)}`); // a pool that is not imported yet
      }
    },
  };
}
