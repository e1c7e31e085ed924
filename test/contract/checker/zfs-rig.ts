import { type ChildProcess } from 'node:child_process';
import { chmodSync, existsSync, mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { createClock } from '#adapters/clock/boot-clock.ts';
import { createAuthority, issueCertificate } from '#adapters/pki/authority.ts';
import type { ZfsStorage } from '#adapters/zfs/zfs-storage.ts';
import { AppError } from '#base/error.ts';
import { defaultReplicationJob, type ReplicationJob } from '#core/replica/records.ts';
import { checkProbeDisks, type ProbeVerdict } from '#lab/images/probe-disks.ts';
import type { Peer } from '#programs/replication/control-client.ts';
import { createReplication, type Replication } from '#programs/replication/replication.ts';
import { createZfsDriver } from '#programs/replication/zfs-driver.ts';
import { makeWorkDirectory } from './dir-rig.ts';
import { endProcess, findFreePort, formatConfig, type RigRecord, spawnRelay } from './node-rig.ts';
import { until } from './until.ts';
import { withRest } from './without-rest.ts';
import { makeRoot, openZfsStorage } from './zfs-bench.ts';

/** One node on a pool: storage, replication and relay. */
export type ZfsRigNode = {
  name: string;
  root: string;
  storage: ZfsStorage;
  replication: Replication;
  logged: string[];
  relay: ChildProcess;
  startRelay(): Promise<void>;
  stop(): Promise<void>;
};

export type ZfsRig = {
  path: string;
  record: RigRecord;
  job: ReplicationJob;
  node(name: string): ZfsRigNode;
  /** Whether a node's newest point is exactly the sequence up to its counter. */
  check(name: string, vmid: number): Promise<ProbeVerdict>;
  [Symbol.asyncDispose](): Promise<void>;
};

/** A cut stream of more than this is gone on with in the tests. */
export const resumeFromBytes = 2 << 20;

/** A cluster's nodes on loopback, each with a pool of its own where there are two, with real certificates and relay processes. */
export async function buildZfsRig(pools: Record<string, string>): Promise<ZfsRig> {
  const work = makeWorkDirectory('zfs-rig');
  chmodSync(work.path, 0o711);
  const pki = join(work.path, 'pki');
  await createAuthority(pki, { clusterName: 'rig' });
  const names = Object.keys(pools);
  const record: RigRecord = { home: new Map(), replicas: new Map() };
  const job: ReplicationJob = { vmid: 0, ...defaultReplicationJob, intervalMs: 3_600_000 };
  const nodes = new Map<string, ZfsRigNode>();
  const roots = names.map((name) => makeRoot(name, pools[name]));
  const ports = new Map<string, number>();
  for (const name of names) ports.set(name, await findFreePort());
  let looks = 0;
  const rig: ZfsRig = {
    path: work.path,
    record,
    job,
    node(name) {
      const found = nodes.get(name);
      if (found === undefined) throw new Error(`no node ${name}`);
      return found;
    },
    async check(name, vmid) {
      const out = join(work.path, `check-${(looks += 1)}`);
      const files = await rig.node(name).storage.exportPoint(vmid, out);
      const verdict = checkProbeDisks(files[0] ?? '', files[1] ?? '');
      rmSync(out, { recursive: true });
      return verdict;
    },
    async [Symbol.asyncDispose]() {
      for (const node of nodes.values()) await node.stop();
      for (const root of roots) {
        await until(`${root.root} is free`, 60_000, () => {
          try {
            root[Symbol.dispose]();
            return true;
          } catch {
            return false;
          }
        });
      }
      work[Symbol.dispose]();
    },
  };
  for (const [index, name] of names.entries()) {
    const readPeers = (): Peer[] =>
      names
        .filter((other) => other !== name)
        .map((other) => ({ node: other, address: '127.0.0.1', relayPort: ports.get(other) ?? 0 }));
    const about = { name, pki, root: roots[index]?.root ?? '', port: ports.get(name) ?? 0, readPeers };
    nodes.set(name, await buildNode(rig, about));
  }
  return rig;
}

async function buildNode(
  rig: ZfsRig,
  about: { name: string; pki: string; root: string; port: number; readPeers: () => Peer[] },
): Promise<ZfsRigNode> {
  const { name, root, port, readPeers } = about;
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
  writeFileSync(config, formatConfig({ name, directory, run, port, dataset: root, ...files }));
  const logged: string[] = [];
  const log = (text: string) => void logged.push(text);
  const storage = openZfsStorage(root, directory, { newDisks: 'volume', logged });
  const clock = createClock();
  const replication = createReplication({
    driver: createZfsDriver({ node: name, storage, run, readPeers, withRest, resumeFromBytes, clock, log }),
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
    readPeers,
    readJob: (vmid) => ({ ...rig.job, vmid }),
    readConfigSha256: () => 'c0',
  });
  const stopServing = new AbortController();
  const serving = replication.serve(stopServing.signal);
  const node: ZfsRigNode = {
    name,
    root,
    storage,
    replication,
    logged,
    relay: await spawnRelay(config, run, relayDeadlineMs),
    async startRelay() {
      await endProcess(node.relay);
      node.relay = await spawnRelay(config, run, relayDeadlineMs);
    },
    async stop() {
      for (const { vmid } of replication.status()) await replication.stopGuest(vmid);
      stopServing.abort();
      await serving;
      await endProcess(node.relay);
    },
  };
  await until(`${name} serves`, 60_000, () => existsSync(join(run, 'replica.sock')));
  return node;
}

/** A machine that has a pool is most often an emulated one: there a program of ours takes a minute to be loaded. */
const relayDeadlineMs = 240_000;
