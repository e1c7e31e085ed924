import { spawn } from 'node:child_process';
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import type { WriteAt } from './backup-bench-data.ts';

/** Seconds of wall time, and of processor time of every process that took part. */
export type Cost = { wallSeconds: number; cpuSeconds: number };

/** A program that backs up. All of it happens below its own folder. */
export type Peer = AsyncDisposable & {
  name: string;
  /** What it encrypts with, and how it compresses. */
  note: string;
  /** Backs up `path` (an image, or a directory) as the next of its backups. */
  backup(path: string): Promise<Cost>;
  /** Who else than we changes the image. */
  write?: WriteAt;
  /** Restores the newest backup into the new directory `target`; returns where `path` lies in it. */
  restore(path: string, target: string): Promise<{ cost: Cost; restored: string }>;
  /** The folder whose files are what was stored. */
  store: string;
};

/** Runs a command to its end and measures it; what it prints is shown when it fails. */
export async function measure(argv: string[], options: { env?: NodeJS.ProcessEnv; cwd?: string }): Promise<Cost> {
  // The shell tells what its children cost, which Node.js does not.
  const script = 'TIMEFORMAT="%U %S"; time "$@" >&3 2>&3';
  const start = performance.now();
  const child = spawn('bash', ['-c', script, 'bash', ...argv], { ...options, stdio: ['ignore', 'ignore', 'pipe', 'pipe'] });
  let [times, words] = ['', ''];
  child.stderr?.setEncoding('utf8').on('data', (text: string) => (times += text));
  (child.stdio[3] as NodeJS.ReadableStream).setEncoding('utf8').on('data', (text: string) => (words += text));
  const code = await new Promise((resolve) => void child.once('close', resolve));
  const wallSeconds = (performance.now() - start) / 1_000;
  if (code !== 0) throw new Error(`${argv.join(' ')} failed with ${String(code)}: ${words.slice(-2_000)}`);
  const cpuSeconds = times
    .trim()
    .split(' ')
    .slice(-2)
    .reduce((sum, text) => sum + Number(text), 0);
  return { wallSeconds, cpuSeconds };
}

export function baseOf(path: string): string {
  return path.slice(path.lastIndexOf('/') + 1);
}

/** restic with a local repository: always encrypted. */
export async function startRestic(folder: string): Promise<Peer> {
  mkdirSync(folder);
  const store = join(folder, 'repository');
  const env = { ...process.env, RESTIC_REPOSITORY: store, RESTIC_PASSWORD: 'bench', RESTIC_CACHE_DIR: join(folder, 'cache') };
  await measure(['restic', 'init'], { env });
  return {
    name: 'restic',
    note: 'AES-256-CTR with Poly1305, zstd (auto)',
    store,
    backup: (path) => measure(['restic', 'backup', '-q', path], { env }),
    async restore(path, target) {
      return {
        cost: await measure(['restic', 'restore', '-q', 'latest', '--target', target], { env }),
        restored: join(target, path),
      };
    },
    [Symbol.asyncDispose]: () => Promise.resolve(),
  };
}

/** borg with a local repository, its defaults but for encryption. */
export async function startBorg(folder: string): Promise<Peer> {
  mkdirSync(folder);
  const store = join(folder, 'repository');
  const env = { ...process.env, BORG_REPO: store, BORG_BASE_DIR: folder, BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK: 'yes' };
  await measure(['borg', 'init', '-e', 'none'], { env });
  let number = 0;
  return {
    name: 'borg',
    note: 'not encrypted, lz4',
    store,
    backup: (path) => measure(['borg', 'create', `::b${(number += 1)}`, path], { env }),
    async restore(path, target) {
      mkdirSync(target);
      return { cost: await measure(['borg', 'extract', `::b${number}`], { env, cwd: target }), restored: join(target, path) };
    },
    [Symbol.asyncDispose]: () => Promise.resolve(),
  };
}

/** bup with a local repository. */
export async function startBup(folder: string): Promise<Peer> {
  mkdirSync(folder);
  const store = join(folder, 'repository');
  const env = { ...process.env, BUP_DIR: store };
  await measure(['bup', 'init'], { env });
  return {
    name: 'bup',
    note: 'not encrypted, zlib 1',
    store,
    backup: (path) => measure(['sh', '-c', 'bup index -u "$1" && bup save -n bench "$1"', 'sh', path], { env }),
    async restore(path, target) {
      const cost = await measure(['bup', 'restore', '-C', target, `/bench/latest${path}`], { env });
      return { cost, restored: join(target, baseOf(path)) };
    },
    [Symbol.asyncDispose]: () => Promise.resolve(),
  };
}
