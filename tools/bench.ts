import { spawn } from 'node:child_process';
import { fileURLToPath } from 'node:url';

/**
 * `make bench`: measurements beside a named peer in the same run, with method and raw numbers printed by each of them.
 *
 *   round         CPU of one manager round by number of guests, beside its goal
 *   replication   one cycle of a changed disk beside `rsync --inplace` of the same image and the same change
 *   zfs           one cycle between two pools beside the bare `zfs send | zfs receive` of the same change; needs HOLDFAST_TEST_POOL=tank[,bank]
 *   backup-gc     garbage collection of a million references beside a sweep by access times
 *   backup        backups and restores beside restic, borg and bup of Debian; ARGS="backup --runs 3" measures more often
 *   pulls         plug to QEMU start by role, and data age; ARGS="pulls --count 10" pulls more often
 */
const benches: Record<string, { title: string; argv: string[] }> = {
  round: { title: 'one manager round', argv: [process.execPath, path('bench-round.ts')] },
  'cluster-round': { title: 'one manager round, records to commits', argv: [process.execPath, path('bench-cluster-round.ts')] },
  replication: { title: 'replication cycle beside rsync', argv: [process.execPath, path('bench-replication.ts')] },
  zfs: { title: 'replication cycle between pools beside zfs send | receive', argv: [process.execPath, path('bench-zfs.ts')] },
  'backup-gc': {
    title: 'garbage collection beside a sweep by access times',
    argv: [process.execPath, path('bench-backup-gc.ts')],
  },
  backup: { title: 'backups beside restic, borg and bup', argv: [process.execPath, path('bench-backup.ts')] },
  pulls: { title: 'plug pulls', argv: [path('../bin/holdfast'), 'drill', 'pulls'] },
};
/** Pulls a role when nothing else is said: about four minutes in all. */
const defaultPullArgs = ['--count', '1'];

function path(relative: string): string {
  return fileURLToPath(new URL(relative, import.meta.url));
}

async function runBench(name: string, args: string[]): Promise<number> {
  const bench = benches[name];
  if (bench === undefined) throw new Error(`no bench ${name}; there are ${Object.keys(benches).join(', ')}`);
  process.stdout.write(`\n== ${bench.title}\n`);
  const [program, ...fixed] = bench.argv as [string, ...string[]];
  const child = spawn(program, [...fixed, ...args], { stdio: 'inherit' });
  return new Promise((resolve) => child.on('close', (code) => resolve(code ?? 1)));
}

const [chosen, ...args] = process.argv.slice(2);
const runs: [string, string[]][] =
  chosen === undefined
    ? [
        ['round', []],
        ['replication', []],
        ['pulls', defaultPullArgs],
      ]
    : [[chosen, args]];
let worst = 0;
for (const [name, own] of runs) worst = Math.max(worst, await runBench(name, own));
process.exitCode = worst;
