import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { createEtcdStore } from '#adapters/etcd/etcd-store.ts';
import { AppError } from '#base/error.ts';
import { keys } from '#core/ha/keys.ts';
import type { HaStatus, Permit } from '#core/ha/records.ts';
import type { ReplicaRecord } from '#core/replica/records.ts';
import type { WitnessReport, WitnessRun } from '#lab/collector-analysis.ts';
import { type DrillStore, readValue, waitUntil } from '#lab/drills/drill-store.ts';
import { collectorPort, waitReplicated } from '#lab/drills/drill-guests.ts';
import { type LineProcess, startLineProcess } from '#lab/drills/line-process.ts';
import { probeAppend } from '#lab/images/probe.ts';
import type { Say } from './founding.ts';
import { fullLimits } from './full-limits.ts';
import type { Room } from './full-room.ts';
import type { Machine } from './machine.ts';
import { roomNetwork } from './room-network.ts';

/** The guest of the drill: tells the room twice a second what is safely on its disks. */
export const tinyGuest = {
  vmid: 100,
  address: '10.77.0.100',
  mac: '52:54:00:77:00:64',
  intervalMs: 60_000,
  /** Between two of its writes, each of which waits for four disks of an emulated machine twice. */
  writeMs: 500,
} as const;

/** What the scenes work with. */
export type Stage = AsyncDisposable & {
  room: Room;
  /** The cluster's record, as a node reads it. */
  store: DrillStore;
  collector: LineProcess;
  say: Say;
};

/** Opens the cluster's record with a node's certificate and listens for the guest. */
export async function openStage(room: Room, folder: string, say: Say): Promise<Stage> {
  const tls = await fetchCertificate(room.machines[0]!, join(folder, 'pki'));
  const store = readPatiently(createEtcdStore({ endpoints: room.machines.map(({ address }) => `https://${address}:2379`), tls }));
  const collectorProgram = fileURLToPath(new URL('../collector-main.ts', import.meta.url));
  const where = ['--bind', `0.0.0.0:${collectorPort}`, '--file', join(folder, 'witness.jsonl')];
  const collector = await startLineProcess('the collector', [collectorProgram, ...where]);
  const end = async () => {
    collector.kill();
    await store[Symbol.asyncDispose]();
  };
  return { room, store, collector, say, [Symbol.asyncDispose]: end };
}

/** What a scene reads between its steps is not what it tests: it is asked again while machines are too busy to answer, or one has just died. */
function readPatiently(store: DrillStore): DrillStore {
  const again = async <T>(what: string, read: () => Promise<T>): Promise<T> => {
    const look = async () => ({ found: await read() });
    return (await waitUntil(`the store to answer (${what})`, fullLimits.commandMs, look, fullLimits.lookMs)).found;
  };
  return {
    ...store,
    read: (key, call) => again(key, () => store.read(key, call)),
    list: (prefix, call) => again(prefix, () => store.list(prefix, call)),
  };
}

async function fetchCertificate(machine: Machine, folder: string) {
  mkdirSync(folder, { recursive: true, mode: 0o700 });
  const files = { caFile: 'ca.pem', certFile: 'node.pem', keyFile: 'node.key' } as const;
  const entries = await Promise.all(
    Object.entries(files).map(async ([field, file]) => {
      writeFileSync(join(folder, file), await machine.shell.must(`cat /etc/holdfast/pki/${file}`), { mode: 0o600 });
      return [field, join(folder, file)] as const;
    }),
  );
  return Object.fromEntries(entries) as Record<keyof typeof files, string>;
}

/**
 * Creates the tiny guest with the command line of its machine unless it is there, has it replicated every minute and started, and waits until it is
 * heard. What was cut off before goes on.
 */
export async function startTinyGuest({ room, store, collector, say }: Stage, home: string): Promise<WitnessRun> {
  const collectorAt = `${roomNetwork.address}:${collectorPort}`;
  const append = probeAppend({ address: `${tinyGuest.address}/24`, collector: collectorAt, intervalMs: tinyGuest.writeMs });
  const { shell } = room.byName(home);
  const parts = [
    `--vmid ${tinyGuest.vmid} --name tiny --memory 128M --disk disk0=64M --disk disk1=1M`,
    `--nic bridge=br0,mac=${tinyGuest.mac} --kernel probe-vmlinux --initrd probe-initrd --append '${append}'`,
  ];
  const deadlineMs = fullLimits.foundMs;
  const isThere = (await store.read(keys.guest(tinyGuest.vmid))) !== null;
  const status = await readValue<HaStatus>(store, keys.haStatus(tinyGuest.vmid));
  if (status?.state === 'running') return await waitSpeaking(collector, 1);
  if (!isThere) await shell.must(`holdfast guest create ${parts.join(' ')} --node ${home} --timeout 10m`, { deadlineMs });
  await shell.must(`holdfast replication set ${tinyGuest.vmid} --interval ${tinyGuest.intervalMs / 1000}s`);
  await shell.must(`holdfast guest start ${tinyGuest.vmid} --timeout 10m`, { deadlineMs });
  const run = await waitSpeaking(collector, 1);
  say(`guest ${tinyGuest.vmid} runs on ${home} and is heard`);
  return run;
}

/** What the collector proves about the guest so far; null before it was first heard. */
export async function readWitness(collector: LineProcess): Promise<WitnessReport | null> {
  const { guests } = await collector.ask<{ guests: WitnessReport[] }>('report', fullLimits.commandMs);
  return guests.find(({ vmid }) => vmid === tinyGuest.vmid) ?? null;
}

/** Waits until the guest of this generation (or a later one) says that its disks were found whole. */
export function waitSpeaking(collector: LineProcess, generation: number): Promise<WitnessRun> {
  return waitUntil(`guest ${tinyGuest.vmid}, generation ${generation}, to be heard`, fullLimits.guestMs, async () => {
    const run = (await readWitness(collector))?.runs.at(-1);
    return run !== undefined && run.generation >= generation && run.consistent !== null ? run : null;
  });
}

/** The guest's place and generation as its agent tells them. Raises AppError conflict when it does not run. */
export async function findHome(store: DrillStore): Promise<{ node: string; generation: number }> {
  const status = await readValue<HaStatus>(store, keys.haStatus(tinyGuest.vmid));
  if (status?.state !== 'running')
    throw new AppError('conflict', `guest ${tinyGuest.vmid} does not run: ${JSON.stringify(status)}`);
  return { node: status.node, generation: status.generation };
}

/** Waits until a node holds a granted permit of a later epoch than `epoch`. */
export function waitServing(store: DrillStore, node: string, epoch = 0): Promise<Permit> {
  const look = async (): Promise<Permit | null> => {
    const permit = await readValue<Permit>(store, keys.nodePermit(node));
    return permit?.state === 'granted' && permit.epoch > epoch ? permit : null;
  };
  return waitUntil(`${node} to hold a permit again`, fullLimits.rejoinMs, look, fullLimits.lookMs);
}

/** Waits until each of `nodes` holds a copy of the guest, of this generation and taken at or after `sinceMs`. */
export function waitCopies(
  store: DrillStore,
  vmid: number,
  generation: number,
  nodes: string[],
  sinceMs = 0,
): Promise<ReplicaRecord[]> {
  return waitReplicated(store, vmid, generation, nodes, fullLimits.replicatedMs, sinceMs, fullLimits.lookMs);
}
