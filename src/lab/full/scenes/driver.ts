import type { DiskKind } from '#lab/drills/drill-names.ts';
import { pool } from '../founding.ts';
import { fullLimits } from '../full-limits.ts';
import { stickFolder } from '../full-room.ts';
import type { Machine } from '../machine.ts';
import { findHome, type Stage } from '../stage.ts';
import type { Say } from '../founding.ts';

export type DriverResult = { node: string; passed: number; failed: number; skipped: number; tookMs: number; broken: string[] };

const zfsTests = ['test/contract/zfs.test.ts', 'test/contract/zfs-replication.test.ts'];

/** The contract tests of the zfs driver, the checking workload among them, on the pool of a machine that runs no guest. */
export async function playDriver({ room, store, say }: Stage): Promise<DriverResult> {
  const { node: home } = await findHome(store);
  return await runContractTests(
    room.machines.find(({ name }) => name !== home)!,
    zfsTests,
    `HOLDFAST_TEST_POOL=${pool}`,
    say,
  );
}

/** As `playDriver`, and those of the watchdog on its device, in a machine where no guard has it. `disks`: which kinds are tried. */
export function runAllContractTests(machine: Machine, disks: readonly DiskKind[], say: Say): Promise<DriverResult> {
  const settings = `HOLDFAST_TEST_POOL=${pool} HOLDFAST_TEST_DISKS=${disks.join()} HOLDFAST_TEST_WATCHDOG=/dev/watchdog0`;
  return runContractTests(machine, [...zfsTests, 'test/contract/watchdog.test.ts'], settings, say);
}

/** With the Node.js and the modules of the package that is installed; the tests come with the stick. */
async function runContractTests(
  { name: node, shell }: Machine,
  files: string[],
  settings: string,
  say: Say,
): Promise<DriverResult> {
  say(`${node}: contract tests ${files.join(', ')}`);
  const startMs = performance.now();
  const mount = `mountpoint -q ${stickFolder} || mount -o ro /dev/disk/by-id/virtio-stick ${stickFolder}`;
  const run = `cd ${stickFolder}/source && ${settings} /usr/lib/holdfast/bin/node --test --test-reporter=spec ${files.join(' ')}`;
  const ended = await shell.run(`${mount}; { ${run}; } 1>&2`, {
    deadlineMs: fullLimits.driverMs,
    onLine: (line) => /^\s*[✔✖﹣]/.test(line) && say(`${node}: ${line.trim()}`),
  });
  const tookMs = Math.round(performance.now() - startMs);
  const count = (word: string): number => Number(new RegExp(`^\\S ${word} (\\d+)$`, 'm').exec(ended.err)?.[1] ?? 0);
  const [passed, failed, skipped] = [count('pass'), count('fail'), count('skipped')] as const;
  const broken: string[] = [];
  if (ended.code !== 0 || failed > 0 || passed === 0)
    broken.push(`${failed} tests failed on ${node}: ${ended.err.slice(-3_000)}`);
  if (skipped > 0) broken.push(`${skipped} tests were skipped on ${node}`);
  say(`${node}: ${passed} passed, ${failed} failed in ${(tookMs / 1000).toFixed(0)} s`);
  return { node, passed, failed, skipped, tookMs, broken };
}
