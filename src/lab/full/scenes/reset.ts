import { keys } from '#core/ha/keys.ts';
import type { HaStatus, Permit } from '#core/ha/records.ts';
import { timingProfiles } from '#core/ha/timing.ts';
import { readValue, waitUntil } from '#lab/drills/drill-store.ts';
import { fullLimits } from '../full-limits.ts';
import { findHome, readWitness, type Stage, tinyGuest, waitCopies, waitServing, waitSpeaking } from '../stage.ts';

/** How a machine is made silent without taking its power: its kernel panics, or its guard does not run any more. */
const faults = {
  'kernel-crash': {
    told: 'its kernel is crashed by sysrq',
    // The answer never comes: the kernel is gone with the connection.
    command: '(sleep 1; echo 1 >/proc/sys/kernel/sysrq; echo c >/proc/sysrq-trigger) </dev/null >/dev/null 2>&1 & echo now',
    delayMs: 1_000,
  },
  'guard-stopped': {
    told: 'its guard is stopped (SIGSTOP)',
    command: 'systemctl kill --kill-whom=main --signal=STOP holdfast-guard && echo now',
    delayMs: 0,
  },
} as const;

export type ResetFault = keyof typeof faults;

export type ResetResult = {
  fault: ResetFault;
  node: string;
  /** From the fault to the watchdog's fire, as the machine's emulator saw it. */
  faultToResetMs: number;
  /** The time that the guard's profile leaves at most: soft limit (the last pet may be that late) and watchdog. */
  boundMs: number;
  survivor: string;
  faultToStartMs: number;
  rejoinMs: number;
  broken: string[];
};

/** The guest's machine falls silent; its watchdog resets it; the guest runs elsewhere; the machine comes back by itself. */
export async function playReset(stage: Stage, fault: ResetFault): Promise<ResetResult> {
  const { room, store, collector, say } = stage;
  const { node, generation } = await findHome(store);
  const machine = room.byName(node);
  const others = room.machines.map(({ name }) => name).filter((name) => name !== node);
  await waitCopies(store, tinyGuest.vmid, generation, others);
  const permit = await readValue<Permit>(store, keys.nodePermit(node));
  const seen = machine.events().length;
  say(`${node}: ${faults[fault].told}`);
  await machine.shell.must(faults[fault].command);
  const atMs = Date.now() + faults[fault].delayMs;
  const { watchdogMs, softMs } = timingProfiles.lenient;
  const fired = await waitUntil(`the watchdog of ${node} to fire`, 4 * (watchdogMs + softMs), async () =>
    machine
      .events()
      .slice(seen)
      .find(({ event }) => event === 'watchdog'),
  );
  say(`${node}: its watchdog fired ${((fired.atMs - atMs) / 1000).toFixed(2)} s after the fault`);
  machine.shell.hangUp();
  const look = async (): Promise<HaStatus | null> => {
    const now = await readValue<HaStatus>(store, keys.haStatus(tinyGuest.vmid));
    return now !== null && now.node !== node && now.qemuStartedAtMs !== null ? now : null;
  };
  const status = await waitUntil(`guest ${tinyGuest.vmid} to run elsewhere`, fullLimits.guestMs, look, fullLimits.lookMs);
  const run = await waitSpeaking(collector, generation + 1);
  say(
    `guest ${tinyGuest.vmid} runs on ${status.node}, started ${((Number(status.qemuStartedAtMs) - atMs) / 1000).toFixed(2)} s after the fault`,
  );
  await machine.waitForLogin();
  await waitServing(store, node, permit?.epoch ?? 0);
  const rejoinMs = Math.round(Date.now() - fired.atMs);
  say(`${node} serves again ${(rejoinMs / 1000).toFixed(1)} s after its reset`);
  const result: ResetResult = {
    fault,
    node,
    faultToResetMs: Math.round(fired.atMs - atMs),
    boundMs: watchdogMs + softMs,
    survivor: status.node,
    faultToStartMs: Math.round((status.qemuStartedAtMs ?? 0) - atMs),
    rejoinMs,
    broken: [],
  };
  const witness = await readWitness(collector);
  if (witness === null || witness.doubleRuns.length > 0) result.broken.push('the guest was heard from two places at once');
  if (run.consistent !== true) result.broken.push(`the guest's disks were not one point: ${run.detail}`);
  if (result.faultToResetMs > result.boundMs)
    result.broken.push(
      `the watchdog fired ${result.faultToResetMs} ms after the fault; at most ${result.boundMs} ms are allowed`,
    );
  if ((status.qemuStartedAtMs ?? 0) < fired.atMs) result.broken.push('the guest was started elsewhere before the reset');
  return result;
}
