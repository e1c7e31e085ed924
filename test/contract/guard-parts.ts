import { spawn, spawnSync, type ChildProcess } from 'node:child_process';
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmdirSync, rmSync, writeFileSync } from 'node:fs';
import { createServer, type AddressInfo } from 'node:net';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { findCgroup2Mount } from '#adapters/cgroup/cgroup2-mount.ts';

/** Milliseconds of the system's monotonic clock, the same in every process. */
export function monoMs(): number {
  return Number(process.hrtime.bigint()) / 1e6;
}

/** Waits until `look` gives something that is neither false nor null; fails after `deadlineMs` with `what`. */
export async function waitUntil<T>(
  what: string,
  look: () => T | Promise<T>,
  deadlineMs = 10_000,
): Promise<Exclude<T, false | null | undefined>> {
  const end = monoMs() + deadlineMs;
  for (;;) {
    const seen = await look();
    if (seen !== false && seen !== null && seen !== undefined) return seen as Exclude<T, false | null | undefined>;
    if (monoMs() > end) throw new Error(`not seen in ${deadlineMs} ms: ${what}`);
    await pause(5);
  }
}

/** Why this machine cannot run tests with real control groups; false: it can. */
export function cgroupSkip(): string | false {
  if (process.getuid?.() !== 0) return 'control groups need root';
  try {
    findCgroup2Mount();
    return false;
  } catch {
    return 'no cgroup2 file system is mounted';
  }
}

/** A control group of the tests' own; disposing kills and removes it with all below. */
export function createTestGroup(name: string): { path: string } & Disposable {
  const path = join(findCgroup2Mount(), `holdfast-test-${process.pid}-${name}`);
  mkdirSync(path);
  return {
    path,
    [Symbol.dispose]() {
      writeFileSync(join(path, 'cgroup.kill'), '1');
      const end = monoMs() + 3_000;
      while (readFileSync(join(path, 'cgroup.events'), 'utf8').includes('populated 1') && monoMs() < end) spawnSync('true');
      removeGroups(path);
    },
  };
}

function removeGroups(path: string): void {
  for (const entry of readdirSync(path, { withFileTypes: true })) if (entry.isDirectory()) removeGroups(join(path, entry.name));
  rmdirSync(path);
}

/** A process that sleeps inside `group`, and is inside before it is what it will be. */
export async function startSleeper(group: string): Promise<{ pid: number; isAlive(): boolean }> {
  mkdirSync(group, { recursive: true });
  const script = 'echo $$ > "$1/cgroup.procs" && exec sleep 600';
  const child = spawn('sh', ['-c', script, 'sh', group], { stdio: 'ignore', detached: true });
  const pid = child.pid ?? 0;
  let alive = true;
  child.once('exit', () => (alive = false));
  await waitUntil('the sleeper is in its group', () => readFileSync(join(group, 'cgroup.procs'), 'utf8').includes(String(pid)));
  return { pid, isAlive: () => alive };
}

export type StandIn = {
  device: string;
  /** Every byte seen, in order. */
  seen: { byte: number; atMs: number }[];
  pets(): number;
  disarms(): number;
  lastPetMs(): number;
} & Disposable;

/** A FIFO watchdog with its process; `minSeconds` makes it a slow one. */
export async function startStandIn(folder: string, options: { minSeconds?: number } = {}): Promise<StandIn> {
  const device = join(folder, 'watchdog0');
  mkdirSync(`${device}.d`);
  spawnSync('mkfifo', [device]);
  const script = join(import.meta.dirname, 'watchdog-stand-in.ts');
  const args = [script, '--device', device, '--min-seconds', String(options.minSeconds ?? 1)];
  const child = startChild(process.execPath, args);
  const seen: StandIn['seen'] = [];
  let ready = false;
  readLines(child, (line) => {
    const said = JSON.parse(line) as { ready?: true; byte: number; atMs: number };
    if (said.ready === true) ready = true;
    else seen.push(said);
  });
  await waitUntil('the watchdog is ready', () => ready);
  const disarm = 'V'.charCodeAt(0);
  return {
    device,
    seen,
    pets: () => seen.filter(({ byte }) => byte !== disarm).length,
    disarms: () => seen.filter(({ byte }) => byte === disarm).length,
    lastPetMs: () => seen.findLast(({ byte }) => byte !== disarm)?.atMs ?? 0,
    [Symbol.dispose]() {
      child.kill('SIGKILL');
    },
  };
}

/** One etcd member on loopback without TLS, in memory. Stopping it with SIGSTOP is a store that went away. */
export async function startPlainEtcd(folder: string): Promise<{ endpoint: string; child: ChildProcess } & Disposable> {
  const [client, peer] = await findPorts();
  const endpoint = `http://127.0.0.1:${client}`;
  const peerUrl = `http://127.0.0.1:${peer}`;
  const own = ['--data-dir', join(folder, 'etcd'), '--log-level', 'error'];
  const forClients = ['--listen-client-urls', endpoint, '--advertise-client-urls', endpoint];
  const forPeers = [
    '--listen-peer-urls',
    peerUrl,
    '--initial-advertise-peer-urls',
    peerUrl,
    '--initial-cluster',
    `default=${peerUrl}`,
  ];
  const child = startChild('etcd', [...own, ...forClients, ...forPeers]);
  return {
    endpoint,
    child,
    [Symbol.dispose]() {
      child.kill('SIGKILL');
    },
  };
}

/** Dies with this process, whatever happens to it. */
export function startChild(command: string, args: string[], env: NodeJS.ProcessEnv = {}): ChildProcess {
  return spawn('setpriv', ['--pdeathsig', 'KILL', command, ...args], {
    stdio: ['ignore', 'pipe', 'pipe'],
    env: { ...process.env, ...env },
  });
}

export function readLines(child: ChildProcess, onLine: (line: string) => void): void {
  let rest = '';
  child.stdout?.setEncoding('utf8').on('data', (text: string) => {
    const lines = `${rest}${text}`.split('\n');
    rest = lines.pop() ?? '';
    lines.forEach(onLine);
  });
}

export function createFolder(): { path: string } & Disposable {
  const path = mkdtempSync('/dev/shm/holdfast-guard-');
  return {
    path,
    [Symbol.dispose]() {
      rmSync(path, { recursive: true, force: true });
    },
  };
}

async function findPorts(): Promise<[number, number]> {
  const servers = [createServer(), createServer()];
  const ports: number[] = [];
  for (const server of servers) {
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    ports.push((server.address() as AddressInfo).port);
  }
  for (const server of servers) server.close();
  return [ports[0] ?? 0, ports[1] ?? 0];
}
