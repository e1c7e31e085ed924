import { AppError, formatErrorChain, isAppError } from '#base/error.ts';
import { limits } from '#base/limits.ts';
import type { GuestAction, GuestPlanFacts } from '#core/guest/guest-plan.ts';
import type { GuestRecord, ReplicaPoint } from '#core/guest/guest-record.ts';
import { nextStatus, planStatus, type StatusChange, toldBegin, toldEnd } from '#core/guest/order-end.ts';
import { noteFailed, noteStarted, orderKey, type OrderTries, planRetry, triesUnder } from '#core/guest/order-tries.ts';
import type { ProcessState } from '#core/guest/process-state.ts';
import { keys, prefixes } from '#core/ha/keys.ts';
import type { HaResource, HaStatus, Permit } from '#core/ha/records.ts';
import type { AgentProcess } from '#sim/agent.ts';
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
  private readonly tries = new Map<number, OrderTries>();
  private readonly statuses = new Map<number, HaStatus>();

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
    const process = this.attached.get(vmid) ?? null;
    const facts = this.readFacts(vmid);
    const { record } = facts;
    const action = agent.cluster.rules.planGuestAction(facts);
    if (record?.home !== agent.host.name) this.statuses.delete(vmid);
    const failure = this.failures.get(vmid);
    const key = `${action.kind} ${record?.generation ?? 0} ${record?.order?.nodeEpoch ?? 0}`;
    if (failure?.key === key && agent.host.bootMs() < failure.retryAtBootMs) return;
    try {
      const status = planStatus(facts, action, this.triesOf(vmid), agent.host.bootMs());
      if (record !== null && status !== null) yield* this.tell(record, status);
      yield* this.act(vmid, record, action);
      this.failures.delete(vmid);
    } catch (error) {
      if (!isAppError(error)) throw error;
      const count = failure?.key === key ? failure.count + 1 : 1;
      const waitMs = Math.min(limits.guestRetryMs * 2 ** (count - 1), limits.guestRetryMaxMs);
      this.failures.set(vmid, { key, count, retryAtBootMs: agent.host.bootMs() + waitMs });
      agent.cluster.say(`${agent.host.name} agent: ${action.kind} of guest ${vmid} failed: ${formatErrorChain(error)}`);
      const now = this.attached.get(vmid);
      if (now !== undefined && now !== process) agent.host.killQemu(now, 'half started');
      if (record?.home !== agent.host.name || action.kind === 'none') return;
      yield* tryOnce(this.tell(record, { state: 'failed', because: `${action.kind} failed`, end: null }));
    }
  }

  private readFacts(vmid: number): GuestPlanFacts {
    const { agent } = this;
    const record = agent.read<GuestRecord>(keys.guest(vmid))?.value ?? null;
    const resource = agent.read<HaResource>(keys.haResource(vmid))?.value ?? null;
    const manifest = agent.host.disk.manifest(vmid);
    const process = this.attached.get(vmid) ?? null;
    const tries = triesUnder(this.triesOf(vmid), record === null ? '' : orderKey(record));
    this.tries.set(vmid, tries);
    return {
      self: agent.host.name,
      epoch: agent.readEpoch(),
      record,
      want: resource?.want ?? null,
      process:
        process === null ? null : { generation: process.generation, nodeEpoch: process.nodeEpoch, state: this.stateOf(process) },
      copy:
        manifest === null ? null : { role: manifest.role, generation: manifest.generation, handedOver: null, promotedFrom: null },
      began: toldBegin(record, agent.read<HaStatus>(keys.haStatus(vmid))?.value ?? null),
      ended: toldEnd(agent.host.name, record, this.told(vmid)),
      preCopied: false,
      // Moves are not simulated, so a guest whose starts fail for a while has nowhere else to go: it is tried here until they succeed.
      retry: planRetry(tries, record?.order?.kind === 'move' ? 0 : Number.POSITIVE_INFINITY, agent.host.bootMs()),
      ending: null,
    };
  }

  /** A frozen process answers nobody. */
  private stateOf(qemu: Qemu): ProcessState {
    const { host, cluster } = this.agent;
    if (host.groups.get(qemu.nodeEpoch)?.frozen === true) return 'unknown';
    return qemu.resumed || !cluster.rules.endHalfStarted ? 'running' : 'prelaunch';
  }

  private triesOf(vmid: number): OrderTries {
    return this.tries.get(vmid) ?? triesUnder(null, '');
  }

  private told(vmid: number): HaStatus | null {
    return this.statuses.get(vmid) ?? this.agent.read<HaStatus>(keys.haStatus(vmid))?.value ?? null;
  }

  private *act(vmid: number, record: GuestRecord | null, action: GuestAction): Task<void> {
    const { agent } = this;
    const { host } = agent;
    const say = (text: string) => agent.cluster.say(`${host.name} agent: guest ${vmid} ${text}: ${action.because}`);
    switch (action.kind) {
      case 'none':
        return;
      case 'refuse':
        return;
      case 'end':
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
        return;
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
          else yield* this.tell(record, { state: 'waiting', because: 'the copy does not verify', end: null });
        }
        return;
      case 'start':
        if (record !== null) yield* this.performStart(record);
        return;
      case 'pre-copy':
      case 'halt':
      case 'open':
      case 'hand-over':
      case 'give-up':
      case 'revive':
        this.tries.set(vmid, noteFailed(this.triesOf(vmid), `${action.kind} is not simulated`, host.bootMs()));
        return;
    }
  }

  private *performStart(record: GuestRecord): Task<void> {
    const { agent } = this;
    const { host, cluster } = agent;
    yield* this.tell(record, { state: 'starting', because: 'starting', end: null });
    host.disk.openPrimary(record.vmid, record.generation);
    yield* agent.sleep(cluster.dice.between(5, 100));
    const confirmedAtMs = cluster.engine.nowMs;
    const order = cluster.rules.confirmOrder ? yield* this.confirmOrder(record) : record.order;
    if (order === null) return;
    const qemu = yield* this.trySpawn(record, order.nodeEpoch);
    if (qemu === null) return;
    this.attach(qemu);
    yield* agent.sleep(cluster.dice.between(5, 100));
    for (const target of agent.peers) if (!qemu.bitmaps.has(target)) qemu.bitmaps.set(target, new Set());
    if (!qemu.alive) throw new AppError('unavailable', `guest ${record.vmid}: QEMU is gone`);
    qemu.resumed = true;
    cluster.touch();
    cluster.checks.noteStart(host, qemu, confirmedAtMs);
    cluster.say(`guest ${qemu.vmid} runs on ${host.name}, generation ${qemu.generation}, epoch ${qemu.nodeEpoch}`);
    cluster.writeSoon(host, qemu);
    this.tries.set(record.vmid, noteStarted(this.triesOf(record.vmid), host.bootMs()));
    agent.replication.startGuest(qemu);
    const started = { qemuStartedAtMs: null, promoted: null };
    yield* this.tell(record, { state: 'running', because: 'runs', end: null, started });
    agent.bells.guests.ring();
  }

  /** null: it failed, and that counts against the order unless its epoch was taken away meanwhile. */
  private *trySpawn(record: GuestRecord, nodeEpoch: number): Task<Qemu | null> {
    try {
      return yield* this.spawnQemu(record, nodeEpoch);
    } catch (error) {
      if (!isAppError(error) || this.agent.readEpoch() !== nodeEpoch) throw error;
      const because = formatErrorChain(error);
      this.agent.cluster.say(`${this.agent.host.name} agent: start of guest ${record.vmid} failed: ${because}`);
      this.tries.set(record.vmid, noteFailed(this.triesOf(record.vmid), because, this.agent.host.bootMs()));
      return null;
    }
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
        this.tries.set(qemu.vmid, { ...this.triesOf(qemu.vmid), startedAtBootMs: null });
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

  private *tell(record: GuestRecord, change: StatusChange): Task<void> {
    const { agent } = this;
    const before = this.told(record.vmid);
    const status: HaStatus = { ...nextStatus(agent.host.name, record, before, change), atMs: agent.host.wallMs() };
    if (before !== null && JSON.stringify({ ...status, atMs: before.atMs }) === JSON.stringify(before)) return;
    yield* writeOwned(agent, keys.haStatus(record.vmid), status);
    this.statuses.set(record.vmid, status);
  }
}
