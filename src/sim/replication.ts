import { AppError, isAppError } from '#base/error.ts';
import { limits } from '#base/limits.ts';
import type { ReplicaPoint } from '#core/guest/guest-record.ts';
import { noteFailure, noteReconnect, noteSuccess, planNextCycle, type TargetSchedule } from '#core/replica/schedule.ts';
import { planSend, type BitmapBasis } from '#core/replica/send-plan.ts';
import { describeReplica, type Manifest } from '#core/storage/manifest.ts';
import type { AgentProcess } from '#sim/agent.ts';
import { keys } from '#sim/known-keys.ts';
import { tryOnce, writeOwned } from '#sim/owned-record.ts';
import { blockCount, diskSize, type Image } from '#sim/disk.ts';
import type { Qemu } from '#sim/host.ts';
import { SimBell, type Task } from '#sim/process.ts';
import { callReceiver, type Line } from '#sim/receiver.ts';

type Cycles = { qemu: Qemu; over: boolean; bell: SimBell; targets: Map<string, TargetSchedule> };

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
    const cycles: Cycles = { qemu, over: false, bell: new SimBell(), targets: new Map() };
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

  notePeerBack(node: string): void {
    for (const { targets, bell } of this.guests.values()) {
      const schedule = targets.get(node);
      if (schedule !== undefined) targets.set(node, noteReconnect(schedule));
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
    const { agent } = this;
    const { qemu, targets } = cycles;
    // What an earlier agent left half done: its blocks go back to the bitmap.
    for (const target of qemu.cycles.keys()) this.settle(qemu, target, false);
    while (!cycles.over && qemu.alive) {
      const { intervalMs } = agent.cluster.swarm;
      for (const peer of agent.peers) {
        const seen = agent.read(keys.nodeInfo(peer)) !== null;
        if (seen && !targets.has(peer)) {
          targets.set(peer, { target: peer, lastPointBootMs: null, failures: 0, lastFailureBootMs: null, asked: false });
        }
      }
      const next = planNextCycle([...targets.values()], intervalMs, agent.host.bootMs());
      if (next === null || next.dueInMs > 0) {
        const waitMs = Math.min(next?.dueInMs ?? limits.agentRoundMs, limits.agentRoundMs);
        yield* cycles.bell.next(agent, waitMs);
        continue;
      }
      const schedule = targets.get(next.target);
      if (schedule === undefined) continue;
      try {
        const pointBootMs = yield* this.send(cycles, next.target);
        targets.set(next.target, noteSuccess(schedule, pointBootMs));
      } catch (error) {
        if (!isAppError(error)) throw error;
        targets.set(next.target, noteFailure(targets.get(next.target) ?? schedule, agent.host.bootMs()));
      }
    }
  }

  /** One cycle to one target, in the order of programs/replication/sender.ts. Returns when its point was, on this clock. */
  private *send(cycles: Cycles, target: string): Task<number> {
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
      const seq = agent.host.disk.reserveSeq(vmid, generation, 1);
      const held = state.point;
      const point: ReplicaPoint = { generation, seq: Math.max(seq, held?.generation === generation ? held.seq + 1 : 0) };
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
        yield* this.push(cycles, line, chooseBlocks(plan.kind, changed, image, begun.image), image);
        yield* agent.sleep(dice.between(5, 50 + agent.cluster.swarm.transferMs / 4));
        yield* callReceiver(line, { kind: 'seal', pointAtMs, lastCycle });
        arrived = true;
        qemu.bases.set(target, { base: point, pending: null });
        return pointBootMs;
      } finally {
        this.settle(qemu, target, arrived);
      }
    } catch (error) {
      yield* tryOnce(callReceiver(line, { kind: 'hang-up' }));
      throw error;
    }
  }

  /** The bytes travel in two halves; a frozen QEMU moves nothing, and nothing is waited for longer than the stall limit. */
  private *push(cycles: Cycles, line: Line, blocks: number[], image: Image): Task<void> {
    const { agent } = this;
    const { host, cluster } = agent;
    const half = Math.ceil(blocks.length / 2);
    for (const part of [blocks.slice(0, half), blocks.slice(half)]) {
      yield* agent.sleep(cluster.dice.between(5, cluster.swarm.transferMs / 2));
      const stalledAtBootMs = host.bootMs();
      while (!host.isExecuting(cycles.qemu)) {
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

function chooseBlocks(kind: 'delta' | 'compare', changed: Set<number>, image: Image, there: Image): number[] {
  const all = Array.from({ length: blockCount }, (_, block) => block);
  return kind === 'delta' ? [...changed] : all.filter((block) => image[block] !== (there[block] ?? 0));
}
