import type { Clock } from '#ports/clock.ts';
import type { RunningGuest } from '#ports/hypervisor.ts';
import { limits } from '#base/limits.ts';
import { writeAgentAlive } from '#programs/local-state.ts';
import { pause } from '#programs/pause.ts';

/**
 * Says every second that this agent is alive. Written from the agent's own event loop on purpose: a loop that hangs must fall
 * silent. Returns when `signal` aborts.
 */
export async function sayAlive(
  run: string,
  clock: Clock,
  running: () => RunningGuest[],
  memoryOf: (vmid: number) => number,
  signal: AbortSignal,
): Promise<void> {
  while (!signal.aborted) {
    const guests = running();
    const memoryUsedMb = guests.reduce((sum, guest) => sum + memoryOf(guest.vmid), 0);
    writeAgentAlive(run, { atBootMs: clock.bootMs(), load: { guestsRunning: guests.length, memoryUsedMb } });
    await pause(limits.agentAliveMs, signal);
  }
}
