import { spawn } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import { AppError } from '#base/error.ts';
import { listServicePids } from '#lab/lab.ts';
import { labRoots, parseLabName } from '#lab/lab-paths.ts';
import { readLabSpec } from '#lab/lab-spec.ts';

/** Used where no name is given and none is up. */
export const defaultLab = 'lab';

/** Names of the labs on this machine, in order. */
function listLabs(): string[] {
  let names: string[];
  try {
    names = readdirSync(labRoots.stateRoot);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return [];
    throw error;
  }
  return names.filter((name) => readLabSpec(name) !== null).sort();
}

/** The lab that is meant: the one named, else the only one there is, else `lab`. Raises AppError invalid when that is not clear. */
export function chooseLab(name: string | undefined): string {
  if (name !== undefined) return parseLabName(name);
  const labs = listLabs();
  if (labs.length === 0 || labs.includes(defaultLab)) return defaultLab;
  if (labs.length > 1)
    throw new AppError('invalid', `lab: several labs are on this machine (${labs.join(', ')}); say which with --lab`);
  return labs[0] ?? defaultLab;
}

/** Runs a program with our own input and output and returns its exit code, 128 and the signal's number when a signal ended it. */
export function runAttached(what: string, argv: string[]): Promise<number> {
  const [program, ...args] = argv as [string, ...string[]];
  const child = spawn(program, args, { stdio: 'inherit' });
  // Ctrl-C reaches the child by itself, as one of the terminal's group; only a signal sent to us alone must be handed on.
  const forward = () => void child.kill('SIGTERM');
  process.once('SIGTERM', forward);
  return new Promise((resolve, reject) => {
    child.once('error', (cause) => reject(new AppError('unavailable', `${what}: starting ${program}`, { cause })));
    child.once('close', (code, signal) => {
      process.removeListener('SIGTERM', forward);
      resolve(code ?? (signal === 'SIGINT' ? 130 : signal === 'SIGTERM' ? 143 : 137));
    });
  });
}

/**
 * Runs a program inside a node, with our own input and output; it ends when the node loses power. Returns its exit code. Raises
 * AppError missing (no such lab or node) and conflict when the node has no power.
 */
export function runInNode(lab: string, node: string, argv: string[]): Promise<number> {
  const first = listServicePids(lab, node, 'init').find(isFirstProcess);
  if (first === undefined)
    throw new AppError('conflict', `node ${node} of lab ${lab} does not run; give it power with: holdfast lab plug ${node} on`);
  const spaces = ['--mount', '--uts', '--ipc', '--net', '--pid'];
  return runAttached(`node ${node}`, ['nsenter', `--target=${first}`, ...spaces, '--', ...argv]);
}

/** True for the process that is number 1 in its own process namespace: the node's first one. */
function isFirstProcess(pid: number): boolean {
  try {
    const line = /^NSpid:\s+(.*)$/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1] ?? '';
    const numbers = line.split(/\s+/);
    return numbers.length > 1 && numbers.at(-1) === '1';
  } catch {
    return false; // it has just ended
  }
}
