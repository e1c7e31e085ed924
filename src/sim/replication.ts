import { AppError, formatErrorChain, isAppError } from '#base/error.ts';
import { limits } from '#base/limits.ts';
import { comparePoints, type ReplicaPoint } from '#core/guest/guest-record.ts';
import type { ReplicaRecord } from '#core/replica/records.ts';
import { noteFailure, noteReconnect, noteSuccess, planNextCycle, type TargetSchedule } from '#core/replica/schedule.ts';
import { planSend, type BitmapBasis } from '#core/replica/send-plan.ts';
import { describeReplica, type HandedPoint, type Manifest } from '#core/storage/manifest.ts';
import type { AgentProcess } from '#sim/agent.ts';
import { keys } from '#sim/known-keys.ts';
import { tryOnce, writeOwned } from '#sim/owned-record.ts';
import { blockCount, diskSize, type Image } from '#sim/disk.ts';
import type { Qemu } from '#sim/host.ts';
import { type Outcome, SimBell, type Task, wait } from '#sim/process.ts';
import { callReceiver, type Line } from '#sim/receiver.ts';

type Waiter = (outcome: Outcome<void>) => void;
type Target = { schedule: TargetSchedule; waiters: Waiter[] };
type Cycles = { qemu: Qemu; over: boolean; ended: boolean; bell: SimBell; targets: Map<string, Target> };

/** Where the last state of a guest has arrived; as programs/replication/last-point.ts. */
export type LastCopies = { arrived: HandedPoint | null; failed: string[] };

/** Of a guest that stands still: the point that others got already, and until when this one may take. */
type Last = { point: ReplicaPoint | null; untilBootMs: number };

type Sent = { point: ReplicaPoint; pointAtMs: number; pointBootMs: number; lastCycle: ReplicaRecord['lastCycle'] };

/** Both directions of one node's replication, as in programs/replication, at the level of points and blocks. */
export class Replication {
  private readonly agent: AgentProcess;
  private readonly guests = new Map<number, Cycles>();
  private readonly told = new Map<number, string>();
  private readonly toldOf = new Map<number, Manifest>();

  constructor(agent: AgentProcess) {
    this.agent = agent;
  }

  startGuest(qemu: Qemu): void {
    if (this.guests.get(qemu.vmid)?.qemu === qemu) return;
    this.stopGuest(qemu.vmid);
    const cycles = startCycles(qemu);
    this.guests.set(qemu.vmid, cycles);
    this.agent.run(this.runCycles(cycles));
  }

  stopGuest(vmid: number): void {
    const cycles = this.guests.get(vmid);
    if (cycles === undefined) return;
    cycles.over = true;
    cycles.bell.ring();
    this.guests.delete(vmid);
  }

  /** Ends the cycles and returns when nothing is under way any more. */
  *stopAndWait(vmid: number): Task<void> {
    const cycles = this.guests.get(vmid);
    this.stopGuest(vmid);
    while (cycles?.ended === false) yield* this.agent.sleep(20);
  }

  /** A cycle now. Raises AppError missing when the guest does not run here, or the cycle's error. */
  *syncNow(vmid: number, node: string): Task<void> {
    const cycles = this.guests.get(vmid);
    if (cycles === undefined) throw new AppError('missing', `replicate guest ${vmid} now: it does not run on this node`);
    const target = targetOf(cycles, node);
    target.schedule = { ...target.schedule, asked: true };
    yield* wait<void>((resume) => {
      target.waiters.push(resume);
      cycles.bell.ring();
    });
  }

  /** Sends the state of a guest that stands still to one node after the other, all under the same point. Raises AppError. */
  *sendLast(qemu: Qemu, targets: string[] | null): Task<LastCopies> {
    const { agent } = this;
    yield* this.stopAndWait(qemu.vmid);
    const cycles = startCycles(qemu);
    for (const target of qemu.cycles.keys()) this.settle(qemu, target, false);
    const peers = agent.peers.filter((peer) => targets?.includes(peer) ?? true);
    if (!agent.cluster.rules.sendsLast) return this.lastSent(qemu, peers);
    const failed: string[] = [];
    const copiedTo: string[] = [];
    let first: Sent | null = null;
    for (const peer of peers) {
      try {
        const untilBootMs = first === null ? Number.POSITIVE_INFINITY : agent.host.bootMs() + limits.furtherCopyMs;
        const sent: Sent = yield* this.send(cycles, peer, { point: first?.point ?? null, untilBootMs });
        first ??= sent;
        copiedTo.push(peer);
      } catch (error) {
        if (!isAppError(error)) throw error;
        failed.push(`${peer}: ${formatErrorChain(error)}`);
      }
    }
    if (first === null) return { arrived: null, failed };
    const { point, pointAtMs, lastCycle } = first;
    return { arrived: { point, pointAtMs, lastCycle, configSha256: '', source: agent.host.name, copiedTo }, failed };
  }

  /** What was sent while the guest ran, taken for its last state: a broken rule. */
  private lastSent(qemu: Qemu, peers: string[]): LastCopies {
    const copiedTo = peers.slice(0, 1);
    const point = qemu.bases.get(copiedTo[0] ?? '')?.base ?? null;
    if (point === null) return { arrived: null, failed: ['nothing was sent'] };
    const lastCycle = { kind: 'delta', bytes: 0, tookMs: 0, pausedMs: 0 } as const;
    const { host } = this.agent;
    return { arrived: { point, pointAtMs: host.wallMs(), lastCycle, configSha256: '', source: host.name, copiedTo }, failed: [] };
  }

  notePeerBack(node: string): void {
    for (const { targets, bell } of this.guests.values()) {
      const target = targets.get(node);
      if (target !== undefined) target.schedule = noteReconnect(target.schedule);
      bell.ring();
    }
  }

  *announceOften(): Task<void> {
    for (;;) {
      for (const vmid of new Set([...this.agent.host.disk.guests(), ...this.told.keys()])) yield* this.announce(vmid);
      yield* this.agent.sleep(limits.replicaAnnounceMs);
    }
  }

  /** Tells the cluster what this node holds of a guest, when it is not what was told last. Never fails. */
  *announce(vmid: number): Task<void> {
    const { agent } = this;
    const manifest = agent.host.disk.manifest(vmid);
    // A manifest is never changed in place.
    if (manifest !== null && this.toldOf.get(vmid) === manifest) return;
    const record = manifest && describeReplica(manifest, agent.host.name);
    const text = JSON.stringify(record);
    if (this.told.get(vmid) === text) {
      if (manifest !== null) this.toldOf.set(vmid, manifest);
      return;
    }
    try {
      const key = keys.replica(vmid, agent.host.name);
      if (record !== null) yield* writeOwned(agent, key, record);
      else {
        const current = yield* agent.readNow(key);
        if (current !== null) yield* agent.commit([{ key, modRevision: current.modRevision }], [{ key, value: null }]);
      }
      this.told.set(vmid, text);
      if (manifest !== null) this.toldOf.set(vmid, manifest);
    } catch (error) {
      if (!isAppError(error)) throw error;
      this.told.delete(vmid);
      this.toldOf.delete(vmid);
    }
  }

  private *runCycles(cycles: Cycles): Task<void> {
    const { qemu, targets } = cycles;
    // What an earlier agent left half done: its blocks go back to the bitmap.
    for (const target of qemu.cycles.keys()) this.settle(qemu, target, false);
    while (!cycles.over && qemu.alive) yield* this.round(cycles);
    cycles.ended = true;
    const gone = new AppError('unavailable', `replicate guest ${qemu.vmid}: it stopped meanwhile`);
    for (const { waiters } of targets.values()) for (const tell of waiters.splice(0)) tell({ ok: false, error: gone });
  }

  private *round(cycles: Cycles): Task<void> {
    const { agent } = this;
    for (const peer of agent.peers) if (agent.read(keys.nodeInfo(peer)) !== null) targetOf(cycles, peer);
    const schedules = [...cycles.targets.values()].map(({ schedule }) => schedule);
    const next = planNextCycle(schedules, agent.cluster.swarm.intervalMs, agent.host.bootMs());
    if (next === null || next.dueInMs > 0) {
      const waitMs = Math.min(next?.dueInMs ?? limits.agentRoundMs, limits.agentRoundMs);
      return yield* cycles.bell.next(agent, waitMs);
    }
    const target = targetOf(cycles, next.target);
    // Who asks from here on wants a point later than this one.
    const asked = target.waiters.splice(0);
    target.schedule = { ...target.schedule, asked: false };
    try {
      const { pointBootMs } = yield* this.send(cycles, next.target, null);
      target.schedule = noteSuccess(target.schedule, pointBootMs);
      for (const tell of asked) tell({ ok: true, value: undefined });
    } catch (error) {
      if (!isAppError(error)) throw error;
      target.schedule = noteFailure(target.schedule, agent.host.bootMs());
      for (const tell of asked) tell({ ok: false, error });
    }
  }

  /** One cycle to one target, in the order of programs/replication/sender.ts. */
  private *send(cycles: Cycles, target: string, last: Last | null): Task<Sent> {
    const { agent } = this;
    const { qemu } = cycles;
    const { vmid, generation } = qemu;
    const { dice } = agent.cluster;
    const line: Line = { from: agent, to: target, vmid, session: null };
    try {
      const state = yield* callReceiver(line, { kind: 'state' });
      if (!qemu.bitmaps.has(target)) {
        qemu.bitmaps.set(target, new Set());
        qemu.bases.delete(target);
      }
      const basis: BitmapBasis = qemu.bases.get(target) ?? { base: null, pending: null };
      const plan = planSend(generation, diskSize, basis, state);
      if (plan.kind === 'refuse') throw new AppError('conflict', plan.because);
      const held = state.point;
      const point = last?.point ?? this.nextPoint(vmid, generation, held);
      const begun = yield* callReceiver(line, { kind: 'begin', point });
      if (plan.kind === 'compare') yield* agent.sleep(dice.between(50, agent.cluster.swarm.transferMs));
      if (cycles.over || !qemu.alive) throw new AppError('unavailable', 'the guest stopped');
      qemu.bases.set(target, { base: plan.kind === 'delta' ? held : basis.base, pending: point });
      yield* agent.sleep(dice.between(1, 10));
      // The instant of the point.
      const pointBootMs = agent.host.bootMs();
      const pointAtMs = agent.host.wallMs();
      const image = agent.host.disk.top(vmid);
      agent.cluster.checks.notePoint(vmid, point, image);
      const changed = qemu.bitmaps.get(target) ?? new Set<number>();
      qemu.cycles.set(target, changed);
      qemu.bitmaps.set(target, new Set());
      const lastCycle = { kind: plan.kind, bytes: changed.size, tookMs: 0, pausedMs: 0 };
      let arrived = false;
      try {
        yield* this.push(cycles, line, chooseBlocks(plan.kind, changed, image, begun.image), { image, last });
        yield* agent.sleep(dice.between(5, 50 + agent.cluster.swarm.transferMs / 4));
        const sealed = yield* callReceiver(line, { kind: 'seal', pointAtMs, lastCycle });
        if (sealed.point === null || comparePoints(sealed.point, point) !== 0)
          throw new AppError('conflict', 'another point was confirmed');
        arrived = true;
        qemu.bases.set(target, { base: point, pending: null });
        return { point, pointAtMs, pointBootMs, lastCycle };
      } finally {
        this.settle(qemu, target, arrived);
      }
    } catch (error) {
      yield* tryOnce(callReceiver(line, { kind: 'hang-up' }));
      throw error;
    }
  }

  private nextPoint(vmid: number, generation: number, held: ReplicaPoint | null): ReplicaPoint {
    const seq = this.agent.host.disk.reserveSeq(vmid, generation, 1);
    return { generation, seq: Math.max(seq, held?.generation === generation ? held.seq + 1 : 0) };
  }

  /** The bytes travel in two halves; a frozen QEMU moves nothing, and nothing is waited for longer than the stall limit. */
  private *push(cycles: Cycles, line: Line, blocks: number[], { image, last }: { image: Image; last: Last | null }): Task<void> {
    const { agent } = this;
    const { host, cluster } = agent;
    const half = Math.ceil(blocks.length / 2);
    for (const part of [blocks.slice(0, half), blocks.slice(half)]) {
      yield* agent.sleep(cluster.dice.between(5, cluster.swarm.transferMs / 2));
      const stalledAtBootMs = host.bootMs();
      if (cycles.over || (last !== null && host.bootMs() > last.untilBootMs))
        throw new AppError('unavailable', 'the push is cut');
      while (!host.isResponsive(cycles.qemu)) {
        if (!cycles.qemu.alive || host.bootMs() - stalledAtBootMs > limits.replicaStallMs) {
          throw new AppError('unavailable', 'nothing moves');
        }
        yield* agent.sleep(200);
      }
      yield* callReceiver(line, { kind: 'blocks', blocks: part.map((block): [number, number] => [block, image[block] ?? 0]) });
    }
  }

  private settle(qemu: Qemu, target: string, arrived: boolean): void {
    const cycle = qemu.cycles.get(target);
    qemu.cycles.delete(target);
    if (arrived || cycle === undefined || !this.agent.cluster.rules.settleBitmaps) return;
    for (const block of cycle) qemu.bitmaps.get(target)?.add(block);
  }
}

function startCycles(qemu: Qemu): Cycles {
  return { qemu, over: false, ended: false, bell: new SimBell(), targets: new Map() };
}

function targetOf({ targets }: Cycles, node: string): Target {
  const known = targets.get(node);
  if (known !== undefined) return known;
  const schedule = { target: node, lastPointBootMs: null, failures: 0, lastFailureBootMs: null, asked: false };
  const made: Target = { schedule, waiters: [] };
  targets.set(node, made);
  return made;
}

function chooseBlocks(kind: 'delta' | 'compare', changed: Set<number>, image: Image, there: Image): number[] {
  const all = Array.from({ length: blockCount }, (_, block) => block);
  return kind === 'delta' ? [...changed] : all.filter((block) => image[block] !== (there[block] ?? 0));
}
