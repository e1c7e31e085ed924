import { AppError, formatErrorChain, isAppError } from '#base/error.ts';
import { limits } from '#base/limits.ts';
import type { GuestAction } from '#core/guest/guest-plan.ts';
import type { GuestRecord, ReplicaPoint } from '#core/guest/guest-record.ts';
import { prefixes } from '#core/ha/keys.ts';
import type { HaResource, HaStatus, Permit } from '#core/ha/records.ts';
import type { AgentProcess } from '#sim/agent.ts';
import { keys } from '#sim/known-keys.ts';
import { tryOnce, writeOwned } from '#sim/owned-record.ts';
import type { Qemu } from '#sim/host.ts';
import type { Task } from '#sim/process.ts';

type Failure = { key: string; count: number; retryAtBootMs: number };

/** As programs/agent/guest-loop.ts: one action a guest at a time, the same reads, commits and effects in the same order. */
export class GuestLoop {
  private readonly agent: AgentProcess;
  private readonly attached = new Map<number, Qemu>();
  private readonly busy = new Set<number>();
  private readonly failures = new Map<number, Failure>();
  private readonly statuses = new Map<number, string>();

  constructor(agent: AgentProcess) {
    this.agent = agent;
  }

  running(): Qemu[] {
    return [...this.attached.values()];
  }

  *run(): Task<void> {
    const { agent } = this;
    yield* agent.sleep(agent.cluster.dice.between(50, 400));
    for (const qemu of agent.host.qemus.values()) {
      agent.cluster.say(`${agent.host.name} agent: takes over guest ${qemu.vmid}, generation ${qemu.generation}`);
      this.attach(qemu);
      if (agent.cluster.rules.endHalfStarted && !qemu.resumed) agent.run(this.endHalfStarted(qemu));
      agent.replication.startGuest(qemu);
    }
    for (;;) {
      if (agent.ready) {
        const known = agent.list<GuestRecord>(prefixes.guests).map((entry) => entry.value.vmid);
        for (const vmid of new Set([...known, ...this.attached.keys()])) this.launch(vmid);
      }
      yield* agent.bells.guests.next(agent, limits.agentRoundMs);
    }
  }

  /** Deletes a guest as requests.ts does. Raises AppError. */
  *deleteGuest(vmid: number): Task<void> {
    if (this.busy.has(vmid)) throw new AppError('busy', `guest ${vmid}: another action on it has not ended`);
    this.busy.add(vmid);
    try {
      yield* this.deleteIdle(vmid);
    } finally {
      this.busy.delete(vmid);
    }
  }

  *dropDeletedCopies(): Task<void> {
    const { agent } = this;
    for (const vmid of agent.host.disk.guests()) {
      if (agent.read(keys.guest(vmid)) !== null || agent.read(keys.guestTombstone(vmid)) === null) continue;
      const record = yield* agent.readNow(keys.guest(vmid));
      const tombstone = yield* agent.readNow(keys.guestTombstone(vmid));
      if (record !== null || tombstone === null) continue;
      agent.host.disk.remove(vmid);
      const own = yield* agent.readNow(keys.replica(vmid, agent.host.name));
      if (own === null) continue;
      const key = keys.replica(vmid, agent.host.name);
      yield* agent.commit([{ key, modRevision: own.modRevision }], [{ key, value: null }]);
    }
  }

  private *deleteIdle(vmid: number): Task<void> {
    const { agent } = this;
    const record = yield* agent.readNow<GuestRecord>(keys.guest(vmid));
    const resource = yield* agent.readNow<HaResource>(keys.haResource(vmid));
    if (record === null || record.value.home !== agent.host.name) throw new AppError('conflict', 'its home is elsewhere');
    if (this.attached.has(vmid)) throw new AppError('conflict', `guest ${vmid} runs here`);
    const outcome = yield* agent.commit(
      [
        { key: keys.guest(vmid), modRevision: record.modRevision },
        { key: keys.haResource(vmid), modRevision: resource?.modRevision ?? 0n },
      ],
      [
        { key: keys.guest(vmid), value: null },
        { key: keys.haResource(vmid), value: null },
        { key: keys.haStatus(vmid), value: null },
        { key: keys.guestTombstone(vmid), value: JSON.stringify({ vmid, generation: record.value.generation }) },
      ],
    );
    if (outcome.kind !== 'committed') throw new AppError('conflict', `guest ${vmid} was changed meanwhile`);
    agent.host.disk.remove(vmid);
  }

  /** As half-started.ts: its agent died before it let it run. */
  private *endHalfStarted(qemu: Qemu): Task<void> {
    const { host } = this.agent;
    yield* this.agent.sleep(20);
    while (host.groups.get(qemu.nodeEpoch)?.frozen === true) yield* this.agent.sleep(limits.agentRoundMs);
    if (!qemu.resumed) host.killQemu(qemu, 'an earlier agent never let it run');
  }

  private launch(vmid: number): void {
    if (this.busy.has(vmid)) return;
    this.busy.add(vmid);
    this.agent.start(this.step(vmid), (error) => {
      this.busy.delete(vmid);
      if (error !== null && !isAppError(error)) throw error;
    });
  }

  private *step(vmid: number): Task<void> {
    const { agent } = this;
    const record = agent.read<GuestRecord>(keys.guest(vmid))?.value ?? null;
    const manifest = agent.host.disk.manifest(vmid);
    const process = this.attached.get(vmid) ?? null;
    const action = agent.cluster.rules.planGuestAction({
      self: agent.host.name,
      epoch: agent.readEpoch(),
      record,
      want: agent.read<HaResource>(keys.haResource(vmid))?.value.want ?? null,
      running: process === null ? null : { generation: process.generation, nodeEpoch: process.nodeEpoch },
      copy: manifest === null ? null : { role: manifest.role, generation: manifest.generation },
    });
    if (action.kind === 'none') {
      const order = record?.home === agent.host.name ? (record.order ?? null) : null;
      if (order === null || order.nodeEpoch !== agent.readEpoch()) return;
      if (order.kind === 'run' && process?.resumed === true) yield* tryOnce(this.report(record, vmid, 'running', 'runs', 'ok'));
      if (order.kind === 'stop' && process === null) yield* tryOnce(this.report(record, vmid, 'stopped', 'stopped', 'ok'));
      return;
    }
    const failure = this.failures.get(vmid);
    const key = `${action.kind} ${record?.generation ?? 0} ${record?.order?.nodeEpoch ?? 0}`;
    if (failure?.key === key && agent.host.bootMs() < failure.retryAtBootMs) return;
    try {
      yield* this.act(vmid, record, action);
    } catch (error) {
      if (!isAppError(error)) throw error;
      const count = failure?.key === key ? failure.count + 1 : 1;
      const waitMs = Math.min(limits.guestRetryMs * 2 ** (count - 1), limits.guestRetryMaxMs);
      this.failures.set(vmid, { key, count, retryAtBootMs: agent.host.bootMs() + waitMs });
      agent.cluster.say(`${agent.host.name} agent: ${action.kind} of guest ${vmid} failed: ${formatErrorChain(error)}`);
      const now = this.attached.get(vmid);
      if (now !== undefined && now !== process) agent.host.killQemu(now, 'half started');
      yield* tryOnce(this.report(record, vmid, 'failed', 'failed'));
    }
  }

  private *act(vmid: number, record: GuestRecord | null, action: GuestAction): Task<void> {
    const { agent } = this;
    const { host } = agent;
    const say = (text: string) => agent.cluster.say(`${host.name} agent: guest ${vmid} ${text}: ${action.because}`);
    switch (action.kind) {
      case 'none':
        return;
      case 'refuse':
        return yield* this.report(record, vmid, 'failed', action.because);
      case 'kill': {
        say('is killed');
        yield* agent.sleep(agent.cluster.dice.between(5, 300));
        const process = this.attached.get(vmid);
        if (process !== undefined) host.killQemu(process, 'killed by the agent');
        return;
      }
      case 'shutdown': {
        say('is shut down');
        yield* agent.sleep(agent.cluster.dice.between(500, 8_000));
        const process = this.attached.get(vmid);
        if (process !== undefined) host.killQemu(process, 'shut down');
        return yield* this.report(record, vmid, 'stopped', action.because);
      }
      case 'demote':
        say('is demoted');
        yield* agent.sleep(agent.cluster.dice.between(5, 400));
        return host.disk.demote(vmid);
      case 'promote':
        if (record?.order?.promote) {
          say('is promoted');
          const done = yield* this.promoteOrDecline(record, record.order.promote);
          if (done) yield* this.performStart(record);
          else yield* this.report(record, vmid, 'waiting', 'the copy does not verify');
        }
        return;
      case 'start':
        if (record !== null) yield* this.performStart(record);
    }
  }

  private *performStart(record: GuestRecord): Task<void> {
    const { agent } = this;
    const { host, cluster } = agent;
    yield* this.report(record, record.vmid, 'starting', 'starting');
    host.disk.openPrimary(record.vmid, record.generation);
    yield* agent.sleep(cluster.dice.between(5, 100));
    const confirmedAtMs = cluster.engine.nowMs;
    const order = cluster.rules.confirmOrder ? yield* this.confirmOrder(record) : record.order;
    if (order === null) return;
    const qemu = yield* this.spawnQemu(record, order.nodeEpoch);
    this.attach(qemu);
    yield* agent.sleep(cluster.dice.between(5, 100));
    for (const target of agent.peers) if (!qemu.bitmaps.has(target)) qemu.bitmaps.set(target, new Set());
    if (!qemu.alive) throw new AppError('unavailable', `guest ${record.vmid}: QEMU is gone`);
    qemu.resumed = true;
    cluster.touch();
    cluster.checks.noteStart(host, qemu, confirmedAtMs);
    cluster.say(`guest ${qemu.vmid} runs on ${host.name}, generation ${qemu.generation}, epoch ${qemu.nodeEpoch}`);
    cluster.writeSoon(host, qemu);
    this.failures.delete(record.vmid);
    agent.replication.startGuest(qemu);
    yield* this.report(record, record.vmid, 'running', 'runs');
  }

  /** The process enters its epoch's group before it executes QEMU: without the group there is no start. */
  private *spawnQemu(record: GuestRecord, nodeEpoch: number): Task<Qemu> {
    const { host, cluster } = this.agent;
    const { dice, engine } = cluster;
    const group = host.groups.get(nodeEpoch);
    const { vmid, generation } = record;
    if (group === undefined && cluster.rules.epochGroups)
      throw new AppError('missing', `guest ${vmid}: no group of epoch ${nodeEpoch}`);
    if (host.qemus.get(vmid)?.alive === true) throw new AppError('conflict', `guest ${vmid}: a process of it runs already`);
    if (engine.nowMs < host.startsFailUntilMs) throw new AppError('unavailable', `guest ${vmid}: QEMU does not start`);
    const [bitmaps, cycles, bases] = [new Map(), new Map(), new Map()];
    const qemu: Qemu = { vmid, generation, nodeEpoch, alive: true, resumed: false, bitmaps, cycles, bases, onExit: [] };
    host.qemus.set(vmid, qemu);
    const slow = engine.nowMs < host.startsSlowUntilMs;
    yield* this.agent.sleep(slow ? dice.between(3_000, 14_000) : dice.between(100, 900));
    if (!qemu.alive) throw new AppError('unavailable', `guest ${vmid}: QEMU ended while it started`);
    // A frozen process answers nobody.
    while (host.groups.get(nodeEpoch)?.frozen === true && qemu.alive) yield* this.agent.sleep(200);
    if (!qemu.alive) throw new AppError('unavailable', `guest ${vmid}: QEMU was killed while it stood still`);
    return qemu;
  }

  private attach(qemu: Qemu): void {
    this.attached.set(qemu.vmid, qemu);
    const gone = () =>
      this.agent.deliver(() => {
        if (this.attached.get(qemu.vmid) === qemu) this.attached.delete(qemu.vmid);
        this.agent.replication.stopGuest(qemu.vmid);
        this.agent.bells.guests.ring();
      });
    if (qemu.alive) qemu.onExit.push(gone);
    else gone();
  }

  private *confirmOrder(seen: GuestRecord): Task<{ nodeEpoch: number } | null> {
    const { agent } = this;
    const record = yield* agent.readNow<GuestRecord>(keys.guest(seen.vmid));
    const permit = yield* agent.readNow<Permit>(keys.nodePermit(agent.host.name));
    const resource = yield* agent.readNow<HaResource>(keys.haResource(seen.vmid));
    const order = record?.value.order ?? null;
    if (record === null || order === null || permit === null || resource?.value.want !== 'started') return null;
    const holds =
      record.value.home === agent.host.name &&
      record.value.generation === seen.generation &&
      order.kind === 'run' &&
      permit.value.state === 'granted' &&
      permit.value.epoch === order.nodeEpoch &&
      agent.readEpoch() === order.nodeEpoch;
    return holds ? { nodeEpoch: order.nodeEpoch } : null;
  }

  private *promoteOrDecline(seen: GuestRecord, point: ReplicaPoint): Task<boolean> {
    const { agent } = this;
    yield* agent.sleep(agent.cluster.dice.between(20, 1_500));
    try {
      agent.host.disk.promote(seen.vmid, seen.generation, point);
      return true;
    } catch (error) {
      if (!isAppError(error, 'invalid', 'missing')) throw error;
      const because = formatErrorChain(error);
      const current = yield* agent.readNow<GuestRecord>(keys.guest(seen.vmid));
      const isStill = current?.value.home === agent.host.name && current.value.generation === seen.generation;
      if (current === null || !isStill) return false;
      const declined = { node: agent.host.name, point, lostAtMs: current.value.order?.lostAtMs ?? null, because };
      const all = [...(current.value.declined ?? []), declined].slice(-limits.declinedKept);
      const next: GuestRecord = { ...current.value, order: null, declined: all };
      const key = keys.guest(seen.vmid);
      yield* agent.commit([{ key, modRevision: current.modRevision }], [{ key, value: JSON.stringify(next) }]);
      agent.cluster.say(`${agent.host.name} agent: declines guest ${seen.vmid}: ${because}`);
      return false;
    }
  }

  private *report(
    record: GuestRecord | null,
    vmid: number,
    state: HaStatus['state'],
    because: string,
    result: 'ok' | null = null,
  ): Task<void> {
    const { agent } = this;
    const generation = record?.generation ?? 0;
    const nodeEpoch = record?.order?.nodeEpoch ?? 0;
    const end = result === null ? {} : { end: { orderId: record?.order?.id ?? 0, result } };
    const status = { vmid, node: agent.host.name, generation, nodeEpoch, state, because, promoted: null, ...end };
    const text = JSON.stringify(status);
    if (this.statuses.get(vmid) === text) return;
    yield* writeOwned(agent, keys.haStatus(vmid), { ...status, atMs: agent.host.wallMs(), qemuStartedAtMs: null });
    this.statuses.set(vmid, text);
  }
}
