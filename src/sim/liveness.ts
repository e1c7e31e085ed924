import type { GuestRecord } from '#core/guest/guest-record.ts';
import { sortSnapshot } from '#core/ha/cluster-snapshot.ts';
import { deriveManagedGuest } from '#core/ha/cluster-view-ha.ts';
import type { GuestEntry } from '#core/ha/manager/memory.ts';
import type { AgentRecord, HaCommand, HaMemory, HaResource, HaStatus } from '#core/ha/records.ts';
import { prefixes } from '#core/ha/keys.ts';
import { newestPoint } from '#core/storage/manifest.ts';
import type { Cluster } from '#sim/cluster.ts';
import type { Host } from '#sim/host.ts';
import { keys } from '#sim/known-keys.ts';
import { canRun } from '#sim/room.ts';

const nobody: ReadonlySet<number> = new Set();

/** The first thing that is not yet as it should be while the nodes `well` are well; null: all is well. Guests in `except` are not looked at. */
export function findTrouble(cluster: Cluster, well: Host[], except: ReadonlySet<number> = nobody): string | null {
  if (!cluster.store.canCommit()) return 'L1 the store takes no commits';
  const expected = isDisarmed(cluster) ? 'disarmed' : 'serving';
  for (const host of well) {
    const kind = host.guard?.state.mode.kind ?? 'gone';
    if (kind !== expected) return `L5 the guard of ${host.name} is ${kind}`;
    if (!host.isMemberUp()) return `L1 the store's member on ${host.name} is away`;
    if (host.agent === null) return `L5 ${host.name} has no agent`;
  }
  for (const vmid of cluster.vmids) {
    const trouble = except.has(vmid) ? null : describeGuest(cluster, well, vmid);
    if (trouble !== null) return trouble;
  }
  return findUnanswered(cluster);
}

/** The disarm is in force: nothing is guarded, started, stopped or moved. */
export function isDisarmed(cluster: Cluster): boolean {
  const disarm = cluster.store.read<HaMemory>(keys.haMemory)?.value.disarm ?? null;
  return disarm !== null && disarm.stage !== 'waiting';
}

function describeGuest(cluster: Cluster, well: Host[], vmid: number): string | null {
  const record = cluster.store.read<GuestRecord>(keys.guest(vmid))?.value;
  if (record === undefined) return null;
  const want = cluster.store.read<HaResource>(keys.haResource(vmid))?.value.want;
  const runsOn = cluster.hosts.find((host) => isExecutingOn(host, vmid));
  // The stated hold: nothing is started, stopped or moved.
  if (isDisarmed(cluster)) return null;
  if (want === 'ignored') return null;
  if (record.ha === undefined) return `L5 guest ${vmid} is wanted ${want} and not managed`;
  // Also where somebody was to be left behind, and whatever is wanted of it.
  if (isWaitingForAnOperator(cluster, well, record))
    return isTold(cluster, record) ? null : `L5 guest ${vmid} is ${record.ha.state.kind} and nobody is told`;
  if (want !== 'started') {
    if (runsOn !== undefined) return `L1 guest ${vmid} is wanted ${want} and executes on ${runsOn.name}`;
    if (isHeldByItsNode(cluster, well, record)) return null;
    return record.ha.state.kind === 'failed' ? null : describeUnsettled(vmid, record.ha);
  }
  if (runsOn !== undefined) return describeUnsettled(vmid, record.ha);
  if (record.ha.state.kind === 'failed' || isHeldByItsNode(cluster, well, record))
    return isTold(cluster, record) ? null : `L5 guest ${vmid} is ${record.ha.state.kind} and nobody is told`;
  const name = isHeld(cluster) ? 'S15' : 'L1';
  if (endsWithItsNode(cluster, record)) return null;
  if (canRun(cluster, well, record)) return `${name} guest ${vmid} is wanted started and does not run (${describePlace(record)})`;
  // Told in its own state, for as long as the others may take.
  if ('waitsFor' in record.ha.state && (record.ha.state.waitsFor ?? []).length > 0) return null;
  // Nobody could run it: then the reason has to be known.
  return cluster.checks.reasons.has(vmid) ? null : `L10 guest ${vmid} cannot run, and no reason was named`;
}

function describePlace({ home, generation, ha, order }: GuestRecord): string {
  const ordered = order === null ? 'no order' : `ordered to ${order.kind} under epoch ${order.nodeEpoch}`;
  return `${ha?.state.kind} on ${ha?.node}, home ${home} at generation ${generation}, ${ordered}; ${ha?.because}`;
}

/** A drain, a disarm that waits, or a node that is about to end keeps guests from somewhere. */
function isHeld(cluster: Cluster): boolean {
  const memory = cluster.store.read<HaMemory>(keys.haMemory)?.value;
  return memory !== undefined && (memory.drains.length > 0 || memory.disarm !== null);
}

/** Frozen, because its node is to come back with it: that is what people asked for. */
function isHeldByItsNode(cluster: Cluster, well: Host[], { home, ha }: GuestRecord): boolean {
  const host = cluster.host(home);
  const agent = cluster.store.read<AgentRecord>(keys.nodeAgent(home))?.value;
  const isAway = !host.powered || !well.includes(host);
  return ha?.state.kind === 'frozen' && agent?.mode === 'restart' && (isAway || agent.bootId === host.bootId);
}

/** Its node is about to end and nobody took the guest from it: it says so, and the guest comes back with the node or when it stays. */
function endsWithItsNode(cluster: Cluster, { vmid, home }: GuestRecord): boolean {
  const { store } = cluster;
  const agent = store.read<AgentRecord>(keys.nodeAgent(home))?.value;
  const status = store.read<HaStatus>(keys.haStatus(vmid))?.value;
  if (agent === undefined || agent.bootId !== cluster.host(home).bootId) return false;
  return agent.mode === 'restart' || (agent.mode === 'shutdown' && status?.node === home && status.state === 'stopped');
}

/** Its home fell silent while it was disarmed: nothing guards it, so only somebody who knows that it is off can say so. */
function isWaitingForAnOperator({ store }: Cluster, well: Host[], { home, ha }: GuestRecord): boolean {
  const isUnguarded = store.read<HaMemory>(keys.haMemory)?.value.unguarded.includes(home) === true;
  const isFenced = ha?.state.kind === 'awaiting-fence';
  return isFenced && isUnguarded && !well.some(({ name }) => name === home);
}

/** A state that only leads to another one. */
function describeUnsettled(vmid: number, { state, because }: GuestEntry): string | null {
  switch (state.kind) {
    case 'active':
      return state.seenRunning ? null : `L5 guest ${vmid} is active and was not seen running (${because})`;
    case 'inactive':
    case 'failed':
    case 'awaiting-recovery':
      return null;
    case 'frozen':
    case 'start-requested':
    case 'start-requested-elsewhere':
    case 'stop-requested':
    case 'moving-live':
    case 'moving-cold':
    case 'awaiting-fence':
      return `L5 guest ${vmid} is ${state.kind} (${because})`;
  }
}

/** The state of the guest is shown to people as one that should have been left. */
function isTold(cluster: Cluster, record: GuestRecord): boolean {
  // By the clock of somebody who asks an hour later, so that steps of wall clocks do not matter.
  const nowMs = (record.ha?.sinceMs ?? 0) + 3_600_000;
  const { store } = cluster;
  const entries = [keys.haMemory, keys.guest(record.vmid)].flatMap((key) => store.read(key) ?? []);
  const snapshot = sortSnapshot(entries.map(({ key, text, modRevision }) => ({ key, value: text, modRevision })));
  const leftMs = deriveManagedGuest(record, snapshot, nowMs)?.leftMs ?? null;
  return leftMs !== null && leftMs <= 0;
}

/** S4: a command that lies there while a manager leads is taken. */
function findUnanswered(cluster: Cluster): string | null {
  for (const { key, value } of cluster.store.entries.values()) {
    if (key.startsWith(prefixes.haCommands) && (value as HaCommand).state === 'waiting')
      return `S4 the command ${(value as HaCommand).id} is not answered`;
  }
  return null;
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
