import { execFile } from 'node:child_process';
import { AppError } from '#base/error.ts';
import { labLimits } from '#lab/lab-limits.ts';

/**
 * Runs a helper program to its end and returns what it wrote. `what` says what for, for the error. Raises AppError missing when
 * the program is not installed, timeout, unavailable with its own words when it fails.
 */
export function runCommand(
  what: string,
  argv: string[],
  options: { input?: string; deadlineMs?: number } = {},
): Promise<{ stdout: string; stderr: string }> {
  const [program, ...args] = argv as [string, ...string[]];
  const deadlineMs = options.deadlineMs ?? labLimits.commandMs;
  return new Promise((resolve, reject) => {
    const child = execFile(
      program,
      args,
      { timeout: deadlineMs, killSignal: 'SIGKILL', maxBuffer: 8 << 20 },
      (error, stdout, stderr) => {
        if (error === null) resolve({ stdout, stderr });
        else if ((error as NodeJS.ErrnoException).code === 'ENOENT') {
          reject(new AppError('missing', `${what}: ${program} is not installed`, { cause: error }));
        } else if (error.killed === true) {
          reject(new AppError('timeout', `${what}: ${program} did not end within ${deadlineMs} ms`, { cause: error }));
        } else {
          const words = stderr.trim() || stdout.trim() || `ended with code ${String(error.code)}`;
          reject(new AppError('unavailable', `${what}: ${program}: ${words}`));
        }
      },
    );
    child.stdin?.on('error', () => undefined); // a program that does not read its input has already said why it failed
    child.stdin?.end(options.input ?? '');
  });
}

/** Runs several iproute2 commands in one process, inside a network namespace (null: the caller's). */
export async function runIpBatch(what: string, netns: string | null, lines: string[]): Promise<void> {
  const argv = ['ip', ...(netns === null ? [] : ['-n', netns]), '-batch', '-'];
  await runCommand(what, argv, { input: `${lines.join('\n')}\n` });
}
