import { join } from 'node:path';
import type { DirStorage } from '#adapters/dir/dir-storage.ts';
import { AppError, formatErrorChain } from '#base/error.ts';
import { limits } from '#base/limits.ts';
import { guestRunPaths } from '#core/guest/guest-paths.ts';
import { comparePoints, type ReplicaPoint } from '#core/guest/guest-record.ts';
import type { ReplicaRecord, ReplicationJob } from '#core/replica/records.ts';
import { refuseArriving } from '#core/storage/arrival.ts';
import { baseOfWrites } from '#core/storage/manifest.ts';
import { planSend, type BitmapBasis } from '#core/replica/send-plan.ts';
import type { Clock } from '#ports/clock.ts';
import type { RunningGuest } from '#ports/hypervisor.ts';
import { readBases, writeBases } from '#programs/replication/basis-file.ts';
import { comparePrefix, pushDifferences } from '#programs/replication/compare.ts';
import { callTarget, fetchDigests, type ControlClient, type Peer } from '#programs/replication/control-client.ts';
import {
  closeFleece,
  ensureBitmaps,
  openFleece,
  settleBitmaps,
  type Fleece,
  type FleeceDisk,
} from '#programs/replication/fleece.ts';
import { closeExports, exportSocket } from '#programs/replication/point-exports.ts';
import type { PointLock } from '#programs/replication/point-lock.ts';
import { replicaNames, replicaNodes } from '#programs/replication/point-names.ts';
import { pushChanges } from '#programs/replication/push.ts';
import type { Calls } from '#programs/replication/messages.ts';
import { takeAtRest, type WithRest } from '#programs/replication/point-rest.ts';
import { openTunnel } from '#programs/replication/relay-client.ts';
import { measureTail } from '#programs/replication/tail-measure.ts';

export type SenderDeps = {
  storage: DirStorage;
  /** The node's run folder: the relay's socket and what must not outlive a boot. */
  run: string;
  /** Where old data is kept while a point travels: a folder on the disk that holds the guests. */
  scratch: string;
  scratchLimitBytes: number;
  user: { uid: number; gid: number } | null;
  /** Shared by all who take points of this node's guests. */
  points: PointLock;
  withRest: WithRest;
  clock: Clock;
  log: (text: string) => void;
};

/** `reuseFromBootMs`: a point that was taken then or later may be sent again to this node; infinite: a new one is wanted. */
export type CycleOrder = { peer: Peer; job: ReplicationJob; configSha256: string; reuseFromBootMs: number };

export type CycleResult = {
  point: ReplicaPoint;
  pointAtMs: number;
  pointBootMs: number;
  cycle: ReplicaRecord['lastCycle'];
  because: string;
  /** The target keeps a tail that nobody has measured yet. */
  unmeasuredTail: boolean;
};

/** Sends points of one running guest, one cycle after the other. */
export type GuestSender = {
  /** Puts a bitmap in place for each target. Before the guest's first instruction nothing is missed; later, the first cycle compares. */
  arm(targets: string[]): Promise<void>;
  /**
   * Takes over a guest whose cycle an earlier agent may have left half done: its disks are given back, its bitmaps counted on. `resumes`: CPUs
   * that such a cycle left stopped are let run again; false: whoever asks has stopped them for good.
   */
  recover(options: { resumes: boolean }): Promise<void>;
  /**
   * One cycle to one target. Raises AppError; then the guest goes on and the target keeps its last point. `point`: what it is to be called; left
   * out: the next number. CPUs that stand still are left so.
   */
  send(order: CycleOrder, signal: AbortSignal, point?: ReplicaPoint): Promise<CycleResult>;
  /** Measures a left-behind tail on the target if one is unmeasured; returns what was found, in words. */
  measureTail(order: CycleOrder, signal: AbortSignal): Promise<string | null>;
};

/** The sender of one guest under its present QEMU process. */
export function createGuestSender(guest: RunningGuest, deps: SenderDeps): GuestSender {
  const { vmid, generation } = guest;
  const directory = guestRunPaths(deps.run, vmid).folder;
  const scratch = { directory: join(deps.scratch, String(vmid)), user: deps.user, limitBytes: deps.scratchLimitBytes };
  let bases = new Map<string, BitmapBasis>();
  let reserved = { next: 1, last: 0 };

  /** `mayArrive`: also disks of which not all is here. */
  async function readDisks(mayArrive = false): Promise<FleeceDisk[]> {
    const manifest = await deps.storage.readManifest(vmid);
    if (manifest?.role !== 'primary' || manifest.generation !== generation) {
      throw new AppError('conflict', `replicate guest ${vmid}: this node holds no primary copy of generation ${generation}`);
    }
    if (!mayArrive) refuseArriving(manifest, 'replicate');
    return manifest.disks.map(({ name, layers }) => ({ name, sizeBytes: layers.at(-1)?.sizeBytes ?? 0 }));
  }

  async function note(target: string, basis: BitmapBasis): Promise<void> {
    bases.set(target, basis);
    await writeBases(directory, guest.pid, bases);
  }

  /** Numbers grow with time over all targets of a generation, also across restarts: the manifest hands them out in blocks. */
  async function nextPoint(held: ReplicaPoint | null): Promise<ReplicaPoint> {
    if (reserved.next > reserved.last) {
      const next = await deps.storage.reserveSeq(vmid, generation, limits.reservedSeqs);
      reserved = { next, last: next + limits.reservedSeqs - 1 };
    }
    const seq = Math.max(reserved.next, held !== null && held.generation === generation ? held.seq + 1 : 0);
    reserved.next = seq + 1;
    return { generation, seq };
  }

  async function push(
    order: CycleOrder,
    disks: FleeceDisk[],
    fleece: Fleece,
    digests: Map<string, Uint8Array> | null,
    stop: AbortSignal,
  ) {
    const { peer, job } = order;
    const openDisk = (disk: string) =>
      openTunnel(deps.run, {
        node: peer.node,
        address: peer.address,
        port: peer.relayPort,
        service: `nbd:${vmid}:${disk}`,
        rateBytesPerSecond: job.rateBytesPerSecond,
        rateGroup: `${vmid}@${peer.node}`,
      });
    const signal = AbortSignal.any([stop, fleece.broken]);
    try {
      if (digests === null)
        return await pushChanges(
          guest.qmp,
          { disks, target: peer.node, openDisk, rateBytesPerSecond: job.rateBytesPerSecond },
          signal,
        );
      const compare = { disks, socketPath: exportSocket(directory), openDisk, targetDigests: digests };
      return await pushDifferences(guest.qmp, compare, signal);
    } finally {
      await fleece.close();
    }
  }

  async function send(order: CycleOrder, signal: AbortSignal, named?: ReplicaPoint): Promise<CycleResult> {
    const { peer } = order;
    const startedMs = performance.now();
    const disks = await readDisks();
    using control = await callTarget(deps.run, peer);
    const state = await control.call('state', { vmid });
    const fresh = await ensureBitmaps(guest.qmp, disks, [peer.node]);
    if (fresh.length > 0) bases.delete(peer.node);
    const basis = bases.get(peer.node) ?? { base: null, pending: null };
    const plan = planSend(generation, disks, basis, state);
    if (plan.kind === 'refuse') throw new AppError('conflict', `send guest ${vmid} to ${peer.node}: ${plan.because}`);
    const point = named ?? (await nextPoint(state.point));
    await control.call('begin', { vmid, point, disks });
    const digests = plan.kind === 'compare' ? await fetchTarget(control, disks, signal) : null;
    signal.throwIfAborted();
    await note(peer.node, { base: plan.kind === 'delta' ? state.point : basis.base, pending: point });

    return await deps.points.hold(vmid, async (hurry) => {
      const sending = { order, disks, control, state, plan, point, digests, startedMs };
      return await sendPoint(sending, AbortSignal.any([signal, hurry]));
    });
  }

  type Sending = {
    order: CycleOrder;
    disks: FleeceDisk[];
    control: ControlClient;
    state: Calls['state']['answer'];
    plan: { kind: 'delta' | 'compare'; because: string };
    point: ReplicaPoint;
    digests: Map<string, Uint8Array> | null;
    startedMs: number;
  };

  /** From the guest's short pause until its bitmaps are settled. */
  async function sendPoint(sending: Sending, signal: AbortSignal): Promise<CycleResult> {
    const { order, disks, control, state, plan, point, digests, startedMs } = sending;
    const { peer } = order;
    const pointBootMs = deps.clock.bootMs();
    const fleeceOrder = {
      disks,
      names: replicaNames(peer.node),
      changedOnly: () => plan.kind === 'delta',
      patienceSeconds: 1,
      scratch,
      wallMs: () => deps.clock.wallMs(),
      log: deps.log,
    };
    const fleece = await takeAtRest(deps, guest, order.job, () => openFleece(guest.qmp, fleeceOrder));
    const { pointAtMs, pausedMs } = fleece;
    let arrived = false;
    try {
      const bytes = await push(order, disks, fleece, digests, signal);
      const cycle = { kind: plan.kind, bytes, tookMs: Math.round(performance.now() - startedMs), pausedMs };
      const sealed = await control.call('seal', { pointAtMs, configSha256: order.configSha256, lastCycle: cycle });
      if (comparePoints(sealed.point, point) !== 0) {
        throw new AppError('conflict', `send guest ${vmid} to ${peer.node}: it confirmed another point than was sent`);
      }
      arrived = true;
      await note(peer.node, { base: point, pending: null });
      return { point, pointAtMs, pointBootMs, cycle, because: plan.because, unmeasuredTail: state.unmeasuredTail !== null };
    } finally {
      await fleece.settle(arrived).catch((error: unknown) => {
        bases.delete(peer.node); // nobody knows what the bitmap holds now
        deps.log(`guest ${vmid}: bitmaps for ${peer.node} lost: ${formatErrorChain(error)}`);
      });
    }
  }

  return {
    async arm(targets) {
      const made = await ensureBitmaps(guest.qmp, await readDisks(true), targets);
      const manifest = await deps.storage.readManifest(vmid);
      const base = manifest && baseOfWrites(manifest);
      if (base === null) return;
      // Targets that hold the point which was promoted here need nothing compared: all that differs is what the guest writes from now on.
      const { generation: from, seq } = base;
      for (const target of made) await note(target, { base: { generation: from, seq }, pending: null });
    },
    async recover({ resumes }) {
      const disks = await readDisks();
      bases = await readBases(directory, guest.pid);
      await deps.points.hold(vmid, async () => {
        await closeExports(guest.qmp, comparePrefix);
        await closeFleece(guest.qmp, { disks, names: replicaNodes, scratch });
        for (const target of bases.keys()) await settleBitmaps(guest.qmp, { disks, names: replicaNames(target) }, false);
      });
      if (!resumes) return;
      const { status } = await guest.qmp.execute<{ status: string }>('query-status');
      // Only `stop` makes "paused"; a cycle of ours that was cut between stop and cont is the one who says it here.
      if (status === 'paused' && bases.size > 0) await guest.qmp.execute('cont');
    },
    send,
    async measureTail(order, signal) {
      using control = await callTarget(deps.run, order.peer);
      return await measureTail({ control, storage: deps.storage, vmid, generation, node: order.peer.node }, signal);
    },
  };
}

async function fetchTarget(control: ControlClient, disks: FleeceDisk[], signal: AbortSignal): Promise<Map<string, Uint8Array>> {
  const digests = new Map<string, Uint8Array>();
  for (const { name, sizeBytes } of disks) {
    const ask = (firstChunk: number, count: number) => control.call('hashes', { disk: name, firstChunk, count });
    digests.set(name, await fetchDigests(sizeBytes, ask, signal));
  }
  return digests;
}
