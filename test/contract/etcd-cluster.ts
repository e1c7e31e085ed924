import { createSecureContext } from 'node:tls';
import { type ChildProcess, spawn } from 'node:child_process';
import { appendFileSync, rmSync } from 'node:fs';
import { mkdir, mkdtemp, readFile } from 'node:fs/promises';
import { type AddressInfo, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createClient } from '@connectrpc/connect';
import { formatEtcdArguments } from '#adapters/etcd/etcd-arguments.ts';
import { openConnection } from '#adapters/etcd/etcd-connection.ts';
import { createEtcdStore } from '#adapters/etcd/etcd-store.ts';
import { KV } from '#adapters/etcd/gen/etcd_pb.js';
import { createAuthority, issueCertificate } from '#adapters/pki/authority.ts';
import { isAppError } from '#base/error.ts';
import type { StoreMember } from '#ports/store.ts';

const startMs = 15_000;

export type TestTls = { caFile: string; certFile: string; keyFile: string };

/** One real etcd process on loopback. */
export interface TestMember {
  readonly name: string;
  readonly endpoint: string;
  readonly running: boolean;
  start(): void;
  /** SIGKILL; returns when the process is gone. */
  kill(): Promise<void>;
  /** SIGTERM; returns when the process is gone. */
  stop(): Promise<void>;
  /** SIGSTOP: the process answers nothing, its kernel still accepts connections. */
  freeze(): void;
  thaw(): void;
}

export interface TestCluster extends AsyncDisposable {
  readonly members: readonly TestMember[];
  readonly endpoints: string[];
  /** A client certificate of the cluster's authority. */
  readonly tls: TestTls;
  /** Where the authority lies: further certificates can be issued from it. */
  readonly authorityDirectory: string;
  /** Starts or thaws whatever is down and returns when all members are healthy. */
  heal(): Promise<void>;
  leader(): Promise<TestMember>;
  /** Members that do not lead. */
  followers(): Promise<TestMember[]>;
  /** Forgets the history before `revision`. */
  compact(revision: bigint): Promise<void>;
  /** What the members wrote to stderr. */
  readLog(): Promise<string>;
}

/** Three members (or `count`) with TLS both ways, own ports and a directory of their own; disposing kills them and removes it. */
export async function startEtcdCluster(options: { count?: number } = {}): Promise<TestCluster> {
  const directory = await mkdtemp(join(tmpdir(), 'etcd-cluster-'));
  const children = new Set<ChildProcess>();
  const cleanUp = () => {
    for (const child of children) child.kill('SIGKILL');
    rmSync(directory, { recursive: true, force: true, maxRetries: 3 });
  };
  // A failing or interrupted test leaves nothing behind either.
  const leave = () => process.exit(1);
  process.once('exit', cleanUp);
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, leave);
  try {
    const cluster = await assembleCluster(directory, options.count ?? 3, children);
    await cluster.heal();
    return {
      ...cluster,
      async [Symbol.asyncDispose]() {
        await Promise.all(cluster.members.map((member) => member.kill()));
        cleanUp();
        process.off('exit', cleanUp);
        for (const signal of ['SIGINT', 'SIGTERM'] as const) process.off(signal, leave);
      },
    };
  } catch (error) {
    cleanUp();
    throw error;
  }
}

async function assembleCluster(directory: string, count: number, children: Set<ChildProcess>) {
  const pki = join(directory, 'pki');
  const log = join(directory, 'etcd.log');
  await createAuthority(pki, { clusterName: 'test' });
  const tlsOf = (name: string): TestTls => ({
    caFile: join(pki, 'ca.pem'),
    certFile: join(pki, `${name}.pem`),
    keyFile: join(pki, `${name}.key`),
  });
  await issueCertificate(pki, { name: 'client', addresses: [], kind: 'client', out: tlsOf('client') });
  const ports = await findPorts(count * 2);
  const plans = Array.from({ length: count }, (_, index) => ({
    name: `m${index + 1}`,
    address: '127.0.0.1',
    clientPort: ports[index * 2]!,
    peerPort: ports[index * 2 + 1]!,
  }));
  for (const { name } of plans) {
    await mkdir(join(directory, name), { mode: 0o700 });
    await issueCertificate(pki, { name, addresses: ['127.0.0.1'], kind: 'node', out: tlsOf(name) });
  }
  const members = plans.map((plan) =>
    createMember(`https://127.0.0.1:${plan.clientPort}`, plan.name, log, children, () =>
      formatEtcdArguments({
        ...plan,
        dataDirectory: join(directory, plan.name),
        initialMembers: plans,
        clusterToken: directory,
        initialState: 'new',
        tls: tlsOf(plan.name),
      }),
    ),
  );
  const endpoints = members.map((member) => member.endpoint);
  const tls = tlsOf('client');
  const readLog = () => readFile(log, 'utf8').catch(() => '');

  /** What the members say of themselves, once it is as wanted and a read is answered. */
  async function look(wanted: (found: StoreMember[]) => boolean, what: string): Promise<StoreMember[]> {
    await using store = createEtcdStore({ endpoints, tls });
    const untilMs = performance.now() + startMs;
    let found: StoreMember[] = [];
    while (performance.now() < untilMs) {
      found = await store.listMembers({ deadlineMs: 700 });
      if (wanted(found) && (await canRead(store))) return found;
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
    throw new Error(`${what} not seen in ${startMs} ms: ${JSON.stringify(found)}\n${await readLog()}`);
  }

  async function leader(): Promise<TestMember> {
    const found = leaderOf(await look((seen) => leaderOf(seen) !== undefined, 'a leader'));
    return members.find(({ endpoint }) => endpoint === found?.endpoint)!;
  }

  return {
    members,
    endpoints,
    tls,
    authorityDirectory: pki,
    readLog,
    leader,
    async compact(revision: bigint) {
      const material = createSecureContext({
        ca: await readFile(tls.caFile),
        cert: await readFile(tls.certFile),
        key: await readFile(tls.keyFile),
      });
      const endpoint = members.find(({ running }) => running)!.endpoint;
      const connection = await openConnection(
        endpoint,
        material,
        { connectMs: startMs, handshakeMs: startMs },
        new AbortController().signal,
      );
      try {
        await createClient(KV, connection.transport).compact({ revision, physical: true }, { timeoutMs: startMs });
      } finally {
        connection.close();
      }
    },
    async followers() {
      const lead = await leader();
      return members.filter((member) => member !== lead);
    },
    async heal() {
      for (const member of members) {
        if (!member.running) member.start();
        member.thaw();
      }
      await look((found) => found.every(({ healthy }) => healthy) && leaderOf(found) !== undefined, 'a healthy cluster');
    },
  };
}

function leaderOf(found: StoreMember[]): StoreMember | undefined {
  const leaders = found.filter(({ leader, healthy }) => leader && healthy);
  return leaders.length === 1 ? leaders[0] : undefined; // two: one of them does not know yet that it was deposed
}

async function canRead(store: ReturnType<typeof createEtcdStore>): Promise<boolean> {
  try {
    await store.read('/ready');
    return true;
  } catch (error) {
    if (isAppError(error, 'timeout', 'unavailable')) return false;
    throw error;
  }
}

function createMember(
  endpoint: string,
  name: string,
  log: string,
  children: Set<ChildProcess>,
  formatArguments: () => string[],
): TestMember {
  let child: ChildProcess | null = null;
  let gone: Promise<void> = Promise.resolve();

  async function end(signal: 'SIGKILL' | 'SIGTERM'): Promise<void> {
    child?.kill('SIGCONT'); // a stopped process takes no SIGTERM
    child?.kill(signal);
    await gone;
  }

  return {
    name,
    endpoint,
    get running() {
      return child !== null;
    },
    start() {
      // setpriv: if the test process itself is killed, the kernel ends the member too.
      const started = spawn('setpriv', ['--pdeathsig', 'KILL', 'etcd', ...formatArguments()], {
        stdio: ['ignore', 'ignore', 'pipe'],
      });
      child = started;
      children.add(started);
      started.stderr.on('data', (text: Buffer) => appendLog(log, name, text));
      gone = new Promise((resolve, reject) => {
        started.once('error', reject);
        started.once('exit', () => {
          children.delete(started);
          if (child === started) child = null;
          resolve();
        });
      });
      gone.catch(() => {}); // reported by whoever waits
    },
    kill: () => end('SIGKILL'),
    stop: () => end('SIGTERM'),
    freeze() {
      child?.kill('SIGSTOP');
    },
    thaw() {
      child?.kill('SIGCONT');
    },
  };
}

function appendLog(log: string, name: string, text: Buffer): void {
  try {
    appendFileSync(log, `${name}: ${text.toString()}`);
  } catch {
    // the directory is gone: the cluster is being disposed
  }
}

/** Ports nobody listens on now. All are held open until the last is known, so that no two are the same. */
async function findPorts(count: number): Promise<number[]> {
  const servers = Array.from({ length: count }, () => createServer());
  try {
    await Promise.all(servers.map((server) => new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))));
    return servers.map((server) => (server.address() as AddressInfo).port);
  } finally {
    await Promise.all(servers.map((server) => new Promise((resolve) => server.close(resolve))));
  }
}
