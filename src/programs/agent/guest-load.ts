import { readProcessUse, type ProcessUse } from '#adapters/qemu/process-use.ts';
import { limits } from '#base/limits.ts';
import { keys } from '#core/ha/keys.ts';
import type { GuestUse, NodeLoad } from '#core/ha/records.ts';
import type { Clock } from '#ports/clock.ts';
import type { RunningGuest } from '#ports/hypervisor.ts';
import type { Store } from '#ports/store.ts';
import { writeOwnedRecord } from '#programs/agent/world.ts';
import { pause } from '#programs/pause.ts';

export type GuestLoadOptions = {
  self: string;
  store: Store;
  clock: Clock;
  running: () => RunningGuest[];
  onTrouble: (error: unknown) => void;
};

type Look = { pid: number; atBootMs: number; use: ProcessUse };

/**
 * Tells the cluster what the guests of this node use, for placement by load: CPU time since the last look, memory now. A node without
 * guests says so once. Returns when `signal` aborts.
 */
export async function tellGuestLoad(options: GuestLoadOptions, signal: AbortSignal): Promise<void> {
  const { self, store, clock, running, onTrouble } = options;
  let looks = new Map<number, Look>();
  let saidNone = false;
  while (!signal.aborted) {
    const before = looks;
    looks = new Map(running().flatMap(({ vmid, pid }) => lookAt(vmid, pid, clock.bootMs())));
    const guests = [...looks].flatMap(([vmid, look]) => useSince(vmid, before.get(vmid), look));
    if (guests.length > 0 || !saidNone) {
      const load: NodeLoad = { atMs: clock.wallMs(), guests };
      await writeOwnedRecord(store, keys.nodeLoad(self), load).catch(onTrouble);
    }
    saidNone = guests.length === 0;
    await pause(limits.guestLoadMs, signal);
  }
}

function lookAt(vmid: number, pid: number, atBootMs: number): [number, Look][] {
  const use = readProcessUse(pid);
  return use === null ? [] : [[vmid, { pid, atBootMs, use }]];
}

/** Nothing is said of a process that was not there at the last look: its start is not its load. */
function useSince(vmid: number, before: Look | undefined, now: Look): GuestUse[] {
  if (before === undefined || before.pid !== now.pid || now.atBootMs <= before.atBootMs) return [];
  const cores = (now.use.cpuMs - before.use.cpuMs) / (now.atBootMs - before.atBootMs);
  return [{ vmid, cores: Math.round(cores * 1000) / 1000, memoryBytes: now.use.memoryBytes }];
}
