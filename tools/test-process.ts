import { type ChildProcess, spawn } from 'node:child_process';
import { dirname, join } from 'node:path';
import { createInterface } from 'node:readline';
import type { Readable } from 'node:stream';
import type { TestLine } from './test-driver.ts';

/** How a process that ran test files ended. `ended`: by itself, with its exit code; `late`: killed at its deadline. */
export type TestProcessEnd = { how: 'ended' | 'late'; code: number | null; signal: string | null; output: string };

/** How much of what a file's tests printed is kept for a failure. */
const keptCharacters = 8_000;
/** After the end of the process, its last lines have this long to be read. */
const drainMs = 2_000;
const driver = join(import.meta.dirname, 'test-driver.ts');
const running = new Set<ChildProcess>();

/**
 * Runs test files in one process of their own (and a process group of their own), calling `onLine` for each event. Whatever of the group is left
 * when the process ended, or at the deadline, is killed.
 */
export async function runTestProcess(
  files: string[],
  deadlineMs: number,
  onLine: (line: TestLine) => void,
): Promise<TestProcessEnd> {
  const env = { ...process.env, PATH: `${dirname(process.execPath)}:${process.env['PATH']}`, FORCE_COLOR: '0' };
  const child = spawn(process.execPath, [driver, ...files], { detached: true, env, stdio: ['ignore', 'pipe', 'pipe', 'pipe'] });
  running.add(child);
  let output = '';
  let how: TestProcessEnd['how'] = 'ended';
  const keep = (chunk: Buffer): void => void (output = (output + chunk.toString()).slice(-keptCharacters));
  child.stdout?.on('data', keep);
  child.stderr?.on('data', keep);
  createInterface({ input: child.stdio[3] as Readable }).on('line', (line) => onLine(JSON.parse(line) as TestLine));
  const timer = setTimeout(() => {
    how = 'late';
    killGroup(child);
  }, deadlineMs);
  const { promise, resolve } = Promise.withResolvers<TestProcessEnd>();
  child.once('exit', (code, signal) => {
    killGroup(child);
    // Something a test left behind outside of the group may hold the pipes open for ever: then `close` never comes.
    setTimeout(() => resolve({ how, code, signal, output }), drainMs).unref();
  });
  child.once('close', (code, signal) => resolve({ how, code, signal, output }));
  const end = await promise;
  clearTimeout(timer);
  for (const pipe of child.stdio) pipe?.destroy();
  running.delete(child);
  return end;
}

/** Kills every test process that still runs, with its group. */
export function killTestProcesses(): void {
  for (const child of running) killGroup(child);
}

function killGroup(child: ChildProcess): void {
  if (child.pid === undefined) return;
  try {
    process.kill(-child.pid, 'SIGKILL');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error;
  }
}
