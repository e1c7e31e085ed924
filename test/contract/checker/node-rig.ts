import { spawn, type ChildProcess } from 'node:child_process';
import { chmodSync, existsSync, mkdirSync, openSync, rmSync, writeFileSync } from 'node:fs';
import { connect, createServer } from 'node:net';
import { join } from 'node:path';
import type { DirStorage } from '#adapters/dir/dir-storage.ts';
import { createClock } from '#adapters/clock/boot-clock.ts';
import { createAuthority, issueCertificate } from '#adapters/pki/authority.ts';
import { AppError } from '#base/error.ts';
import { defaultReplicationJob, type ReplicaRecord, type ReplicationJob } from '#core/replica/records.ts';
import { newestPoint } from '#core/storage/manifest.ts';
import { checkProbeDisks, type ProbeVerdict } from '#lab/images/probe-disks.ts';
import { probeDisks } from '#lab/images/probe.ts';
import { withRest } from './without-rest.ts';
import { createPointLock, type PointLock } from '#programs/replication/point-lock.ts';
import { createDirDriver } from '#programs/replication/dir-driver.ts';
import { createReplication, type Replication } from '#programs/replication/replication.ts';
import type { Peer } from '#programs/replication/control-client.ts';
import { imageUser, makeWorkDirectory, openStorage } from './dir-rig.ts';
import { startProbeGuest, type ProbeGuest } from './probe-guest.ts';
import { until } from './until.ts';

/** The facts of the record that replication asks for, in memory. */
export type RigRecord = { home: Map<number, { node: string; generation: number }>; replicas: Map<string, ReplicaRecord> };

/** One node: storage, replication and relay, each of which can be ended and started again. */
export type RigNode = {
  name: string;
  directory: string;
  run: string;
  port: number;
  storage: DirStorage;
  replication: Replication;
  points: PointLock;
  logged: string[];
  relay: ChildProcess;
  startRelay(): Promise<void>;
  /** Ends the receiving half, for a test that runs it as a process of its own. */
  stopServing(): Promise<void>;
  stop(): Promise<void>;
};

export type Rig = {
  path: string;
  record: RigRecord;
  job: ReplicationJob;
  nodes: Map<string, RigNode>;
  node(name: string): RigNode;
  [Symbol.asyncDispose](): Promise<void>;
};

/** Nodes of one cluster on loopback, with real certificates and real relay processes. */
export async function buildRig(names: string[], job: Partial<ReplicationJob> = {}): Promise<Rig> {
  const work = makeWorkDirectory('rig');
  chmodSync(work.path, 0o711);
  const pki = join(work.path, 'pki');
  await createAuthority(pki, { clusterName: 'rig' });
  const record: RigRecord = { home: new Map(), replicas: new Map() };
  const nodes = new Map<string, RigNode>();
  const rig: Rig = {
    path: work.path,
    record,
    job: { vmid: 0, ...defaultReplicationJob, intervalMs: 3_600_000, ...job },
    nodes,
    node(name) {
      const found = nodes.get(name);
      if (found === undefined) throw new Error(`no node ${name}`);
      return found;
    },
    async [Symbol.asyncDispose]() {
      for (const node of nodes.values()) await node.stop();
      work[Symbol.dispose]();
    },
  };
  const ports = new Map<string, number>();
  for (const name of names) ports.set(name, await findFreePort());
  const peersOf = (name: string): Peer[] =>
    names
      .filter((other) => other !== name)
      .map((other) => ({ node: other, address: '127.0.0.1', relayPort: ports.get(other) ?? 0 }));
  try {
    for (const name of names)
      nodes.set(name, await buildNode(rig, { name, pki, port: ports.get(name) ?? 0, readPeers: () => peersOf(name) }));
  } catch (error) {
    await rig[Symbol.asyncDispose]();
    throw error;
  }
  return rig;
}

async function buildNode(
  rig: Rig,
  about: { name: string; pki: string; port: number; readPeers: () => Peer[] },
): Promise<RigNode> {
  const { name, port } = about;
  const directory = join(rig.path, name);
  const run = join(directory, 'run');
  mkdirSync(run, { recursive: true, mode: 0o711 });
  const files = {
    caFile: join(about.pki, 'ca.pem'),
    certFile: join(directory, 'node.pem'),
    keyFile: join(directory, 'node.key'),
  };
  await issueCertificate(about.pki, { name, addresses: ['127.0.0.1'], kind: 'node', out: files });
  const config = join(directory, 'node.toml');
  writeFileSync(config, formatConfig({ name, directory, run, port, ...files }));
  const logged: string[] = [];
  const log = (text: string) => void logged.push(text);
  const storage = await openStorage(directory, logged);
  const points = createPointLock();
  const clock = createClock();
  const replication = createReplication({
    driver: createDirDriver({
      node: name,
      storage,
      points,
      withRest,
      run,
      scratch: join(directory, 'scratch'),
      scratchLimitBytes: 1 << 30,
      user: imageUser,
      clock,
      log,
    }),
    run,
    clock,
    log,
    authorize: async (vmid, sender, generation) => {
      const home = rig.record.home.get(vmid);
      if (home?.node === sender && home.generation === generation) return;
      throw new AppError('denied', `guest ${vmid}: ${sender} is not its home at generation ${generation}`);
    },
    publish: async (vmid, published) => {
      if (published === null) rig.record.replicas.delete(`${vmid}/${name}`);
      else rig.record.replicas.set(`${vmid}/${name}`, published);
    },
    readPeers: about.readPeers,
    readJob: (vmid) => ({ ...rig.job, vmid }),
    readConfigSha256: () => 'c0',
  });
  // First: when it does not come, nothing else has begun that would keep the test's process alive.
  const relay = await spawnRelay(config, run);
  const stopServing = new AbortController();
  const serving = replication.serve(stopServing.signal);
  const node: RigNode = {
    name,
    directory,
    run,
    port,
    storage,
    replication,
    points,
    logged,
    relay,
    async startRelay() {
      await endProcess(node.relay);
      node.relay = await spawnRelay(config, run);
    },
    async stopServing() {
      stopServing.abort();
      await serving;
    },
    async stop() {
      for (const { vmid } of replication.status()) await replication.stopGuest(vmid);
      stopServing.abort();
      await serving;
      await endProcess(node.relay);
    },
  };
  await until(`${name} serves`, 5_000, () => existsSync(join(run, 'replica.sock')));
  return node;
}

/** Starts a node's relay; returns when it listens. */
export async function spawnRelay(config: string, run: string, deadlineMs = 10_000): Promise<ChildProcess> {
  rmSync(join(run, 'relay.sock'), { force: true });
  const output = openSync(join(run, 'relay.log'), 'a');
  const main = new URL('../../../src/programs/relay/main.ts', import.meta.url).pathname;
  const child = spawn(process.execPath, [main, '--config', config], { stdio: ['ignore', output, output] });
  try {
    await until('the relay listens', deadlineMs, () => {
      if (child.exitCode !== null) throw new Error(`the relay ended: see ${join(run, 'relay.log')}`);
      return canConnect(join(run, 'relay.sock')); // a socket's file is there a moment before anybody listens
    });
  } catch (error) {
    await endProcess(child);
    throw error;
  }
  return child;
}

/** Kills a process this rig started and returns when it is gone. */
export async function endProcess(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const gone = new Promise((resolve) => child.once('exit', resolve));
  child.kill('SIGKILL');
  await gone;
}

/** A node's configuration, as far as its relay reads it. */
export function formatConfig(about: {
  name: string;
  directory: string;
  run: string;
  port: number;
  caFile: string;
  certFile: string;
  keyFile: string;
  /** A pool's dataset; left out: disks are files. */
  dataset?: string;
}): string {
  return `[node]
name = "${about.name}"
cluster = "00000000-0000-4000-8000-000000000000"
address = "127.0.0.1"
data = "${about.directory}"
run = "${about.run}"
[etcd]
endpoints = ["https://127.0.0.1:1"]
ca = "${about.caFile}"
cert = "${about.certFile}"
key = "${about.keyFile}"
[timing]
profile = "standard"
[watchdog]
device = "/dev/null"
[guests]
cgroup = "/sys/fs/cgroup/none"
uid = ${imageUser.uid}
gid = ${imageUser.gid}
accelerator = "tcg"
[relay]
port = ${about.port}
${about.dataset === undefined ? '' : `[storage]\ndriver = "zfs"\ndataset = "${about.dataset}"\n`}`;
}

function canConnect(path: string): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(path);
    const tell = (yes: boolean) => {
      socket.destroy();
      resolve(yes);
    };
    socket.once('connect', () => tell(true)).once('error', () => tell(false));
  });
}

/** A port of this machine's loopback that nobody listens on. */
export function findFreePort(): Promise<number> {
  return new Promise((resolve, reject) => {
    const server = createServer();
    server.once('error', reject);
    server.listen(0, '127.0.0.1', () => {
      const address = server.address();
      server.close(() => resolve(typeof address === 'object' && address !== null ? address.port : 0));
    });
  });
}

/** Starts the workload on the node's primary copy, with its bitmaps armed, and hands it to replication. */
export async function runProbeOn(
  rig: Rig,
  name: string,
  options: { vmid: number; generation: number; intervalMs?: number; blocks?: number },
): Promise<ProbeGuest> {
  const node = rig.node(name);
  const { vmid, generation } = options;
  rig.record.home.set(vmid, { node: name, generation });
  const disks = await node.storage.openPrimary(vmid, generation);
  const guest = await startProbeGuest({ intervalMs: 20, ...options, run: node.run, disks });
  try {
    await node.replication.armBitmaps(guest);
    await guest.resume();
    node.replication.startGuest(guest);
    return guest;
  } catch (error) {
    await guest[Symbol.asyncDispose]();
    throw error;
  }
}

/** Makes the workload's empty disks. */
export async function createProbeDisks(rig: Rig, name: string, vmid: number): Promise<void> {
  await rig.node(name).storage.create(vmid, 1, [...probeDisks]);
}

let exports = 0;

/** Whether a node's newest point is exactly the sequence up to its counter. Reads the copy as it lies on disk. */
export async function checkReplica(rig: Rig, name: string, vmid: number): Promise<ProbeVerdict> {
  const { storage } = rig.node(name);
  exports += 1;
  const out = join(rig.path, `check-${exports}`);
  const files = await storage.exportImage(vmid, (held) => newestPoint(held)?.depths ?? null, out);
  const verdict = checkProbeDisks(files[0] ?? '', files[1] ?? '');
  rmSync(out, { recursive: true });
  return verdict;
}
