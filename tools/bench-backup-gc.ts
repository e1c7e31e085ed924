import { spawnSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';

/**
 * Garbage collection of a store, ours beside a sweep that goes by access times, reference by reference:
 * `node tools/bench-backup-gc.ts [--references 1000000] [--snapshots 100] [--garbage 1000] [--runs 3]`.
 */
const { values } = parseArgs({
  options: {
    references: { type: 'string', default: '1000000' },
    snapshots: { type: 'string', default: '100' },
    garbage: { type: 'string', default: '1000' },
    runs: { type: 'string', default: '3' },
    folder: { type: 'string', default: existsSync('/dev/shm') ? '/dev/shm' : tmpdir() },
  },
});
const worker = fileURLToPath(new URL('bench-backup-gc-job.ts', import.meta.url));
const root = mkdtempSync(join(values.folder, 'holdfast-bench-gc-'));
process.once('exit', () => rmSync(root, { recursive: true, force: true }));
for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => process.exit(1));

type Job = 'build' | 'litter' | 'crash' | 'nothing' | 'sweep' | 'ours' | 'ours-crash' | 'ours-scan';
type Outcome = { tookMs: number; removed: number; calls: number };

/** The kernel counts at no cost where it lets us; strace stops the process at each call. */
const hasPerf = spawnSync('perf', ['stat', '-x', ',', '-e', 'raw_syscalls:sys_enter', 'true']).status === 0;

/** Runs a job in a process of its own; with `isCounted` every system call of all its threads is counted. */
function run(job: Job, isCounted = false): Outcome {
  const summary = join(root, 'calls');
  const own = [process.execPath, worker, job, join(root, 'store'), values.references, values.snapshots, values.garbage];
  const counter = hasPerf
    ? ['perf', 'stat', '-x', ',', '-e', 'raw_syscalls:sys_enter', '-o', summary]
    : ['strace', '-f', '-c', '-o', summary];
  const command = isCounted ? [...counter, ...own] : own;
  const { status, signal, stdout, stderr } = spawnSync(command[0] ?? '', command.slice(1), { encoding: 'utf8' });
  if (job === 'crash' ? signal !== 'SIGKILL' : status !== 0) throw new Error(`${job} ended with ${status}: ${stderr}`);
  const told = JSON.parse(stdout.trim().split('\n').at(-1) || '{}') as { tookMs: number; removed: number };
  return { ...told, calls: isCounted ? readCalls(readFileSync(summary, 'utf8')) : 0 };
}

function readCalls(summary: string): number {
  const perf = /^(\d+),[^,]*,raw_syscalls:sys_enter/m.exec(summary);
  const strace = /^\s*100\.00\s+\S+\s+(?:\S+\s+)?(\d+)\s+(?:\d+\s+)?total$/m.exec(summary);
  const calls = Number((hasPerf ? perf : strace)?.[1]);
  if (!Number.isInteger(calls)) throw new Error(`no count of system calls in: ${summary}`);
  return calls;
}

/** The same store each time: garbage is put in before each run, and each run has to find all of it. */
function measure(job: Job, isCounted = false): Outcome {
  run(job === 'ours-crash' ? 'crash' : 'litter');
  const outcome = run(job, isCounted);
  if (job !== 'nothing' && outcome.removed !== Number(values.garbage))
    throw new Error(`${job} removed ${outcome.removed} of ${values.garbage} chunks`);
  if (job === 'nothing') run('ours'); // so that the garbage does not pile up
  if (job === 'sweep') run('ours-scan'); // it removed chunks behind the store's back
  return outcome;
}

function median(list: readonly number[]): number {
  return list.toSorted((a, b) => a - b)[Math.floor(list.length / 2)] ?? Number.NaN;
}

mkdirSync(join(root, 'store'));
const seed = randomBytes(4).toString('hex');
console.log(`Store: ${values.references} references in ${values.snapshots} indexes to a tenth as many distinct chunks, ${values.garbage} chunks of garbage
before each run, in ${values.folder} (run ${seed}). Sweep: what a collector does that goes by access times: one utimensat a reference, then every
chunk folder is listed and every chunk looked at; written here in the same language. Ours: as the server does it, the catalogue of chunks known
("after a crash": the process that stored the garbage was killed; "all folders": nothing is believed, every chunk folder is listed first). Each run in a process of its own, page cache warm, time without counting; calls\ncounted by ${hasPerf ? 'perf stat (raw_syscalls:sys_enter)' : 'strace -f -c'}, all threads, less those of a process that opens and closes the store and collects nothing.`);
run('build');
const jobs = ['sweep', 'ours', 'ours-crash', 'ours-scan'] as const;
const names = {
  sweep: 'sweep by access times',
  ours: 'ours',
  'ours-crash': 'ours, after a crash',
  'ours-scan': 'ours, all folders',
};
const times = new Map<Job, number[]>(jobs.map((job) => [job, []]));
for (let turn = 0; turn < Number(values.runs); turn += 1) for (const job of jobs) times.get(job)?.push(measure(job).tookMs);
const idle = measure('nothing', true).calls;
const calls = new Map(jobs.map((job) => [job, measure(job, true).calls - idle]));
for (const job of jobs) {
  const all = times.get(job) ?? [];
  console.log(
    `${names[job].padEnd(22)} ${String(median(all)).padStart(7)} ms (${all.join(', ')})   ${calls.get(job)} system calls`,
  );
}
for (const job of ['ours', 'ours-crash', 'ours-scan'] as const) {
  const fewer = (calls.get('sweep') ?? 0) / (calls.get(job) ?? 1);
  const faster = median(times.get('sweep') ?? []) / median(times.get(job) ?? []);
  console.log(
    `${names[job]}: ${fewer.toFixed(1)}x fewer system calls (${job === 'ours-scan' ? 'no goal' : 'goal: at least 5x'}), ${faster.toFixed(1)}x faster`,
  );
}
