import { spawn } from 'node:child_process';
import { AppError } from '#base/error.ts';

/** The user under which everything that reads or writes guest images runs; null: as we are (tests). */
export type ImageUser = { uid: number; gid: number } | null;

const keptOutputBytes = 4_096;

/**
 * Runs a program to its end as the images' user, at low priority when `nice`. Returns its standard output. Raises AppError timeout, unavailable
 * (it cannot be started, or `signal` aborted it) or invalid (it failed; its own last words are kept).
 */
export async function runCommand(
  argv: readonly [string, ...string[]],
  options: { what: string; user: ImageUser; deadlineMs: number; signal?: AbortSignal; nice?: boolean },
): Promise<string> {
  const [program, ...args] = options.nice === true ? (['nice', '-n', '10', ...argv] as const) : argv;
  const deadline = AbortSignal.timeout(options.deadlineMs);
  const signal = options.signal === undefined ? deadline : AbortSignal.any([deadline, options.signal]);
  const child = spawn(program, args, {
    stdio: ['ignore', 'pipe', 'pipe'],
    signal,
    killSignal: 'SIGKILL',
    ...options.user,
  });
  let [out, err] = ['', ''];
  child.stdout.on('data', (chunk: Buffer) => (out = (out + chunk.toString()).slice(-keptOutputBytes)));
  child.stderr.on('data', (chunk: Buffer) => (err = (err + chunk.toString()).slice(-keptOutputBytes)));
  const ended = Promise.withResolvers<number | null>();
  let failure: Error | null = null;
  child.on('error', (error) => {
    failure = error;
    if (child.pid === undefined) ended.resolve(null);
  });
  child.on('close', (code) => ended.resolve(code));
  const code = await ended.promise;
  if (deadline.aborted) throw new AppError('timeout', `${options.what}: not done after ${options.deadlineMs} ms`);
  if (failure !== null)
    throw new AppError('unavailable', `${options.what}: ${argv[0]} was not run to its end`, { cause: failure });
  if (code !== 0) throw new AppError('invalid', `${options.what}: ${argv[0]} failed: ${err.trim().split('\n').at(-1) ?? ''}`);
  return out;
}
