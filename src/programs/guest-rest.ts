import { existsSync } from 'node:fs';
import { rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { freezeGuest, thawGuest } from '#adapters/qmp/guest-agent.ts';
import { createGuestLock } from '#base/guest-lock.ts';
import { limits } from '#base/limits.ts';
import { guestRunPaths } from '#core/guest/guest-paths.ts';

/** What came of work for which a guest was to stand still. `because`: why it did not, or `at rest`. */
export type RestOutcome<T> = { result: T; isRested: boolean; because: string };

/**
 * Guests whose own agents hold their file systems at rest, for points of replication and of backups. There is a mark in a guest's run folder from
 * before it is asked until it goes on, so that the next agent lets go what one that died has held.
 */
export type GuestRests = {
  /**
   * Runs `work` while the guest is at rest, for one caller at a time. Not for longer than `guestRestMs`: then the guest goes on, whatever `work` does, and
   * the outcome says so. Where no agent answers within `guestFreezeMs`, `work` runs all the same. Raises what `work` raises.
   */
  hold<T>(vmid: number, work: () => Promise<T>): Promise<RestOutcome<T>>;
  /** Lets a guest go on that an earlier process may hold at rest. */
  releaseLeft(vmid: number): Promise<void>;
};

export function createGuestRests(parts: {
  run: string;
  log: (text: string) => void;
  times?: { freezeMs: number; restMs: number };
}): GuestRests {
  const { run, log } = parts;
  const { freezeMs, restMs } = parts.times ?? { freezeMs: limits.guestFreezeMs, restMs: limits.guestRestMs };
  const lock = createGuestLock();

  async function letGo(vmid: number, wasFrozen: boolean): Promise<void> {
    const { guestAgent } = guestRunPaths(run, vmid);
    let trouble = await thawGuest(guestAgent);
    if (trouble !== null && wasFrozen) trouble = await thawGuest(guestAgent);
    if (trouble !== null && wasFrozen) log(`guest ${vmid}: letting its file systems go on: ${trouble}`);
    await rm(markPath(run, vmid), { force: true });
  }

  async function hold<T>(vmid: number, work: () => Promise<T>): Promise<RestOutcome<T>> {
    await writeFile(markPath(run, vmid), '');
    const frozen = await freezeGuest(guestRunPaths(run, vmid).guestAgent, { deadlineMs: freezeMs });
    const isFrozen = frozen.kind === 'frozen';
    let going: Promise<void> | null = null;
    // Also when it was refused or not confirmed: it may have been carried out.
    const goOn = (): Promise<void> => (going ??= letGo(vmid, isFrozen));
    const timer = setTimeout(() => void goOn(), restMs);
    try {
      const result = await work();
      if (!isFrozen) return { result, isRested: false, because: frozen.because };
      // What was taken may be from after it was let go.
      return going === null
        ? { result, isRested: true, because: 'at rest' }
        : { result, isRested: false, because: `it was not done within ${restMs} ms` };
    } finally {
      clearTimeout(timer);
      await goOn();
    }
  }

  return {
    hold: (vmid, work) => lock.run(vmid, () => hold(vmid, work)),
    releaseLeft: (vmid) =>
      lock.run(vmid, async () => {
        if (existsSync(markPath(run, vmid))) await letGo(vmid, true);
      }),
  };
}

function markPath(run: string, vmid: number): string {
  return join(guestRunPaths(run, vmid).folder, 'at-rest');
}
