import { type ChildProcess, spawn } from 'node:child_process';
import { createInterface } from 'node:readline';
import { AppError } from '#base/error.ts';

/**
 * A measuring process of the lab (collector, database client): orders as lines on its stdin, answers as JSON lines on its stdout.
 * It ends with its stdin, so it cannot outlive whoever started it.
 */
export type LineProcess = {
  /** Sends an order and returns the next answer. Raises AppError timeout or unavailable. */
  ask<T>(order: string, deadlineMs: number): Promise<T>;
  kill(): void;
};

/** Starts it and waits for its first line. */
export async function startLineProcess(what: string, argv: string[], readyMs = 20_000): Promise<LineProcess> {
  const child: ChildProcess = spawn(process.execPath, argv, { stdio: ['pipe', 'pipe', 'inherit'] });
  const waiting: { resolve: (line: string) => void; reject: (error: Error) => void }[] = [];
  let ended: AppError | null = null;
  const end = (error: AppError) => {
    ended = error;
    for (const waiter of waiting.splice(0)) waiter.reject(error);
  };
  child.on('error', (cause) => end(new AppError('unavailable', `${what} could not be started`, { cause })));
  child.on('exit', (code, signal) => end(new AppError('unavailable', `${what} ended (${signal ?? code})`)));
  child.stdin?.on('error', () => undefined); // its end is reported by `exit`
  if (child.stdout === null) throw new AppError('unavailable', `${what} has no output`);
  createInterface({ input: child.stdout }).on('line', (line) => waiting.shift()?.resolve(line));
  const next = <T>(deadlineMs: number): Promise<T> =>
    new Promise<T>((resolve, reject) => {
      if (ended !== null) {
        reject(ended);
        return;
      }
      const timer = setTimeout(
        () => reject(new AppError('timeout', `${what} did not answer within ${deadlineMs} ms`)),
        deadlineMs,
      );
      waiting.push({
        resolve: (line) => (clearTimeout(timer), resolve(JSON.parse(line) as T)),
        reject: (error) => (clearTimeout(timer), reject(error)),
      });
    });
  await next(readyMs);
  return {
    ask<T>(order: string, deadlineMs: number) {
      const answer = next<T>(deadlineMs);
      child.stdin?.write(`${order}\n`);
      return answer;
    },
    kill: () => void child.kill('SIGTERM'),
  };
}
