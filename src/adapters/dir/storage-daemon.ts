import { spawn, type ChildProcess } from 'node:child_process';
import { chown, mkdir, readFile, readdir, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { AppError } from '#base/error.ts';
import { limits } from '#base/limits.ts';
import type { Qmp } from '#ports/qmp.ts';
import type { ImageUser } from './command.ts';

export type ConnectQmp = (socketPath: string, options: { deadlineMs: number }) => Promise<Qmp>;

/** A qemu-storage-daemon of ours that serves nodes over NBD on one unix socket. */
export type StorageDaemon = {
  readonly pid: number;
  readonly qmp: Qmp;
  readonly nbdSocket: string;
  /** Settles when the process is gone. */
  readonly exited: Promise<void>;
  /** Closes its images in order and returns when the process is gone; kills it when it takes too long. */
  quit(): Promise<void>;
  kill(): Promise<void>;
};

/**
 * Starts a storage daemon in its own folder `directory`, with its NBD socket named `nbdName` there. It dies with us (parent-death
 * signal), and its pid file lets the next start find it if that ever fails.
 */
export async function startStorageDaemon(
  directory: string,
  nbdName: string,
  deps: { user: ImageUser; connectQmp: ConnectQmp },
): Promise<StorageDaemon> {
  await rm(directory, { recursive: true, force: true });
  await mkdir(directory, { recursive: true, mode: 0o711 });
  if (deps.user !== null) await chown(directory, deps.user.uid, deps.user.gid);
  const qmpSocket = join(directory, 'qmp.sock');
  const nbdSocket = join(directory, nbdName);
  const child = spawnDaemon(qmpSocket, nbdSocket, deps.user);
  const said = collectWords(child);
  const exited = new Promise<void>((resolve) => {
    child.on('error', () => resolve());
    child.on('exit', () => resolve());
  });
  const kill = async () => {
    child.kill('SIGKILL');
    await exited;
    await rm(directory, { recursive: true, force: true });
  };
  try {
    if (child.pid === undefined) throw new AppError('unavailable', 'start qemu-storage-daemon: it cannot be executed');
    await writeFile(join(directory, 'daemon.pid'), `${child.pid} ${(await readStartTime(child.pid)) ?? ''}\n`);
    const qmp = await connectWhenReady(qmpSocket, exited, deps.connectQmp, said);
    return { pid: child.pid, qmp, nbdSocket, exited, kill, quit: () => quitDaemon(qmp, exited, kill) };
  } catch (error) {
    await kill();
    throw error;
  }
}

function spawnDaemon(qmpSocket: string, nbdSocket: string, user: ImageUser): ChildProcess {
  const drop = user === null ? [] : ['--reuid', String(user.uid), '--regid', String(user.gid), '--clear-groups'];
  const daemon = ['--chardev', `socket,id=qmp,path=${qmpSocket},server=on,wait=off`, '--monitor', 'chardev=qmp'];
  const serve = ['--nbd-server', `addr.type=unix,addr.path=${nbdSocket}`];
  // setpriv gives the parent-death signal: Node has no call for it.
  return spawn('setpriv', ['--pdeathsig', 'KILL', ...drop, 'qemu-storage-daemon', ...daemon, ...serve], {
    stdio: ['ignore', 'ignore', 'pipe'],
  });
}

function collectWords(child: ChildProcess): () => string {
  let words = '';
  child.stderr?.on('data', (chunk: Buffer) => (words = (words + chunk.toString()).slice(-2_000)));
  return () => words.trim();
}

async function connectWhenReady(path: string, exited: Promise<void>, connectQmp: ConnectQmp, said: () => string): Promise<Qmp> {
  const deadlineMs = performance.now() + limits.storageDaemonStartMs;
  let gone = false;
  void exited.then(() => (gone = true));
  for (;;) {
    try {
      return await connectQmp(path, { deadlineMs: limits.storageDaemonStartMs });
    } catch (cause) {
      if (gone) throw new AppError('unavailable', `start qemu-storage-daemon: it ended at once: ${said()}`, { cause });
      if (performance.now() > deadlineMs) {
        throw new AppError('timeout', `start qemu-storage-daemon: no answer in ${limits.storageDaemonStartMs} ms`, { cause });
      }
      await delay(10);
    }
  }
}

async function quitDaemon(qmp: Qmp, exited: Promise<void>, kill: () => Promise<void>): Promise<void> {
  const asked = qmp.execute('quit', {}, { deadlineMs: limits.storageDaemonQuitMs }).catch(() => {}); // it may hang up before it answers
  const late = new AbortController();
  await Promise.race([exited, delay(limits.storageDaemonQuitMs, undefined, { signal: late.signal }).catch(() => {})]);
  late.abort();
  qmp.close();
  await kill();
  await asked;
}

/** Ends storage daemons that an earlier process of ours left in `root`'s folders, by pid and start time, and removes the folders. */
export async function endLeftoverDaemons(root: string): Promise<number> {
  let ended = 0;
  for (const name of await readdir(root).catch(() => [])) {
    const words = await readFile(join(root, name, 'daemon.pid'), 'utf8').catch(() => '');
    const [pid, startTime] = words.trim().split(' ');
    if (pid !== undefined && startTime !== undefined && startTime !== '' && (await readStartTime(Number(pid))) === startTime) {
      process.kill(Number(pid), 'SIGKILL');
      await waitUntilGone(Number(pid), startTime);
      ended += 1;
    }
    await rm(join(root, name), { recursive: true, force: true });
  }
  return ended;
}

async function waitUntilGone(pid: number, startTime: string): Promise<void> {
  const deadlineMs = performance.now() + limits.storageDaemonQuitMs;
  while ((await readStartTime(pid)) === startTime) {
    if (performance.now() > deadlineMs) throw new AppError('timeout', `end storage daemon ${pid}: it did not go`);
    await delay(10);
  }
}

/** Field 22 of /proc/PID/stat (proc(5)): with the pid it names one process for ever. null when there is no such process, or a zombie. */
async function readStartTime(pid: number): Promise<string | null> {
  const text = await readFile(`/proc/${pid}/stat`, 'utf8').catch(() => null);
  if (text === null) return null;
  const fields = text.slice(text.lastIndexOf(')') + 2).split(' ');
  return fields[0] === 'Z' ? null : (fields[19] ?? null);
}
