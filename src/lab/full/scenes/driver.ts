import { pool } from '../founding.ts';
import { fullLimits } from '../full-limits.ts';
import { stickFolder } from '../full-room.ts';
import { findHome, type Stage } from '../stage.ts';

export type DriverResult = { node: string; passed: number; failed: number; skipped: number; tookMs: number; broken: string[] };

const tests = ['test/contract/zfs.test.ts', 'test/contract/zfs-replication.test.ts'];

/** The contract tests of the zfs driver, the checking workload among them, on the pool of a machine that runs no guest. */
export async function playDriver({ room, store, say }: Stage): Promise<DriverResult> {
  const { node: home } = await findHome(store);
  const { name: node, shell } = room.machines.find(({ name }) => name !== home)!;
  say(`${node}: the contract tests of the zfs driver`);
  const startMs = performance.now();
  const mount = `mountpoint -q ${stickFolder} || mount -o ro /dev/disk/by-id/virtio-stick ${stickFolder}`;
  const run = `cd ${stickFolder}/source && HOLDFAST_TEST_POOL=${pool} /usr/lib/holdfast/bin/node --test --test-reporter=spec ${tests.join(' ')}`;
  const ended = await shell.run(`${mount}; { ${run}; } 1>&2`, {
    deadlineMs: fullLimits.driverMs,
    onLine: (line) => /^\s*[✔✖﹣]/.test(line) && say(`${node}: ${line.trim()}`),
  });
  const tookMs = Math.round(performance.now() - startMs);
  const count = (word: string): number => Number(new RegExp(`^\\S? ?${word} (\\d+)$`, 'm').exec(ended.err)?.[1] ?? 0);
  const [passed, failed, skipped] = [count('pass'), count('fail'), count('skipped')];
  const broken: string[] = [];
  if (ended.code !== 0 || failed > 0 || passed === 0)
    broken.push(`${failed} tests failed on ${node}: ${ended.err.slice(-3_000)}`);
  if (skipped > 0) broken.push(`${skipped} tests were skipped on ${node}`);
  say(`${node}: ${passed} passed, ${failed} failed in ${(tookMs / 1000).toFixed(0)} s`);
  return { node, passed, failed, skipped, tookMs, broken };
}
