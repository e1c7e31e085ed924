import type { GuestRecord } from '#core/guest/guest-record.ts';
import type { HaResource } from '#core/ha/records.ts';
import { newestPoint } from '#core/storage/manifest.ts';
import type { Cluster } from '#sim/cluster.ts';
import type { Host } from '#sim/host.ts';
import { keys } from '#sim/known-keys.ts';

/** The first thing that is not yet as it should be while the nodes `well` are well; null: all is well. */
export function findTrouble(cluster: Cluster, well: Host[]): string | null {
  if (!cluster.store.canCommit()) return 'L1 the store takes no commits';
  for (const host of well) {
    const kind = host.guard?.state.mode.kind ?? 'gone';
    if (kind !== 'serving') return `L5 the guard of ${host.name} is ${kind}`;
    if (!host.isMemberUp()) return `L1 the store's member on ${host.name} is away`;
    if (host.agent === null) return `L5 ${host.name} has no agent`;
  }
  for (const vmid of cluster.vmids) {
    const trouble = describeGuest(cluster, well, vmid);
    if (trouble !== null) return trouble;
  }
  return null;
}

function describeGuest(cluster: Cluster, well: Host[], vmid: number): string | null {
  const record = cluster.store.read<GuestRecord>(keys.guest(vmid))?.value;
  if (record === undefined) return null;
  const want = cluster.store.read<HaResource>(keys.haResource(vmid))?.value.want;
  const runsOn = cluster.hosts.find((host) => isExecutingOn(host, vmid));
  if (want !== 'started')
    return runsOn === undefined ? null : `L1 guest ${vmid} is wanted ${want} and executes on ${runsOn.name}`;
  if (runsOn !== undefined && well.includes(runsOn)) return null;
  if (canRun(cluster, well, record)) return `L1 guest ${vmid} is wanted started and does not run (home ${record.home})`;
  // Nobody could run it: then the reason has to be known.
  return cluster.checks.reasons.has(vmid) ? null : `L10 guest ${vmid} cannot run, and no reason was named`;
}

/** Whether its own disks or a copy that may be used lie on a node that is well and has room. */
export function canRun(cluster: Cluster, well: Host[], record: GuestRecord): boolean {
  const home = well.find((host) => host.name === record.home);
  if (home !== undefined && home.disk.manifest(record.vmid)?.role === 'primary') return true;
  return well.some((host) => cluster.checks.hasUsableCopy(host, record) && freeMemoryMb(cluster, host) >= record.config.memoryMb);
}

function freeMemoryMb(cluster: Cluster, host: Host): number {
  const homed = cluster.vmids
    .map((vmid) => cluster.store.read<GuestRecord>(keys.guest(vmid))?.value)
    .filter((record) => record?.home === host.name);
  return cluster.swarm.nodeMemoryMb - homed.length * 1_024;
}

export function isExecutingOn(host: Host, vmid: number): boolean {
  const qemu = host.qemus.get(vmid);
  return qemu !== undefined && host.isExecuting(qemu);
}

/** The first copy that lags although its guest runs and its node is well; null: replication is current. */
export function findStaleCopy(cluster: Cluster, well: Host[]): string | null {
  const { swarm } = cluster;
  const allowedMs = 2 * swarm.intervalMs + 4 * swarm.transferMs * (swarm.nodes - 1) * swarm.guests + 15_000;
  for (const vmid of cluster.vmids) {
    const source = well.find((host) => isExecutingOn(host, vmid));
    if (source === undefined) continue;
    for (const host of well) {
      if (host === source) continue;
      const manifest = host.disk.manifest(vmid);
      const newest = manifest === null ? null : newestPoint(manifest);
      const isOwn = manifest?.role === 'replica' && newest !== null && newest.source === source.name;
      const ageMs = isOwn ? source.wallMs() - newest.pointAtMs : null;
      if (ageMs === null) return `L6 guest ${vmid} has no point of its present home on ${host.name}`;
      if (Math.abs(ageMs) > allowedMs) return `L9 the copy of guest ${vmid} on ${host.name} is ${Math.round(ageMs)} ms old`;
    }
  }
  return null;
}
