import { spawn, type ChildProcessByStdio } from 'node:child_process';
import type { Readable, Writable } from 'node:stream';
import { setTimeout as delay } from 'node:timers/promises';
import { AppError, isAppError, type ErrorKind } from '#base/error.ts';
import { limits } from '#base/limits.ts';
import type { ZfsCommand } from '#core/storage/zfs/commands.ts';

const maxOutputBytes = 32 << 20;
const keptWords = 2_000;
/** ZFS prints in the caller's language; what is parsed is the untranslated text. */
const environment = { PATH: '/usr/sbin:/usr/bin:/sbin:/bin', LC_ALL: 'C' };

/** Runs one command to its end and returns what it printed. Raises AppError missing, busy, invalid, unavailable or timeout with ZFS's last words. */
export async function runZfs(command: ZfsCommand, options: { alsoOnFailure?: boolean } = {}): Promise<string> {
  const child = spawn(command.program, command.args, { stdio: ['ignore', 'pipe', 'pipe'], env: environment });
  const chunks: Buffer[] = [];
  let bytes = 0;
  child.stdout.on('data', (chunk: Buffer) => {
    bytes += chunk.length;
    if (bytes > maxOutputBytes) child.kill('SIGKILL');
    else chunks.push(chunk);
  });
  const timer = setTimeout(() => child.kill('SIGKILL'), limits.zfsCommandMs);
  try {
    await waitForEnd(child, command);
  } catch (error) {
    if (child.signalCode === 'SIGKILL') {
      throw new AppError('timeout', `${command.what}: not done after ${limits.zfsCommandMs} ms`, { cause: error });
    }
    if (options.alsoOnFailure !== true) throw error;
  } finally {
    clearTimeout(timer);
  }
  return Buffer.concat(chunks).toString();
}

/** As `runZfs`, again and again while something still has the dataset open. */
export async function runZfsWhenFree(command: ZfsCommand): Promise<string> {
  const deadlineMs = performance.now() + limits.zfsBusyMs;
  for (;;) {
    try {
      return await runZfs(command);
    } catch (error) {
      if (!isAppError(error, 'busy') || performance.now() > deadlineMs) throw error;
      await delay(200);
    }
  }
}

/**
 * A stream out of ZFS or into it. `done` settles when the process has ended; it never ends by itself while its pipe is open. Whoever opens one to
 * read from begins to read in the same tick: what a process wrote and nobody read yet is thrown away when it ends (flushStdio in Node's
 * child_process), and a small stream is written before anything else has happened.
 */
export type ZfsStream<S> = { pipe: S; done: Promise<void>; kill(): void };

export function openSend(command: ZfsCommand): ZfsStream<Readable> {
  const child = spawn(command.program, command.args, { stdio: ['ignore', 'pipe', 'pipe'], env: environment });
  const done = waitForEnd(child, command);
  done.catch(() => {}); // told to whoever waits for it
  return { pipe: child.stdout, done, kill: () => void child.kill('SIGTERM') };
}

export function openReceive(command: ZfsCommand): ZfsStream<Writable> {
  const child = spawn(command.program, command.args, { stdio: ['pipe', 'ignore', 'pipe'], env: environment });
  child.stdin.on('error', () => {}); // it ended before the stream did: `done` says why
  const done = waitForEnd(child, command);
  done.catch(() => {});
  return { pipe: child.stdin, done, kill: () => void child.stdin.destroy() };
}

type Child = ChildProcessByStdio<Writable | null, Readable | null, Readable>;

async function waitForEnd(child: Child, command: ZfsCommand): Promise<void> {
  let words = '';
  child.stderr.on('data', (chunk: Buffer) => (words = (words + chunk.toString()).slice(-keptWords)));
  const code = await new Promise<number | null>((resolve, reject) => {
    child.on('error', (cause) =>
      reject(new AppError('unavailable', `${command.what}: ${command.program} cannot be run; is OpenZFS installed?`, { cause })),
    );
    child.on('close', resolve);
  });
  if (code !== 0) throw new AppError(kindOf(words), `${command.what}: ${firstWords(words)}`);
}

/** What ZFS prints (libzfs_util.c, libzfs_dataset.c); which of them it was decides what a caller may do next. */
function kindOf(words: string): ErrorKind {
  if (/does not exist|could not find any snapshots|no such pool/.test(words)) return 'missing';
  if (/is busy|pool I\/O is currently suspended/.test(words)) return 'busy';
  if (/out of space|quota exceeded/.test(words)) return 'busy';
  if (
    /already exists|has been modified|previously in use|is part of active pool|does not match incremental|dependent clones/.test(
      words,
    )
  )
    return 'conflict';
  return 'invalid';
}

function firstWords(words: string): string {
  const lines = words.split('\n').filter((line) => line.trim() !== '');
  return lines.slice(0, 2).join(' ') || 'it failed without a word';
}
