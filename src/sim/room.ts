import type { GuestRecord } from '#core/guest/guest-record.ts';
import { compileRules } from '#core/ha/manager/compiled-rules.ts';
import { takesRoom, targetOf } from '#core/ha/manager/memory.ts';
import type { AgentRecord, HaMemory, HaResource } from '#core/ha/records.ts';
import { newestPoint } from '#core/storage/manifest.ts';
import type { Cluster } from '#sim/cluster.ts';
import type { Host } from '#sim/host.ts';
import { keys } from '#sim/known-keys.ts';

/**
 * Whether a guest that does not run surely could, on one of the nodes `well`: its own disks or a copy that may be used lie there, the node
 * receives guests, the rules allow it and the memory fits. In doubt false: this is what liveness is held against.
 */
export function canRun(cluster: Cluster, well: Host[], record: GuestRecord): boolean {
  return well.some((host) => couldTake(cluster, host, record));
}

function couldTake(cluster: Cluster, host: Host, record: GuestRecord): boolean {
  if (!receivesGuests(cluster, host, record.home) || !allows(cluster, host, record.vmid)) return false;
  const isHome = host.name === record.home && holdsOwnDisks(host, record);
  // It has its place there already, unless it waits for one.
  if (isHome && record.ha !== undefined && takesRoom(record.ha.state) && record.ha.state.kind !== 'awaiting-recovery')
    return true;
  if (freeMemoryMb(cluster, host, record.vmid) < record.config.memoryMb) return false;
  return isHome || (cluster.checks.hasUsableCopy(host, record) && isFreshEnough(cluster, host, record));
}

function holdsOwnDisks(host: Host, { vmid, generation }: GuestRecord): boolean {
  const manifest = host.disk.manifest(vmid);
  return manifest?.role === 'primary' && manifest.generation === generation;
}

function receivesGuests(cluster: Cluster, host: Host, home: string): boolean {
  const { name } = host;
  const memory = cluster.store.read<HaMemory>(keys.haMemory)?.value;
  const agent = cluster.store.read<AgentRecord>(keys.nodeAgent(name))?.value;
  const ends = agent !== undefined && agent.bootId === host.bootId && agent.mode !== 'active';
  if (ends || memory?.drains.includes(name) === true) return false;
  return name === home || memory?.flaps[name]?.quarantined !== true;
}

function allows(cluster: Cluster, host: Host, vmid: number): boolean {
  const names = cluster.hosts.map((entry) => entry.name);
  const { ranks, apart, together } = compileRules(cluster.people.rules(), names);
  const rank = ranks.get(String(vmid));
  if (rank !== undefined && !rank.has(host.name)) return false;
  // Where its companions may go matters as well; then nothing is sure.
  if (together.has(String(vmid)) && (apart.size > 0 || ranks.size > 0)) return false;
  return !(apart.get(String(vmid)) ?? []).some((rival) => isOn(cluster, Number(rival), host.name));
}

function isOn(cluster: Cluster, vmid: number, node: string): boolean {
  const { ha, home } = cluster.store.read<GuestRecord>(keys.guest(vmid))?.value ?? {};
  if (home === node) return true;
  return ha !== undefined && (ha.node === node || targetOf(ha.state) === node);
}

function isFreshEnough(cluster: Cluster, host: Host, { vmid }: GuestRecord): boolean {
  const limitMs = cluster.store.read<HaResource>(keys.haResource(vmid))?.value.maxDataAgeMs ?? null;
  if (limitMs === null) return true;
  const manifest = host.disk.manifest(vmid);
  const pointAtMs = manifest === null ? null : (newestPoint(manifest)?.pointAtMs ?? null);
  // Wall clocks step, and the point carries that of an earlier home: an age is sure only when it is far below the limit by all of them.
  return pointAtMs !== null && cluster.hosts.every((other) => Math.abs(other.wallMs() - pointAtMs) < limitMs / 10);
}

/** What is left when all that is there or may come has its room. */
function freeMemoryMb(cluster: Cluster, host: Host, vmid: number): number {
  const others = cluster.vmids.filter((other) => other !== vmid && isOn(cluster, other, host.name));
  const taken = others.map((other) => cluster.store.read<GuestRecord>(keys.guest(other))?.value.config.memoryMb ?? 0);
  return cluster.swarm.nodeMemoryMb - taken.reduce((sum, memoryMb) => sum + memoryMb, 0);
}
