import { writeFileSync } from 'node:fs';
import type { DiskKind } from '#lab/drills/drill-names.ts';
import { waitUntil } from '#lab/drills/drill-store.ts';
import { pool, type Say } from './founding.ts';
import { fullLimits } from './full-limits.ts';
import type { Machine } from './machine.ts';
import { type DriverResult, runAllContractTests } from './scenes/driver.ts';

/** What `holdfast drill machine --json` writes. */
export type OneMachineResult = {
  versions: Record<string, string>;
  /** The watchdog's driver and what became of a machine that nobody petted for. */
  watchdog: { identity: string; askedSeconds: number; armedToFiredMs: number; firedToLoginMs: number };
  /** The pool after the reset, as ZFS tells it. */
  poolHealth: string;
  tests: DriverResult;
  brokenPromises: string[];
};

const askedSeconds = 5;

/**
 * One machine with our package installed and a pool: its watchdog resets it, the pool is there again afterwards, and the contract tests of the zfs
 * driver and of the watchdog pass in it.
 */
export async function tryOneMachine(
  machine: Machine,
  {
    versions,
    disks,
    jsonFile,
    say,
  }: { versions: Record<string, string>; disks: readonly DiskKind[]; jsonFile: string | null; say: Say },
): Promise<OneMachineResult> {
  const watchdog = await fireWatchdog(machine, say);
  const poolHealth = (await machine.shell.must(`zpool list -H -o health ${pool}`)).trim();
  say(`${machine.name}: pool ${pool} is ${poolHealth}`);
  const tests = await runAllContractTests(machine, disks, say);
  const brokenPromises = [...tests.broken];
  if (poolHealth !== 'ONLINE') brokenPromises.push(`the pool is ${poolHealth} after a reset`);
  if (!/i6300ESB/i.test(watchdog.identity)) brokenPromises.push(`the watchdog is ${watchdog.identity}`);
  const result = { versions, watchdog, poolHealth, tests, brokenPromises };
  if (jsonFile !== null) writeFileSync(jsonFile, `${JSON.stringify(result, null, 2)}\n`);
  for (const promise of brokenPromises) say(`  BROKEN: ${promise}`);
  return result;
}

/** Arms the watchdog and pets it once; the hardware resets the machine, which boots again. */
async function fireWatchdog(machine: Machine, say: Say): Promise<OneMachineResult['watchdog']> {
  const { shell, name } = machine;
  await shell.must('modprobe i6300esb');
  const identity = (await shell.must('cat /sys/class/watchdog/watchdog0/identity')).trim();
  const seen = machine.events().length;
  // Closed without a V it counts on.
  await shell.must(`wdctl --settimeout ${askedSeconds} /dev/watchdog0 >/dev/null && printf . >/dev/watchdog0`);
  const armedMs = Date.now();
  const fired = await waitUntil(`the watchdog of ${name} to fire`, fullLimits.monitorMs, async () =>
    machine
      .events()
      .slice(seen)
      .find(({ event }) => event === 'watchdog'),
  );
  const armedToFiredMs = Math.round(fired.atMs - armedMs);
  say(`${name}: ${identity} fired ${(armedToFiredMs / 1000).toFixed(1)} s after its last pet (${askedSeconds} s asked for)`);
  shell.hangUp();
  await machine.waitForLogin();
  const firedToLoginMs = Math.round(Date.now() - fired.atMs);
  say(`${name}: is back ${(firedToLoginMs / 1000).toFixed(1)} s after its reset`);
  await shell.must('modprobe i6300esb');
  return { identity, askedSeconds, armedToFiredMs, firedToLoginMs };
}
