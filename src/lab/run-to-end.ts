import { spawn } from 'node:child_process';
import { AppError } from '#base/error.ts';
import { labLimits } from '#lab/lab-limits.ts';

export type RunOptions = {
  input?: string;
  deadlineMs?: number;
  /** Each line of standard output, as it comes. */ onLine?: (line: string) => void;
};

/** `code` is 128 when a signal ended it. */
export type FinishedRun = { code: number; stdout: string; stderr: string };

/** Runs a program to its end whatever its exit code. Raises AppError timeout (it is killed then), unavailable when it does not start. */
export function runToEnd(what: string, command: string[], options: RunOptions = {}): Promise<FinishedRun> {
  const [program, ...args] = command as [string, ...string[]];
  const deadlineMs = options.deadlineMs ?? labLimits.commandMs;
  const child = spawn(program, args, { stdio: ['pipe', 'pipe', 'pipe'] });
  const out = { stdout: '', stderr: '' };
  let rest = '';
  child.stdout.setEncoding('utf8').on('data', (chunk: string) => {
    out.stdout += chunk;
    const lines = (rest + chunk).split('\n');
    rest = lines.pop() ?? '';
    for (const line of lines) options.onLine?.(line);
  });
  child.stderr.setEncoding('utf8').on('data', (chunk: string) => (out.stderr += chunk));
  child.stdin.on('error', () => undefined); // it did not want its input
  child.stdin.end(options.input ?? '');
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => {
      child.kill('SIGKILL');
      reject(new AppError('timeout', `${what}: did not end within ${deadlineMs} ms: ${out.stderr.slice(-500)}`));
    }, deadlineMs);
    child.once('error', (cause) => {
      clearTimeout(timer);
      reject(new AppError('unavailable', `${what}: it cannot be started`, { cause }));
    });
    child.once('close', (code, signal) => {
      clearTimeout(timer);
      resolve({ code: code ?? (signal === null ? 1 : 128), ...out });
    });
  });
}
