import { basename } from 'node:path';
import type { GuestConfig } from '#core/guest/guest-record.ts';
import { keys, prefixes } from '#core/ha/keys.ts';
import type { HaStatus, WantedState } from '#core/ha/records.ts';
import { defaultReplicationJob, type ReplicaRecord, type ReplicationJob } from '#core/replica/records.ts';
import { type DrillStore, changeValue, listValues, performWork, readValue, waitUntil } from '#lab/drills/drill-store.ts';
import type { WitnessReport } from '#lab/collector-analysis.ts';
import type { LineProcess } from '#lab/drills/line-process.ts';
import { type EhrDbImage, ehrDbAppend } from '#lab/images/ehr-db.ts';
import { labContext } from '#lab/lab.ts';
import { type ProbeImage, probeAppend } from '#lab/images/probe.ts';

/** The guests of a drill: the witness and the database, with fixed numbers and addresses on the lab's switch. */
export const probeGuest = { vmid: 100, address: '10.77.0.100' } as const;
export const databaseGuest = { vmid: 101, address: '10.77.0.101' } as const;
export const collectorPort = 7700;

const mib = 1 << 20;

/** The files that the nodes need in their assets folder, by the names that the guests' configurations use. */
export function guestAssets(images: { probe: ProbeImage; ehrDb?: EhrDbImage }): Record<string, string> {
  const assets: Record<string, string> = {};
  for (const image of [images.probe, images.ehrDb]) {
    if (image === undefined) continue;
    assets[assetName(image, image.kernel)] = image.kernel;
    assets[assetName(image, image.initrd)] = image.initrd;
  }
  return assets;
}

function assetName(image: ProbeImage | EhrDbImage, file: string): string {
  return `${'rootImage' in image ? 'ehr-db' : 'probe'}-${basename(file)}`;
}

/** A probe guest: its number is also the last part of its addresses. */
export function probeConfig(image: ProbeImage, vmid: number, collectorAddress: string): GuestConfig {
  return {
    cores: 1,
    memoryMb: image.memoryMb,
    disks: [
      { name: 'disk0', sizeBytes: 64 * mib },
      { name: 'disk1', sizeBytes: mib },
    ],
    nics: [{ mac: `52:54:00:77:00:${vmid.toString(16).padStart(2, '0')}`, bridge: 'br0' }],
    boot: {
      kernel: assetName(image, image.kernel),
      initrd: assetName(image, image.initrd),
      append: probeAppend({ address: `10.77.0.${vmid}/24`, collector: `${collectorAddress}:${collectorPort}`, intervalMs: 100 }),
    },
  };
}

export function databaseConfig(image: EhrDbImage): GuestConfig {
  return {
    cores: 1,
    memoryMb: image.memoryMb,
    disks: [{ name: 'disk0', sizeBytes: image.rootBytes }],
    nics: [{ mac: '52:54:00:77:00:65', bridge: 'br0' }],
    boot: {
      kernel: assetName(image, image.kernel),
      initrd: assetName(image, image.initrd),
      append: ehrDbAppend({ address: `${databaseGuest.address}/24` }),
    },
  };
}

export type NewGuest = {
  vmid: number;
  name: string;
  node: string;
  config: GuestConfig;
  imports: Record<string, string>;
  intervalMs: number;
  /** Left out: started. */
  want?: WantedState;
};

/** Creates a guest on a node, with its replication interval set before it first runs. */
export async function createDrillGuest(store: DrillStore, guest: NewGuest): Promise<void> {
  await setReplicationInterval(store, guest.vmid, guest.intervalMs);
  const { intervalMs: _interval, node, want = 'started', ...rest } = guest;
  await performWork(store, node, { kind: 'guest-create', ...rest, want }, 300_000);
}

async function setReplicationInterval(store: DrillStore, vmid: number, intervalMs: number): Promise<void> {
  await changeValue<ReplicationJob>(store, keys.replicationJob(vmid), (now) => ({
    ...(now ?? { vmid, ...defaultReplicationJob }),
    intervalMs,
  }));
}

/** Waits until the guest's home says that it runs. */
export function waitRunning(store: DrillStore, vmid: number, generation: number, deadlineMs: number): Promise<HaStatus> {
  return waitUntil(`guest ${vmid} to run (generation ${generation})`, deadlineMs, async () => {
    const status = await readValue<HaStatus>(store, keys.haStatus(vmid));
    return status !== null && status.state === 'running' && status.generation >= generation ? status : null;
  });
}

/** Waits until each of `nodes` holds a copy of this generation taken at or after `sinceMs`; looks every `everyMs`. */
export function waitReplicated(
  store: DrillStore,
  vmid: number,
  generation: number,
  nodes: string[],
  deadlineMs: number,
  sinceMs = 0,
  everyMs?: number,
): Promise<ReplicaRecord[]> {
  const what = `a copy of guest ${vmid}, generation ${generation}, on ${nodes.join(' and ')}`;
  const look = async (): Promise<ReplicaRecord[] | null> => {
    const all = await listValues<ReplicaRecord>(store, `${prefixes.replicas}${vmid}/`);
    const found = all.filter(
      (copy) => nodes.includes(copy.node) && copy.point.generation === generation && copy.pointAtMs >= sinceMs,
    );
    return found.length === nodes.length ? found : null;
  };
  return waitUntil(what, deadlineMs, look, everyMs);
}

/** Waits until the collector has heard the probe guest of this generation say that its disks were found whole. */
export function waitHeard(
  collector: LineProcess,
  vmid: number,
  generation: number,
  deadlineMs = 180_000,
): Promise<WitnessReport> {
  return waitUntil(`guest ${vmid}, generation ${generation}, to be heard by the collector`, deadlineMs, async () => {
    const { guests } = await collector.ask<{ guests: WitnessReport[] }>('report', 10_000);
    const own = guests.find((guest) => guest.vmid === vmid);
    const run = own?.runs.at(-1);
    return own !== undefined && run?.generation === generation && run.consistent !== null ? own : null;
  });
}

/** Creates the witness on a node and waits until it runs. */
export async function startWitness(
  lab: string,
  store: DrillStore,
  image: ProbeImage,
  node: string,
  intervalMs: number,
): Promise<void> {
  const config = probeConfig(image, probeGuest.vmid, labContext(lab).clientAddress);
  await createDrillGuest(store, { vmid: probeGuest.vmid, name: 'witness', node, config, imports: {}, intervalMs });
  await waitRunning(store, probeGuest.vmid, 1, 120_000);
}
