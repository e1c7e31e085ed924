import { connect, type Socket } from 'node:net';
import type { Readable } from 'node:stream';
import type { SourceCopy, ZfsSource } from '#adapters/zfs/source.ts';
import type { ZfsStream } from '#adapters/zfs/zfs-command.ts';
import type { ZfsStorage } from '#adapters/zfs/zfs-storage.ts';
import { AppError, formatErrorChain } from '#base/error.ts';
import { limits } from '#base/limits.ts';
import { comparePoints, type ReplicaPoint } from '#core/guest/guest-record.ts';
import { formatPoint } from '#core/replica/send-plan.ts';
import { snapshotName } from '#core/storage/zfs/names.ts';
import { planZfsSend } from '#core/storage/zfs/send-plan.ts';
import type { Clock } from '#ports/clock.ts';
import type { RunningGuest } from '#ports/hypervisor.ts';
import { callTarget, type ControlClient, type Peer } from '#programs/replication/control-client.ts';
import type { StreamOffer, TargetState } from '#programs/replication/messages.ts';
import { takeAtRest, type WithRest } from '#programs/replication/point-rest.ts';
import { openTunnel } from '#programs/replication/relay-client.ts';
import type { CycleOrder, CycleResult, GuestSender } from '#programs/replication/sender.ts';

export type ZfsSenderDeps = {
  storage: ZfsStorage;
  /** The node's run folder: the relay's socket. */
  run: string;
  readPeers: () => Peer[];
  withRest: WithRest;
  /** A cut stream is gone on with from this much on; below it the newest state is there sooner. */
  resumeFromBytes: number;
  clock: Clock;
  log: (text: string) => void;
};

type TakenPoint = { point: ReplicaPoint; atMs: number; bootMs: number };
type DiskStream = { name: string; offer: StreamOffer['disks'][number]; open: (() => ZfsStream<Readable>) | null };

/**
 * Sends points of one guest as streams of ZFS.
 *
 *   state ─► plan by GUID ─► snapshot of all disks (or the one just taken for another node) ─► begin ─► a stream a disk ─► seal ─► bookmark, prune
 *                └► a cut stream that is worth it: its own point goes on
 */
export function createZfsSender(guest: RunningGuest, deps: ZfsSenderDeps): GuestSender {
  const { vmid, generation } = guest;
  const { storage, clock } = deps;
  const source: ZfsSource = storage.source;
  let reserved = { next: 1, last: 0 };
  let newest: TakenPoint | null = null;

  async function nextPoint(held: ReplicaPoint | null): Promise<ReplicaPoint> {
    if (reserved.next > reserved.last) {
      const next = await storage.reserveSeq(vmid, generation, limits.reservedSeqs);
      reserved = { next, last: next + limits.reservedSeqs - 1 };
    }
    const seq = Math.max(reserved.next, held !== null && held.generation === generation ? held.seq + 1 : 0);
    reserved.next = seq + 1;
    return { generation, seq };
  }

  /** The point to send: the one that was named, the one just taken for another node, or a new one. */
  async function choosePoint(order: CycleOrder, held: ReplicaPoint | null, named: ReplicaPoint | undefined): Promise<TakenPoint> {
    const isNewer = newest !== null && (held === null || comparePoints(newest.point, held) > 0);
    if (newest !== null && named !== undefined && comparePoints(newest.point, named) === 0) return newest;
    if (newest !== null && isNewer && newest.bootMs >= order.reuseFromBootMs) return newest;
    const point = named ?? (await nextPoint(held));
    const take = async (kind: 'crash' | 'frozen'): Promise<TakenPoint> => {
      const taken = { point, atMs: clock.wallMs(), bootMs: clock.bootMs() };
      await source.take(vmid, point, { atMs: taken.atMs, kind });
      return taken;
    };
    return (newest = await takeAtRest(deps, guest, order.job, take));
  }

  async function send(order: CycleOrder, signal: AbortSignal, named?: ReplicaPoint): Promise<CycleResult> {
    const { peer } = order;
    const startedMs = performance.now();
    using control = await callTarget(deps.run, peer, { patient: true });
    const state = await control.call('state', { vmid }, { deadlineMs: limits.zfsCommandMs });
    const { disks: targetDisks, ...about } = requireZfs(state, peer.node);
    const before = await source.read(vmid, generation);
    const plan = planZfsSend(generation, ownDisks(before), { ...about, disks: targetDisks }, deps.resumeFromBytes);
    if (plan.kind === 'refuse') throw new AppError('conflict', `send guest ${vmid} to ${peer.node}: ${plan.because}`);
    const isResumed = plan.kind === 'resume' && named === undefined;
    const taken = isResumed ? readTaken(before, plan.point) : await choosePoint(order, state.point, named);
    const copy = isResumed ? before : await source.read(vmid, generation);
    const streams = planStreams(source, vmid, copy, taken.point, state.zfs ?? [], isResumed);
    const disks = copy.disks.map(({ name, sizeBytes }) => ({ name, sizeBytes }));
    const anchors = [...(await source.readConfirmed(vmid)).entries()]
      .filter(([node]) => node !== peer.node)
      .map(([, point]) => point);
    const offer = { disks: streams.map((stream) => stream.offer), anchors };
    await control.call('begin', { vmid, point: taken.point, disks, streams: offer }, { deadlineMs: limits.zfsCommandMs });
    const bytes = await sendStreams({ control, order, point: taken.point }, streams, signal);
    const tookMs = Math.round(performance.now() - startedMs);
    const cycle = { kind: plan.kind === 'full' ? ('full' as const) : ('delta' as const), bytes, tookMs, pausedMs: 0 };
    const { configSha256 } = order;
    const seal = { pointAtMs: taken.atMs, configSha256, lastCycle: cycle };
    const sealed = await control.call('seal', seal, { deadlineMs: limits.zfsCommandMs });
    if (comparePoints(sealed.point, taken.point) !== 0) {
      throw new AppError('conflict', `send guest ${vmid} to ${peer.node}: it confirmed another point than was sent`);
    }
    const peers = deps.readPeers().map(({ node }) => node);
    await source.confirm(vmid, generation, peer.node, taken.point, peers).catch((error: unknown) => {
      // The point has arrived; what is dropped late is only space.
      deps.log(`guest ${vmid}: tidying up after ${formatPoint(taken.point)} failed: ${formatErrorChain(error)}`);
    });
    const { point, atMs: pointAtMs, bootMs: pointBootMs } = taken;
    return { point, pointAtMs, pointBootMs, cycle, because: plan.because, unmeasuredTail: false };
  }

  async function sendStreams(
    about: { control: ControlClient; order: CycleOrder; point: ReplicaPoint },
    streams: DiskStream[],
    signal: AbortSignal,
  ): Promise<number> {
    let bytes = 0;
    try {
      for (const stream of streams) if (stream.open !== null) bytes += await sendDisk(about, stream.name, stream.open, signal);
      return bytes;
    } catch (error) {
      // Whatever the other nodes get meanwhile: this point stays until the stream has gone on or was given up.
      await source.holdCut(vmid, about.point, about.order.peer.node).catch((cause: unknown) => {
        deps.log(`guest ${vmid}: holding ${formatPoint(about.point)} failed: ${formatErrorChain(cause)}`);
      });
      throw error;
    }
  }

  async function sendDisk(
    { control, order: { peer, job } }: { control: ControlClient; order: CycleOrder },
    disk: string,
    open: () => ZfsStream<Readable>,
    signal: AbortSignal,
  ): Promise<number> {
    const request = {
      node: peer.node,
      address: peer.address,
      port: peer.relayPort,
      service: `stream:${vmid}:${disk}`,
      rateBytesPerSecond: job.rateBytesPerSecond,
      rateGroup: `${vmid}@${peer.node}`,
    };
    const tunnel = await openTunnel(deps.run, request, { patient: true });
    const socket = connect(tunnel.path);
    let stream: ZfsStream<Readable> | null = null;
    try {
      // Not before the way is there: a stream is read from the tick on in which it is opened, or its bytes are gone with its process.
      stream = open();
      const bytes = await pipeStream(stream, socket, signal).catch(async (error: unknown) => {
        await control.call('received', { disk }, { deadlineMs: limits.zfsCommandMs }); // its own words are better than "the pipe broke"
        throw error;
      });
      await waitReceived(control, disk, signal);
      return bytes;
    } finally {
      stream?.kill();
      socket.destroy();
      await tunnel.close();
    }
  }

  return {
    arm: async () => {}, // ZFS follows every write by itself
    recover: async () => void (newest = null),
    send,
    measureTail: async () => null, // the target has measured it while it set it aside
  };
}

function requireZfs(state: TargetState, node: string): Parameters<typeof planZfsSend>[2] {
  if (state.zfs !== undefined) return { role: state.role, generation: state.generation, point: state.point, disks: state.zfs };
  throw new AppError(
    'unsupported',
    `${node} keeps its copies in files and this node in a pool; all nodes need the same storage driver`,
  );
}

function ownDisks(copy: SourceCopy) {
  return copy.disks.map(({ name, dataset }) => ({ name, versions: dataset.versions }));
}

/** A point that was taken in an earlier cycle, as ZFS remembers it. */
function readTaken(copy: SourceCopy, point: ReplicaPoint): TakenPoint {
  const versions = copy.disks[0]?.dataset.versions ?? [];
  const found = versions.find((version) => version.kind === 'snapshot' && version.name === snapshotName(point));
  const atMs = found?.pointAtMs ?? found?.createdAtMs ?? 0;
  return { point, atMs, bootMs: 0 };
}

/** What goes over for each disk: from the newest that both have, the rest of a cut stream, or nothing where the point has arrived already. */
function planStreams(
  source: ZfsSource,
  vmid: number,
  copy: SourceCopy,
  point: ReplicaPoint,
  target: NonNullable<TargetState['zfs']>,
  isResumed: boolean,
): DiskStream[] {
  return copy.disks.map(({ name, dataset }) => {
    const versions = dataset.versions;
    const to = versions.find((version) => version.kind === 'snapshot' && version.name === snapshotName(point));
    if (to === undefined) throw new AppError('missing', `${dataset.name} has no snapshot ${snapshotName(point)}`);
    const kind = dataset.type === 'volume' ? ('volume' as const) : ('file' as const);
    const theirs = target.find((disk) => disk.name === name);
    const offer = (base: string | null, isRest: boolean) => ({ kind, base, to: to.guid, isRest });
    const partial = theirs?.partial ?? null;
    if (isResumed && partial !== null && partial.toGuid === to.guid) {
      return { name, offer: offer(null, true), open: () => source.openRest(partial.token) };
    }
    const guid = theirs?.guids.find((held) => versions.some((version) => version.guid === held)) ?? null;
    if (guid === to.guid) return { name, offer: offer(guid, false), open: null };
    const same = versions.filter((version) => version.guid === guid);
    const base = same.find((version) => version.kind === 'snapshot') ?? same[0] ?? null;
    const from = base && { kind: base.kind, name: base.name, guid: base.guid };
    return { name, offer: offer(guid, false), open: () => source.openPoint(vmid, name, point, from) };
  });
}

/** The target says that the stream is in its pool, whole. */
async function waitReceived(control: ControlClient, disk: string, signal: AbortSignal): Promise<void> {
  const deadlineMs = performance.now() + limits.zfsCommandMs;
  while (!(await control.call('received', { disk }, { deadlineMs: limits.zfsCommandMs })).done) {
    signal.throwIfAborted();
    if (performance.now() > deadlineMs) {
      throw new AppError(
        'timeout',
        `send ${disk}: the target has all of it and did not take it in within ${limits.zfsCommandMs} ms`,
      );
    }
  }
}

/**
 * Moves a stream into the tunnel, which stays open: ZFS knows the end of a stream by itself, and what is on its way would be lost with it. Returns
 * its bytes. Raises AppError when it was cut, nothing moved for long, or `signal` aborted.
 */
async function pipeStream(stream: ZfsStream<Readable>, socket: Socket, signal: AbortSignal): Promise<number> {
  const cut = Promise.withResolvers<never>();
  cut.promise.catch(() => {}); // the stream's own end may come first
  let [bytes, movedMs] = [0, performance.now()];
  const stop = (error: AppError): void => {
    cut.reject(error);
    stream.kill();
  };
  const abort = (): void => stop(new AppError('unavailable', 'send a stream: given up', { cause: signal.reason }));
  const timer = setInterval(() => {
    if (performance.now() - movedMs < limits.zfsStallMs) return;
    stop(new AppError('unavailable', `send a stream: nothing moved for ${limits.zfsStallMs} ms; the target hangs`));
  }, limits.zfsStallMs / 10);
  if (signal.aborted) abort();
  signal.addEventListener('abort', abort, { once: true });
  socket.on('error', (cause) => stop(new AppError('unavailable', 'send a stream: it was cut', { cause })));
  socket.on('close', () => stop(new AppError('unavailable', 'send a stream: the target ended it')));
  socket.on('drain', () => (movedMs = performance.now()));
  stream.pipe.on('data', (chunk: Buffer) => {
    bytes += chunk.length;
    movedMs = performance.now();
  });
  stream.pipe.pipe(socket, { end: false });
  socket.resume(); // nothing is ever sent back; reading on is what tells of the far end's close
  try {
    await Promise.race([stream.done, cut.promise]);
    return bytes;
  } finally {
    clearInterval(timer);
    signal.removeEventListener('abort', abort);
  }
}
