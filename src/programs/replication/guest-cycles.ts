import { AppError, formatErrorChain, isAppError } from '#base/error.ts';
import { limits } from '#base/limits.ts';
import type { ReplicaPoint } from '#core/guest/guest-record.ts';
import type { ReplicaRecord, ReplicationJob } from '#core/replica/records.ts';
import {
  noteFailure,
  noteReconnect,
  noteSuccess,
  oldestThatWillDo,
  planNextCycle,
  type TargetSchedule,
} from '#core/replica/schedule.ts';
import { formatPoint } from '#core/replica/send-plan.ts';
import type { Clock } from '#ports/clock.ts';
import type { RunningGuest } from '#ports/hypervisor.ts';
import type { Peer } from '#programs/replication/control-client.ts';
import type { CycleGate } from '#programs/replication/cycle-gate.ts';
import type { CycleResult, GuestSender } from '#programs/replication/sender.ts';

/** Where replication of a guest to one node stands. */
export type TargetStatus = {
  target: string;
  state: 'idle' | 'sending' | 'failing';
  /** The last point that the target confirmed to us, and the source's wall clock at it: data age is now minus this. */
  point: ReplicaPoint | null;
  pointAtMs: number | null;
  lastCycle: ReplicaRecord['lastCycle'] | null;
  lastError: string | null;
};

export type GuestCycles = {
  readonly guest: RunningGuest;
  readonly ended: Promise<void>;
  stop(): Promise<void>;
  syncNow(target: string | undefined): Promise<string[]>;
  notePeerBack(node: string): void;
  status(): TargetStatus[];
};

export type GuestCyclesOptions = {
  sender: GuestSender;
  /** Shared by all guests of this node. */
  gate: CycleGate;
  /** Settles when an earlier loop for this guest has ended. */
  before: Promise<void>;
  readPeers: () => Peer[];
  readJob: (vmid: number) => ReplicationJob;
  readConfigSha256: (vmid: number) => string;
  clock: Clock;
  log: (text: string) => void;
};

type Waiter = { resolve: (line: string) => void; reject: (error: unknown) => void };
type Target = { schedule: TargetSchedule; status: TargetStatus; waiters: Waiter[] };

/** Runs a guest's cycles, one at a time over all targets, until its QEMU ends or `stop`. */
export function startGuestCycles(guest: RunningGuest, options: GuestCyclesOptions): GuestCycles {
  const { vmid } = guest;
  const { clock, log } = options;
  const targets = new Map<string, Target>();
  const over = new AbortController();
  /** Why no cycle can begin yet. */
  let notYet: { error: unknown; text: string } | null = null;
  let bell = Promise.withResolvers<void>();
  void guest.exited.then(({ reason }) => over.abort(new AppError('unavailable', `guest ${vmid} has ended: ${reason}`)));

  function requireTarget(node: string): Target {
    const known = targets.get(node);
    if (known !== undefined) return known;
    const made: Target = {
      schedule: { target: node, lastPointBootMs: null, failures: 0, lastFailureBootMs: null, asked: false },
      status: { target: node, state: 'idle', point: null, pointAtMs: null, lastCycle: null, lastError: null },
      waiters: [],
    };
    targets.set(node, made);
    return made;
  }

  function takeResult(target: Target, result: CycleResult, asked: Waiter[]): void {
    const { point, pointAtMs, cycle } = result;
    target.schedule = noteSuccess(target.schedule, result.pointBootMs);
    target.status = { ...target.status, state: 'idle', point, pointAtMs, lastCycle: cycle, lastError: null };
    const line = `guest ${vmid} to ${target.status.target}: point ${formatPoint(point)}, ${cycle.kind} of ${cycle.bytes} bytes in ${cycle.tookMs} ms, guest paused ${cycle.pausedMs} ms (${result.because})`;
    log(line);
    for (const waiter of asked) waiter.resolve(line);
  }

  function takeFailure(target: Target, error: unknown, asked: Waiter[]): void {
    target.schedule = noteFailure(target.schedule, clock.bootMs());
    target.status = { ...target.status, state: 'failing', lastError: formatErrorChain(error) };
    log(
      `guest ${vmid} to ${target.status.target}: cycle failed (${target.schedule.failures} in a row): ${formatErrorChain(error)}`,
    );
    for (const waiter of asked) waiter.reject(error);
  }

  async function runCycle(peer: Peer, job: ReplicationJob): Promise<void> {
    const target = requireTarget(peer.node);
    target.status = { ...target.status, state: 'sending' };
    // Who asks from here on wants a point later than this one.
    const asked = target.waiters.splice(0);
    target.schedule = { ...target.schedule, asked: false };
    const reuseFromBootMs =
      asked.length > 0 ? Number.POSITIVE_INFINITY : oldestThatWillDo(target.schedule, job.intervalMs, clock.bootMs());
    const order = { peer, job, configSha256: options.readConfigSha256(vmid), reuseFromBootMs };
    try {
      const result = await options.sender.send(order, over.signal);
      takeResult(target, result, asked);
      if (!result.unmeasuredTail) return;
    } catch (error) {
      takeFailure(target, error, asked);
      return;
    }
    // The copy is whole again first; then there is time to find out what a former home was left with.
    await options.sender.measureTail(order, over.signal).then(
      (found) => found !== null && log(`guest ${vmid}: ${found}`),
      (error: unknown) => log(`guest ${vmid}: measuring a tail on ${peer.node} failed: ${formatErrorChain(error)}`),
    );
  }

  async function round(): Promise<void> {
    const peers = options.readPeers();
    const job = options.readJob(vmid);
    const schedules = peers.map((peer) => requireTarget(peer.node).schedule).filter((schedule) => job.enabled || schedule.asked);
    const next = planNextCycle(schedules, job.intervalMs, clock.bootMs());
    const begun = begin(schedules, job.intervalMs);
    const peer = peers.find((candidate) => candidate.node === begun);
    if (begun !== null && peer !== undefined) {
      try {
        return await runCycle(peer, job);
      } finally {
        options.gate.leave(vmid, begun);
      }
    }
    // What is due and has no place rings when there is one.
    const isHeldBack = next?.dueInMs === 0;
    await pause(Math.min(isHeldBack || next === null ? Number.POSITIVE_INFINITY : next.dueInMs, limits.agentRoundMs));
  }

  /** The target whose cycle begins now: the first one in order that is due and to which the guest may send; null: none. */
  function begin(schedules: TargetSchedule[], intervalMs: number): string | null {
    const now = clock.bootMs();
    let left = schedules;
    for (;;) {
      const next = planNextCycle(left, intervalMs, now);
      if (next === null || next.dueInMs > 0) return null;
      const { asked, lastPointBootMs } = requireTarget(next.target).schedule;
      const ageMs = asked || lastPointBootMs === null ? null : now - lastPointBootMs;
      if (options.gate.tryEnter(vmid, next.target, ageMs)) return next.target;
      left = left.filter((schedule) => schedule.target !== next.target);
    }
  }

  async function pause(waitMs: number): Promise<void> {
    const timer = setTimeout(() => bell.resolve(), waitMs);
    await bell.promise.finally(() => clearTimeout(timer));
    bell = Promise.withResolvers<void>();
  }

  async function recovered(): Promise<boolean> {
    try {
      await options.sender.recover({ resumes: true });
      notYet = null;
      return true;
    } catch (error) {
      const text = formatErrorChain(error);
      if (text !== notYet?.text) log(`guest ${vmid}: replication cannot begin yet: ${text}`);
      notYet = { error, text };
      return false;
    }
  }

  async function run(): Promise<void> {
    await options.before;
    while (!over.signal.aborted && !(await recovered())) await pause(limits.agentRoundMs);
    while (!over.signal.aborted) await round();
  }

  over.signal.addEventListener('abort', () => bell.resolve(), { once: true });
  const stopListening = options.gate.onFree(() => bell.resolve());
  const ended = run()
    .catch((error: unknown) => log(`guest ${vmid}: replication ended: ${formatErrorChain(error)}`))
    .finally(() => {
      stopListening();
      const gone = new AppError('unavailable', `replicate guest ${vmid}: it stopped meanwhile`, { cause: over.signal.reason });
      for (const target of targets.values()) for (const waiter of target.waiters.splice(0)) waiter.reject(gone);
    });

  return {
    guest,
    ended,
    async stop() {
      over.abort(new AppError('unavailable', `replication of guest ${vmid} was stopped`));
      await ended;
    },
    async syncNow(target) {
      const nodes = options.readPeers().map((peer) => peer.node);
      if (target !== undefined && !nodes.includes(target)) {
        throw new AppError(
          'missing',
          `replicate guest ${vmid} to ${target}: there is no such other node (there are: ${nodes.join(', ')})`,
        );
      }
      if (isAppError(notYet?.error, 'busy')) throw notYet.error; // that may take hours
      const wanted = target === undefined ? nodes : [target];
      const lines = wanted.map((node) => {
        const entry = requireTarget(node);
        entry.schedule = { ...entry.schedule, asked: true };
        return new Promise<string>((resolve, reject) => entry.waiters.push({ resolve, reject }));
      });
      bell.resolve();
      return await Promise.all(lines);
    },
    notePeerBack(node) {
      const entry = targets.get(node);
      if (entry !== undefined) entry.schedule = noteReconnect(entry.schedule);
      bell.resolve();
    },
    status: () => [...targets.values()].map((target) => target.status),
  };
}
