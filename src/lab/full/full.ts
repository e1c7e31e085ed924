import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { AppError } from '#base/error.ts';
import { makeGroup } from '#lab/control-group.ts';
import { ensureEmulator } from '#lab/images/emulator.ts';
import { ensureMachine } from '#lab/images/machine.ts';
import { ensureProbe } from '#lab/images/probe.ts';
import { runCommand } from '#lab/images/command.ts';
import { labDown } from '#lab/lab.ts';
import { labPaths } from '#lab/lab-paths.ts';
import { labGroup } from '#lab/leftovers.ts';
import { fullLimits } from './full-limits.ts';
import type { InsideOptions } from './full-inside.ts';

/** There is one full lab on a host: it takes all the memory and the time that a small one has. One machine alone fits beside it. */
const [name, aloneName] = ['full', 'machine'] as const;
const inside = fileURLToPath(new URL('full-inside.ts', import.meta.url));
const debTool = fileURLToPath(new URL('../../../tools/build-deb.ts', import.meta.url));
const debMs = 180_000;

export type FullOptions = {
  once: boolean;
  jsonFile: string | null;
  /** Or one machine alone, without a cluster; `once`, and not `reuse`. */
  scenes: InsideOptions['scenes'];
  /** Play in the machines that an earlier run left up. */
  reuse: boolean;
  /** Ends the lab. */
  signal: AbortSignal;
};

/**
 * Builds what is missing, then three complete machines (or one), and plays the drill in them. Returns the exit code: 0 when every promise held. What an
 * earlier full lab left behind is removed first, and everything of this one at its end, also when it is killed.
 */
export async function runFull(options: FullOptions): Promise<number> {
  if (process.getuid?.() !== 0) throw new AppError('denied', 'full lab: making namespaces and control groups needs root');
  const progress = (text: string) => void process.stderr.write(`  … ${text}\n`);
  const room = options.reuse ? findRoom() : null;
  const images = {
    probe: await ensureProbe({ progress }),
    emulator: await ensureEmulator({ progress }),
    machine: await ensureMachine({ progress }),
  };
  const { once, jsonFile, scenes, reuse } = options;
  const lab = 'alone' in scenes ? aloneName : name;
  const folder = labPaths(lab).state;
  if (room === null) await labDown(lab);
  try {
    mkdirSync(folder, { recursive: true });
    progress('building two packages of this tree, the second to upgrade to');
    // Another version each time: what is played again upgrades again.
    const next = room === null ? '0.1.1' : `0.1.1.${Math.round(Date.now() / 1000)}`;
    const debs = { first: await buildDeb(folder, '0.1.0'), next: await buildDeb(folder, next) };
    if (options.signal.aborted) return 1;
    return await runInside(lab, { once, jsonFile, scenes, reuse, folder, images, debs }, room, options.signal);
  } finally {
    if (room === null) await labDown(lab);
  }
}

/** The first process of the machines that are up, by this host's number. Raises AppError missing. */
function findRoom(): number {
  const procs = join(labGroup(name), 'cgroup.procs');
  const numbers = existsSync(procs) ? readFileSync(procs, 'utf8').split('\n').filter(Boolean) : [];
  // Its number is 1 in the namespace that it began.
  const found = numbers.find((number) => /^NSpid:\s+\d+\s+1$/m.test(readFileSync(`/proc/${number}/status`, 'utf8')));
  if (found !== undefined) return Number(found);
  throw new AppError('missing', 'reuse: no full lab is up here; start one without --once and leave it running');
}

async function buildDeb(folder: string, version: string): Promise<string> {
  // Not compressed: the machines would have to unpack it on an emulated CPU.
  const argv = ['--no-warnings', debTool, '--out', join(folder, 'packages'), '--version', version, '--uncompressed'];
  const out = await runCommand(process.execPath, argv, { deadlineMs: debMs });
  return out.toString().trim();
}

/**
 * Network and processes of the lab are namespaces of their own without names: they are gone with their first process, which is killed with us
 * (`--kill-child`, `--pdeathsig`). The control group is for whoever must clean up after a kill that even this did not reach. `room`: the first
 * process of namespaces that are there already; they stay when this drill ends.
 */
function runInside(lab: string, options: InsideOptions, room: number | null, signal: AbortSignal): Promise<number> {
  const group = labGroup(lab);
  makeGroup(group);
  const apart =
    room === null
      ? ['unshare', '--net', '--mount', '--pid', '--fork', '--kill-child=KILL', '--mount-proc']
      : ['nsenter', `--target=${room}`, '--net', '--mount', '--pid', 'setpriv', '--pdeathsig', 'KILL'];
  const argv = [...apart, process.execPath, inside, JSON.stringify(options)];
  const enter = 'echo $$ >"$0/cgroup.procs" && exec setpriv --pdeathsig KILL "$@"';
  const child: ChildProcess = spawn('sh', ['-c', enter, group, ...argv], { stdio: ['ignore', 'inherit', 'inherit'] });
  const timer = setTimeout(() => child.kill('SIGKILL'), options.once ? fullLimits.drillMs : fullLimits.keptMs);
  const end = () => void child.kill('SIGKILL');
  signal.addEventListener('abort', end, { once: true });
  return new Promise((resolve, reject) => {
    child.once('error', (cause) => reject(new AppError('unavailable', 'full lab: it could not be started', { cause })));
    child.once('exit', (code, by) => {
      clearTimeout(timer);
      signal.removeEventListener('abort', end);
      if (by === null) return resolve(code ?? 1);
      // The command line tells that it was interrupted.
      if (signal.aborted) return resolve(1);
      reject(new AppError('timeout', `full lab: it was ended with ${by} (a drill is after ${fullLimits.drillMs / 1000} s)`));
    });
  });
}
