import { execFile } from 'node:child_process';
import { readFileSync, readlinkSync, realpathSync } from 'node:fs';
import { statfs } from 'node:fs/promises';
import { createServer } from 'node:net';
import { networkInterfaces } from 'node:os';
import { basename, dirname } from 'node:path';
import { AppError } from '#base/error.ts';

/** A program of the host says its version or does its small work within this; etcd needs five seconds where a processor is emulated and shared. */
const answerMs = 20_000;

/**
 * The first dotted number that `program --version` says; null when it is not installed or says none. Raises AppError timeout when it is there
 * and does not answer: that is no reason to install it.
 */
export async function readVersion(program: string): Promise<string | null> {
  const { stdout, isLate } = await run(program, ['--version']);
  if (isLate) {
    const seconds = answerMs / 1_000;
    const next = 'this machine is too busy; nothing was changed, try again when it is quieter';
    throw new AppError('timeout', `ask ${program} for its version: no answer in ${seconds} s; ${next}`);
  }
  return /(\d+(?:\.\d+)+)/.exec(stdout)?.[1] ?? null;
}

/** Addresses of this machine that others may reach: not loopback, not link-local. */
export function listAddresses(): string[] {
  return Object.values(networkInterfaces())
    .flatMap((entries) => entries ?? [])
    .filter((entry) => !entry.internal && !entry.address.startsWith('fe80:') && !entry.address.startsWith('169.254.'))
    .map((entry) => entry.address);
}

/** Whether nobody listens on `port` of `address`. An address that is not this machine's has no free ports and no others. */
export function isPortFree(address: string, port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const server = createServer();
    server.once('error', (error: NodeJS.ErrnoException) => resolve(error.code !== 'EADDRINUSE'));
    server.listen({ host: address, port, exclusive: true }, () => server.close(() => resolve(true)));
  });
}

/** Free space below `path`, or below the nearest folder above it that exists. */
export async function readFreeBytes(path: string): Promise<number> {
  try {
    const { bavail, bsize } = await statfs(path);
    return bavail * bsize;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT' || path === '/') throw error;
    return readFreeBytes(dirname(path));
  }
}

/** What the kernel says of its clock, as timedatectl shows it; null when nobody can tell. */
export async function readClockIsSynchronized(): Promise<boolean | null> {
  const { stdout } = await run('timedatectl', ['show', '--property=NTPSynchronized', '--value']);
  const said = stdout.trim();
  return said === 'yes' ? true : said === 'no' ? false : null;
}

/** What sysfs tells of a watchdog without touching it: what its driver calls it, and that driver's module. null: not known. */
export function readWatchdogIdentity(device: string): { identity: string | null; driver: string | null } {
  let name: string;
  try {
    name = basename(realpathSync(device));
  } catch {
    name = basename(device);
  }
  const folder = `/sys/class/watchdog/${name}`;
  return {
    identity: attempt(() => readFileSync(`${folder}/identity`, 'utf8').trim()),
    driver: attempt(() => basename(readlinkSync(`${folder}/device/driver/module`))),
  };
}

function attempt<T>(read: () => T): T | null {
  try {
    return read();
  } catch {
    return null;
  }
}

/** `isLate`: it was started and had to be killed. */
function run(program: string, args: string[]): Promise<{ stdout: string; isLate: boolean }> {
  return new Promise((resolve) => {
    execFile(program, args, { timeout: answerMs, killSignal: 'SIGKILL' }, (error, stdout) => {
      resolve({ stdout: error === null ? stdout : '', isLate: error?.killed === true });
    });
  });
}
