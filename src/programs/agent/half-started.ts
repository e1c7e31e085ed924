import { isAppError } from '#base/error.ts';
import { limits } from '#base/limits.ts';
import type { RunningGuest } from '#ports/hypervisor.ts';

/**
 * Ends a guest that was found with its CPUs never started: the agent that spawned it died before it let it run, and nobody else would. It is
 * then started anew, with every look that comes before a start. Asks again until QEMU answers, for a frozen one says nothing.
 */
export async function endHalfStarted(guest: RunningGuest, log: { warn(fields: object, text: string): void }): Promise<void> {
  const isGone = guest.exited.then(() => true);
  for (;;) {
    const status = await readStatus(guest);
    if (status !== null && status !== 'prelaunch') return;
    if (status === 'prelaunch') {
      log.warn({ event: 'guest.half-started', guest: guest.vmid }, 'an earlier agent spawned it and never let it run: ended');
      return await guest.kill();
    }
    if (await Promise.race([isGone, pause()])) return;
  }
}

async function readStatus(guest: RunningGuest): Promise<string | null> {
  try {
    const { status } = await guest.qmp.execute<{ status: string }>('query-status', undefined, { deadlineMs: limits.qmpCallMs });
    return status;
  } catch (error) {
    if (!isAppError(error)) throw error;
    return null;
  }
}

function pause(): Promise<false> {
  return new Promise((resolve) => setTimeout(() => resolve(false), limits.agentRoundMs).unref());
}
