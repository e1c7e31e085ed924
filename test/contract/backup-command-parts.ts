import { spawn, type ChildProcess } from 'node:child_process';
import { X509Certificate } from 'node:crypto';
import { existsSync, mkdirSync, mkdtempSync, openSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as wait } from 'node:timers/promises';
import { connect } from 'node:net';
import { AppError } from '#base/error.ts';
import { createWorld } from '#cli/process-world.ts';
import { runCli } from '#cli/program.ts';
import type { CliWorld } from '#cli/world.ts';
import { hashSecret } from '#programs/backup/access.ts';
import { makeCertificate } from './backup-server-parts.ts';

const root = join(import.meta.dirname, '../..');

export type Ran = { code: number | null; out: string; err: string };

/** The backup server as a process of its own, and the command line to use it. */
export type BackupPlace = AsyncDisposable & {
  folder: string;
  store: string;
  port: number;
  fingerprint: string;
  serverPid: number;
  /** The environment in which `commandLine` needs nothing else said. */
  env: NodeJS.ProcessEnv;
  commandLine(args: string[]): string[];
  /** Runs `holdfast backup …` with the server's address and a token; in this process unless `output` is a file. Paths are below `work`. */
  run(args: string[], more?: { env?: Record<string, string>; output?: string }): Promise<Ran>;
  /** Starts it and gives the process; `output`: a file for what it prints. */
  start(args: string[], env?: Record<string, string>, output?: string): ChildProcess;
};

/** What runs: Node.js, and the entries of the server and the command line. */
export type Programs = { node: string; server: string; cli: string };
/** `storeIn`: below which folder the datastore lies, `isStoreKept` at the end; `sync`, `reserveMib`: as in the server's configuration. */
type PlaceOptions = {
  storeIn: string;
  isStoreKept: boolean;
  sync: 'none' | 'file' | 'filesystem';
  reserveMib: number | null;
  programs: Programs;
};
const defaultOptions: PlaceOptions = {
  // 65,536 folders: in memory where that is possible.
  storeIn: existsSync('/dev/shm') ? '/dev/shm' : tmpdir(),
  isStoreKept: false,
  sync: 'none',
  reserveMib: null,
  programs: { node: process.execPath, server: join(root, 'src/programs/backup/main.ts'), cli: join(root, 'src/cli/main.ts') },
};

export async function startBackupPlace(options: Partial<PlaceOptions> = {}): Promise<BackupPlace> {
  const { storeIn, isStoreKept, sync, reserveMib, programs } = { ...defaultOptions, ...options };
  const folder = mkdtempSync(join(tmpdir(), 'holdfast-backup-command-'));
  const store = mkdtempSync(join(storeIn, 'holdfast-backup-store-'));
  const { cert } = makeCertificate(folder);
  const fingerprint = new X509Certificate(cert).fingerprint256;
  const port = await freePort();
  writeFileSync(join(folder, 'server.toml'), configuration({ store, port, sync, reserveMib }));
  writeFileSync(join(folder, 'secret'), 'geheim\n', { mode: 0o600 });
  mkdirSync(join(folder, 'work'));
  process.chdir(join(folder, 'work'));
  const server = spawn(programs.node, [programs.server, '--config', join(folder, 'server.toml'), '--create'], {
    stdio: ['ignore', 'ignore', 'inherit'],
  });
  await waitForPort(port, server);
  const env = (more: Record<string, string>): NodeJS.ProcessEnv => ({
    PATH: process.env['PATH'],
    HOME: folder,
    PBS_REPOSITORY: `u@pbs!t@127.0.0.1:${port}:store`,
    PBS_FINGERPRINT: fingerprint,
    PBS_PASSWORD: 'geheim',
    ...more,
  });
  const commandLine = (args: string[]): string[] => [programs.node, programs.cli, 'backup', ...args];
  const start = (args: string[], more: Record<string, string> = {}, output?: string): ChildProcess =>
    spawn(programs.node, commandLine(args).slice(1), {
      env: env(more),
      cwd: join(folder, 'work'),
      stdio: ['ignore', output === undefined ? 'pipe' : openSync(output, 'w'), 'pipe'],
    });
  return {
    folder,
    store,
    port,
    fingerprint,
    serverPid: server.pid ?? 0,
    env: env({}),
    commandLine,
    start,
    run: (args, { env: more = {}, output } = {}) =>
      output === undefined ? runHere(['backup', ...args], env(more)) : collect(start(args, more, output)),
    async [Symbol.asyncDispose]() {
      process.chdir(root);
      server.kill('SIGTERM');
      if (server.exitCode === null && server.signalCode === null)
        await new Promise((resolve) => void server.once('exit', resolve));
      rmSync(folder, { recursive: true, force: true });
      if (!isStoreKept) rmSync(store, { recursive: true, force: true });
    },
  };
}

/** The command line in this process: starting one takes longer than most commands. */
async function runHere(argv: string[], environment: NodeJS.ProcessEnv): Promise<Ran> {
  const ran: Ran = { code: null, out: '', err: '' };
  const world: CliWorld = {
    ...createWorld(argv, new AbortController().signal),
    out: { write: (text) => void (ran.out += text), isTerminal: false, widthColumns: 200 },
    err: { write: (text) => void (ran.err += text), isTerminal: false, widthColumns: 200 },
    environment: (name) => environment[name] || null,
    readSecret: (question) => Promise.reject(new AppError('invalid', `${question}nothing came`)),
  };
  ran.code = await runCli(argv, world);
  return ran;
}

/** Output and exit code of a process. */
export function collect(child: ChildProcess): Promise<Ran> {
  const ran: Ran = { code: null, out: '', err: '' };
  child.stdout?.setEncoding('utf8').on('data', (text: string) => (ran.out += text));
  child.stderr?.setEncoding('utf8').on('data', (text: string) => (ran.err += text));
  return new Promise((resolve) => void child.once('close', (code) => resolve({ ...ran, code })));
}

type Configured = { store: string; port: number; sync: string; reserveMib: number | null };

function configuration({ store, port, sync, reserveMib }: Configured): string {
  const reserve = reserveMib === null ? '' : `reserve-mib = ${reserveMib}\n`;
  const account = (id: string, secret: string): string =>
    `[[account]]\nid = "${id}"\nsecret-hash = "${hashSecret(secret)}"\n\n[[acl]]\npath = "/datastore/store"\nwho = "${id}"\nrole = "DatastorePowerUser"\n`;
  return [
    `[server]\nname = "b"\naddress = "127.0.0.1"\nport = ${port}\ncert = "cert"\nkey = "key"\nticket-key = "ticket"\n`,
    `[[datastore]]\nname = "store"\npath = "${store}"\nsync = "${sync}"\n${reserve}`,
    account('u@pbs', 'passwort'),
    account('u@pbs!t', 'geheim'),
  ].join('\n');
}

export function freePort(): Promise<number> {
  return new Promise((resolve, reject) => {
    const probe = createServer();
    probe.once('error', reject).listen(0, '127.0.0.1', () => {
      const address = probe.address();
      const port = typeof address === 'object' && address !== null ? address.port : 0;
      probe.close(() => resolve(port));
    });
  });
}

export async function waitForPort(port: number, server: ChildProcess): Promise<void> {
  const deadline = Date.now() + 60_000;
  while (Date.now() < deadline && server.exitCode === null) {
    const isOpen = await new Promise<boolean>((resolve) => {
      const socket = connect(port, '127.0.0.1', () => {
        socket.destroy();
        resolve(true);
      });
      socket.once('error', () => resolve(false));
    });
    if (isOpen) return;
    await wait(50);
  }
  server.kill('SIGKILL');
  throw new Error('the backup server did not start');
}
