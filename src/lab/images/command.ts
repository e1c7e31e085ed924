import { spawn } from 'node:child_process';
import { AppError } from '#base/error.ts';

/** How much of a failed command's words are repeated in our error. */
const tailCharacters = 2_000;

/**
 * Runs a program to its end and returns what it wrote to stdout. Raises AppError missing (not installed), timeout (killed after
 * `deadlineMs`) or unavailable (exit status other than 0, with the end of what it said).
 */
export function runCommand(
  command: string,
  args: string[],
  options: { deadlineMs: number; cwd?: string; env?: Record<string, string>; input?: string | Uint8Array },
): Promise<Buffer> {
  return new Promise((resolve, reject) => {
    const child = spawn(command, args, {
      cwd: options.cwd,
      env: { ...process.env, LC_ALL: 'C.UTF-8', ...options.env },
      stdio: [options.input === undefined ? 'ignore' : 'pipe', 'pipe', 'pipe'],
    });
    const out: Buffer[] = [];
    let said = '';
    let late = false;
    const timer = setTimeout(() => {
      late = true;
      child.kill('SIGKILL');
    }, options.deadlineMs);
    child.stdout?.on('data', (chunk: Buffer) => out.push(chunk));
    child.stderr?.on('data', (chunk: Buffer) => (said = (said + chunk.toString()).slice(-tailCharacters)));
    child.on('error', (cause) => {
      clearTimeout(timer);
      reject(
        new AppError('missing', `running ${command}: is it installed? (tools/setup installs what the lab needs)`, { cause }),
      );
    });
    child.on('close', (code, signal) => {
      clearTimeout(timer);
      if (code === 0) return resolve(Buffer.concat(out));
      const what = `running ${command} ${args.slice(0, 3).join(' ')}`;
      if (late)
        return reject(
          new AppError('timeout', `${what}: not finished after ${options.deadlineMs} ms and killed; it said: ${said}`),
        );
      reject(new AppError('unavailable', `${what}: ended with ${signal ?? `status ${code}`}: ${said.trim()}`));
    });
    // A program that ends without reading its input closes the pipe; its exit status tells the story, not our write.
    child.stdin?.on('error', () => {});
    child.stdin?.end(options.input);
  });
}
