import { AppError, formatErrorChain, isAppError } from '#base/error.ts';
import { limits } from '#base/limits.ts';
import type { GuestOrder, GuestRecord, ReplicaPoint } from '#core/guest/guest-record.ts';
import { noteStarted } from '#core/guest/order-tries.ts';
import type { HaResource, HaStatus, Permit } from '#core/ha/records.ts';
import { baseOfWrites } from '#core/storage/manifest.ts';
import type { AgentProcess } from '#sim/agent.ts';
import { type Attempt, done, skipped } from '#sim/attempt.ts';
import type { GuestMemory } from '#sim/guest-loop.ts';
import type { Qemu } from '#sim/host.ts';
import { keys } from '#sim/known-keys.ts';
import type { Task } from '#sim/process.ts';

type Promoted = NonNullable<HaStatus['promoted']>;

/** As programs/agent/guest-start.ts: tell, confirm, open the disks, spawn, arm the bitmaps, let it run. Raises AppError. */
export function* startGuest(
  agent: AgentProcess,
  memory: GuestMemory,
  record: GuestRecord,
  promoted: Promoted | null,
): Task<Attempt> {
  const { host, cluster } = agent;
  const { desk } = agent.guests;
  if (cluster.rules.tellsTruth) yield* desk.tell(record, { state: 'starting', because: 'starting', end: null });
  else
    yield* desk.tell(record, {
      state: 'running',
      because: 'runs',
      end: null,
      started: { qemuStartedAtMs: host.wallMs(), promoted },
    });
  const confirmedAtMs = cluster.engine.nowMs;
  const isWanted = !cluster.rules.confirmOrder || (yield* isWantedStarted(agent, record.vmid));
  const nodeEpoch = cluster.rules.confirmOrder ? yield* confirmOrder(agent, record, ['run']) : (record.order?.nodeEpoch ?? null);
  if (nodeEpoch === null || !isWanted || agent.nodeEnd.ending() !== null) return skipped;
  yield* openDisks(agent, record);
  let qemuStartedAtMs: number;
  try {
    const qemu = yield* spawnQemu(agent, record, nodeEpoch);
    qemuStartedAtMs = host.wallMs();
    agent.guests.attach(qemu);
    yield* armBitmaps(agent, qemu);
    qemu.run = 'running';
    memory.state = 'running';
    memory.tries = noteStarted(memory.tries, host.bootMs());
    cluster.touch();
    cluster.checks.noteStart(host, qemu, confirmedAtMs);
    cluster.say(`guest ${qemu.vmid} runs on ${host.name}, generation ${qemu.generation}, epoch ${qemu.nodeEpoch}`);
    cluster.writeSoon(host, qemu);
    agent.replication.startGuest(qemu);
  } catch (error) {
    return abandon(agent, memory, nodeEpoch, error);
  }
  yield* desk.tell(record, { state: 'running', because: 'runs', end: null, started: { qemuStartedAtMs, promoted } });
  return done;
}

/** Opens the disks in a QEMU whose CPUs never run. Raises AppError. */
export function* openGuest(agent: AgentProcess, memory: GuestMemory, record: GuestRecord): Task<Attempt> {
  const nodeEpoch = yield* confirmOrder(agent, record, ['move', 'run']);
  if (nodeEpoch === null) return skipped;
  yield* openDisks(agent, record);
  try {
    const qemu = yield* spawnQemu(agent, record, nodeEpoch);
    agent.guests.attach(qemu);
    yield* armBitmaps(agent, qemu);
    memory.state = 'prelaunch';
    return done;
  } catch (error) {
    return abandon(agent, memory, nodeEpoch, error);
  }
}

/** Without its disks no other attempt can do better, and that is told at once. Raises AppError. */
function* openDisks(agent: AgentProcess, record: GuestRecord): Task<void> {
  try {
    agent.host.disk.openPrimary(record.vmid, record.generation);
  } catch (error) {
    if (!isAppError(error, 'missing')) throw error;
    yield* agent.guests.desk.tell(record, { state: 'failed', because: formatErrorChain(error), end: 'broken' });
    throw error;
  }
}

/** Promotes the copy here, or declines it in the record when it is unfit. Raises AppError. */
export function* promoteGuest(agent: AgentProcess, memory: GuestMemory, record: GuestRecord): Task<Attempt> {
  const { order } = record;
  if (order === null || order.promote === null) return skipped;
  const promoted = yield* promoteOrDecline(agent, record, order.promote);
  if (promoted === null) {
    yield* agent.guests.desk.tell(record, { state: 'waiting', because: 'the copy does not verify', end: null });
    return done;
  }
  return order.kind === 'run' && agent.nodeEnd.ending() === null ? yield* startGuest(agent, memory, record, promoted) : done;
}

/** A QEMU that was spawned and then failed on the way goes. Raises the error when the epoch was taken away meanwhile. */
function abandon(agent: AgentProcess, memory: GuestMemory, nodeEpoch: number, error: unknown): Attempt {
  if (!isAppError(error)) throw error;
  memory.isEnding = true;
  if (memory.process !== null) agent.host.killQemu(memory.process, 'half started');
  if (agent.readEpoch() !== nodeEpoch) throw error;
  return { kind: 'failed', error };
}

function* armBitmaps(agent: AgentProcess, qemu: Qemu): Task<void> {
  yield* agent.sleep(agent.cluster.dice.between(5, 100));
  const manifest = agent.host.disk.manifest(qemu.vmid);
  const base = manifest && baseOfWrites(manifest);
  for (const target of agent.peers) {
    if (qemu.bitmaps.has(target)) continue;
    qemu.bitmaps.set(target, new Set());
    // Targets that hold the point which was promoted here need only what the guest writes from now on.
    if (base !== null) qemu.bases.set(target, { base: { generation: base.generation, seq: base.seq }, pending: null });
  }
  if (!qemu.alive) throw new AppError('unavailable', `guest ${qemu.vmid}: QEMU is gone`);
}

/** The process enters its epoch's group before it executes QEMU: without the group there is no start. */
function* spawnQemu(agent: AgentProcess, record: GuestRecord, nodeEpoch: number): Task<Qemu> {
  const { host, cluster } = agent;
  const { dice, engine } = cluster;
  const { vmid, generation } = record;
  yield* agent.sleep(dice.between(1, 20));
  const group = host.groups.get(nodeEpoch);
  if (group === undefined && cluster.rules.epochGroups)
    throw new AppError('missing', `guest ${vmid}: no group of epoch ${nodeEpoch}`);
  if (host.qemus.get(vmid)?.alive === true) throw new AppError('conflict', `guest ${vmid}: a process of it runs already`);
  if (host.failsToStart(vmid)) throw new AppError('unavailable', `guest ${vmid}: QEMU does not start`);
  const qemu: Qemu = {
    vmid,
    generation,
    nodeEpoch,
    alive: true,
    run: 'prelaunch',
    powersDown: false,
    bitmaps: new Map(),
    cycles: new Map(),
    bases: new Map(),
    onExit: [],
  };
  host.qemus.set(vmid, qemu);
  const slow = engine.nowMs < host.startsSlowUntilMs;
  yield* agent.sleep(slow ? dice.between(3_000, 14_000) : dice.between(100, 900));
  if (!qemu.alive) throw new AppError('unavailable', `guest ${vmid}: QEMU ended while it started`);
  // A frozen process answers nobody.
  const untilBootMs = host.bootMs() + limits.qemuStartMs;
  while (!host.isResponsive(qemu) && qemu.alive && host.bootMs() < untilBootMs) yield* agent.sleep(200);
  if (qemu.alive && host.isResponsive(qemu)) return qemu;
  host.killQemu(qemu, 'it does not answer while it starts');
  throw new AppError('unavailable', `guest ${vmid}: QEMU does not answer while it starts`);
}

function* isWantedStarted(agent: AgentProcess, vmid: number): Task<boolean> {
  return (yield* agent.readNow<HaResource>(keys.haResource(vmid)))?.value.want === 'started';
}

/** The last look before a start. Returns the epoch when the order that was seen still holds. */
function* confirmOrder(agent: AgentProcess, seen: GuestRecord, kinds: readonly GuestOrder['kind'][]): Task<number | null> {
  const self = agent.host.name;
  const record = yield* agent.readNow<GuestRecord>(keys.guest(seen.vmid));
  const permit = yield* agent.readNow<Permit>(keys.nodePermit(self));
  const order = record?.value.order ?? null;
  if (record === null || order === null || permit === null || seen.order === null) return null;
  const holds =
    record.value.home === self &&
    record.value.generation === seen.generation &&
    order.id === seen.order.id &&
    order.kind === seen.order.kind &&
    kinds.includes(order.kind) &&
    permit.value.state === 'granted' &&
    permit.value.epoch === order.nodeEpoch &&
    agent.readEpoch() === order.nodeEpoch;
  return holds ? order.nodeEpoch : null;
}

/** null: the copy is unfit, and this node has declined it in the record, unless somebody moved first. */
function* promoteOrDecline(agent: AgentProcess, seen: GuestRecord, point: ReplicaPoint): Task<Promoted | null> {
  const self = agent.host.name;
  yield* agent.sleep(agent.cluster.dice.between(20, 1_500));
  try {
    const found = agent.host.disk.promote(seen.vmid, seen.generation, point);
    return { point: { generation: found.generation, seq: found.seq }, pointAtMs: found.pointAtMs };
  } catch (error) {
    if (!isAppError(error, 'invalid', 'missing', 'conflict')) throw error;
    const because = formatErrorChain(error);
    const current = yield* agent.readNow<GuestRecord>(keys.guest(seen.vmid));
    const isStill =
      current?.value.home === self && current.value.generation === seen.generation && current.value.order?.id === seen.order?.id;
    if (current === null || !isStill) return null;
    const declined = { node: self, point, lostAtMs: current.value.order?.lostAtMs ?? null, because };
    const all = [...(current.value.declined ?? []), declined].slice(-limits.declinedKept);
    const next: GuestRecord = { ...current.value, order: null, declined: all };
    const key = keys.guest(seen.vmid);
    yield* agent.commit([{ key, modRevision: current.modRevision }], [{ key, value: JSON.stringify(next) }]);
    agent.cluster.say(`${self} agent: declines guest ${seen.vmid}: ${because}`);
    return null;
  }
}
