import { cpus, totalmem } from 'node:os';
import { keys } from '#core/ha/keys.ts';
import type { NodeInfo } from '#core/ha/records.ts';
import type { GuestStorage } from '#ports/guest-storage.ts';
import type { HypervisorFacts } from '#ports/hypervisor.ts';
import type { Store } from '#ports/store.ts';
import { type World, writeOwnedRecord } from '#programs/agent/world.ts';

/** What the guard has said of this node in guard.json, as far as others need to know it. */
export type GuardFacts = { watchdog: NodeInfo['watchdog']; problems: string[] } | null;

export type NodeInfoOptions = {
  name: string;
  address: string;
  relayPort: number;
  bootId: string;
  store: Store;
  world: Pick<World, 'read'>;
  storage: Pick<GuestStorage, 'listCopies'>;
  hypervisor: HypervisorFacts;
  readGuard: () => GuardFacts;
};

/** MiB of memory that guests do not get: the host and our own programs. */
const hostShareMb = 512;

/**
 * Gathers this node's facts and writes `/holdfast/nodes/NAME/info` when they are not what the view shows: nobody else writes it, and a view that lags
 * is right by the next look.
 */
export async function publishNodeInfo(options: NodeInfoOptions): Promise<NodeInfo> {
  const guard = options.readGuard();
  const copies = await options.storage.listCopies();
  const info: NodeInfo = {
    name: options.name,
    address: options.address,
    relayPort: options.relayPort,
    bootId: options.bootId,
    accelerator: options.hypervisor.accelerator,
    qemuVersion: options.hypervisor.qemuVersion,
    cores: cpus().length,
    memoryMb: Math.max(0, Math.floor(totalmem() / (1 << 20)) - hostShareMb),
    watchdog: guard?.watchdog ?? null,
    primaryCopies: copies
      .filter((copy) => copy.role === 'primary')
      .map((copy) => ({ vmid: copy.vmid, generation: copy.generation }))
      .sort((a, b) => a.vmid - b.vmid),
    problems: guard === null ? ['its guard has not reported'] : guard.problems,
  };
  const key = keys.nodeInfo(options.name);
  if (JSON.stringify(options.world.read<NodeInfo>(key)?.value) !== JSON.stringify(info))
    await writeOwnedRecord(options.store, key, info);
  return info;
}
