import { existsSync } from 'node:fs';
import { rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { type FreezeOutcome, freezeGuest, thawGuest } from '#adapters/qmp/guest-agent.ts';
import { createGuestLock } from '#base/guest-lock.ts';
import { limits } from '#base/limits.ts';
import { guestRunPaths } from '#core/guest/guest-paths.ts';

/** What came of work for which a guest was to stand still. `because`: why it did not, or `at rest`. */
export type RestOutcome<T> = { result: T; isRested: boolean; because: string };

/**
 * Guests whose own agents hold their file systems at rest, for points of replication and of backups. There is a mark in a guest's run folder from
 * before it is asked until it is known to go on, so that the next agent lets go what one that died has held.
 *
 *   asked to rest ──> at rest ──work done, or guestRestMs over──> asked to go on ──confirmed──> goes on
 *        └─ no answer: it may rest later ─────────────────────────────┘   └─ no answer: asked again and again, and never to rest meanwhile
 */
export type GuestRests = {
  /**
   * Runs `work` while the guest is at rest, for one caller at a time. Not for longer than `guestRestMs`: then the guest goes on, whatever `work` does, and
   * the outcome says so. Where no agent answers within `guestFreezeMs`, `work` runs all the same. Raises what `work` raises.
   */
  hold<T>(vmid: number, work: () => Promise<T>): Promise<RestOutcome<T>>;
  /** Why the guest is not known to go on; null: it does. It is asked again and again meanwhile, and never brought to rest. */
  whyHeld(vmid: number): string | null;
  /** Lets a guest go on that an earlier process may hold at rest. */
  releaseLeft(vmid: number): Promise<void>;
};

/** `retryMs`: between two tries to let go a guest that does not answer, at first; it doubles up to `retryMaxMs`. */
export type RestTimes = { freezeMs: number; restMs: number; thawMs: number; retryMs: number; retryMaxMs: number };

const ordinaryTimes: RestTimes = {
  freezeMs: limits.guestFreezeMs,
  restMs: limits.guestRestMs,
  thawMs: limits.guestAgentMs,
  retryMs: limits.guestThawRetryMs,
  retryMaxMs: limits.guestThawRetryMaxMs,
};

export function createGuestRests(parts: { run: string; log: (text: string) => void; times?: Partial<RestTimes> }): GuestRests {
  const { run, log } = parts;
  const times = { ...ordinaryTimes, ...parts.times };
  const lock = createGuestLock();
  /** Guests that are not known to go on. */
  const held = new Map<number, { because: string }>();

  const askToGoOn = (vmid: number) => thawGuest(guestRunPaths(run, vmid).guestAgent, { deadlineMs: times.thawMs });

  async function letGo(vmid: number, wasRefused: boolean): Promise<void> {
    const trouble = await askToGoOn(vmid);
    // Who refuses to rest, and to go on, does not rest.
    if (trouble === null || (wasRefused && trouble.isRefusal)) return await rm(markPath(run, vmid), { force: true });
    const own = { because: `its file systems may stand still: ${trouble.because}; its agent is asked until it answers` };
    held.set(vmid, own);
    log(`guest ${vmid}: ${own.because}`);
    void keepAsking(vmid, own);
  }

  /** Until it answers, or is gone with its run folder. */
  async function keepAsking(vmid: number, own: object): Promise<void> {
    const beganMs = performance.now();
    for (let waitMs = times.retryMs; ; waitMs = Math.min(waitMs * 2, times.retryMaxMs)) {
      await delay(waitMs, undefined, { ref: false });
      if (whyHeld(vmid) === null || held.get(vmid) !== own) return;
      const trouble = await askToGoOn(vmid);
      if (held.get(vmid) !== own) return;
      if (trouble === null) break;
      log(`guest ${vmid}: its file systems may still stand still: ${trouble.because}`);
    }
    held.delete(vmid);
    await rm(markPath(run, vmid), { force: true });
    log(`guest ${vmid}: its file systems go on, ${Math.round((performance.now() - beganMs) / 1_000)} s late`);
  }

  function whyHeld(vmid: number): string | null {
    if (!existsSync(markPath(run, vmid))) held.delete(vmid); // its process is gone
    return held.get(vmid)?.because ?? null;
  }

  async function hold<T>(vmid: number, work: () => Promise<T>): Promise<RestOutcome<T>> {
    const because = whyHeld(vmid);
    if (because !== null) return { result: await work(), isRested: false, because };
    await writeFile(markPath(run, vmid), '');
    const frozen = await freezeGuest(guestRunPaths(run, vmid).guestAgent, { deadlineMs: times.freezeMs });
    let going: Promise<void> | null = null;
    const goOn = (): Promise<void> => (going ??= endRest(vmid, frozen));
    const timer = setTimeout(() => void goOn(), times.restMs);
    try {
      const result = await work();
      if (frozen.kind === 'not-frozen') return { result, isRested: false, because: frozen.because };
      // What was taken may be from after it was let go.
      return going === null
        ? { result, isRested: true, because: 'at rest' }
        : { result, isRested: false, because: `it was not done within ${times.restMs} ms` };
    } finally {
      clearTimeout(timer);
      await goOn();
    }
  }

  async function endRest(vmid: number, frozen: FreezeOutcome): Promise<void> {
    if (frozen.kind === 'not-frozen' && frozen.asked === 'not') return await rm(markPath(run, vmid), { force: true });
    // Also when it was refused or not confirmed: it may be at rest all the same, or soon.
    await letGo(vmid, frozen.kind === 'not-frozen' && frozen.asked === 'refused');
  }

  return {
    hold: (vmid, work) => lock.run(vmid, () => hold(vmid, work)),
    whyHeld,
    releaseLeft: (vmid) =>
      lock.run(vmid, async () => {
        if (existsSync(markPath(run, vmid)) && whyHeld(vmid) === null) await letGo(vmid, false);
      }),
  };
}

function markPath(run: string, vmid: number): string {
  return join(guestRunPaths(run, vmid).folder, 'at-rest');
}
