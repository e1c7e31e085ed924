import { isAppError } from '#base/error.ts';
import { limits } from '#base/limits.ts';
import type { ProcessState } from '#core/guest/process-state.ts';
import type { RunningGuest } from '#ports/hypervisor.ts';

/**
 * What a QEMU that an earlier agent left does now; null: it has ended. Asks again until QEMU answers, for a frozen one says nothing: nothing
 * is done with the guest before, for that agent may have died before it let it run, or while it stopped it for good.
 */
export async function lookAtFound(guest: RunningGuest): Promise<ProcessState | null> {
  const isGone = guest.exited.then(() => true);
  for (;;) {
    try {
      return await guest.readState();
    } catch (error) {
      if (!isAppError(error)) throw error;
    }
    if (await Promise.race([isGone, pause()])) return null;
  }
}

function pause(): Promise<false> {
  return new Promise((resolve) => setTimeout(() => resolve(false), limits.guardLookMs).unref());
}
