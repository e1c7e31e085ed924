import { AppError, formatErrorChain, isAppError } from '#base/error.ts';
import { limits } from '#base/limits.ts';
import { type GuestAction, planGuestAction } from '#core/guest/guest-plan.ts';
import type { GuestRecord, ReplicaPoint } from '#core/guest/guest-record.ts';
import { keys, prefixes } from '#core/ha/keys.ts';
import type { HaResource, HaStatus, Permit } from '#core/ha/records.ts';
import type { Clock } from '#ports/clock.ts';
import type { GuestCopy, GuestStorage } from '#ports/guest-storage.ts';
import type { Hypervisor, RunningGuest } from '#ports/hypervisor.ts';
import type { Store } from '#ports/store.ts';
import type { Bell } from '#programs/agent/bell.ts';
import { newEvent } from '#programs/agent/ha-event.ts';
import { endHalfStarted } from '#programs/agent/half-started.ts';
import { readRecord, type World, writeOwnedRecord } from '#programs/agent/world.ts';

/**
 * Drives the guests of this node: for each one reads the record, what runs and what copy lies here, asks core/guest/guest-plan.ts
 * for one action and performs it. One action a guest at a time; guests do not wait for each other.
 */
export type GuestReplication = {
  armBitmaps(guest: RunningGuest): Promise<void>;
  startGuest(guest: RunningGuest): void;
  stopGuest(vmid: number): Promise<void>;
};

export type GuestLoopOptions = {
  self: string;
  store: Store;
  world: World;
  clock: Clock;
  bell: Bell;
  hypervisor: Hypervisor;
  storage: GuestStorage;
  replication: GuestReplication;
  /** The epoch granted to this node while its guard serves (guard.json); null otherwise. */
  readEpoch: () => number | null;
  log: { info(fields: object, text: string): void; warn(fields: object, text: string): void };
};

export type GuestLoop = {
  run(signal: AbortSignal): Promise<void>;
  running(): RunningGuest[];
  /** Runs `work` while no action on the guest is under way and none starts. Raises AppError busy when one is. */
  exclusively<T>(vmid: number, work: () => Promise<T>): Promise<T>;
};

type Failure = { key: string; count: number; retryAtBootMs: number };

export function createGuestLoop(options: GuestLoopOptions): GuestLoop {
  const running = new Map<number, RunningGuest>();
  const busy = new Set<number>();
  const failures = new Map<number, Failure>();
  const statuses = new Map<number, string>();
  let copies = new Map<number, GuestCopy>();

  const report = async (status: Omit<HaStatus, 'atMs'>) => {
    const text = JSON.stringify(status);
    if (statuses.get(status.vmid) === text) return;
    await writeOwnedRecord(options.store, keys.haStatus(status.vmid), {
      ...status,
      atMs: options.clock.wallMs(),
    } satisfies HaStatus);
    statuses.set(status.vmid, text);
  };

  const adoptProcess = (guest: RunningGuest) => {
    running.set(guest.vmid, guest);
    void guest.exited.then(async ({ reason }) => {
      if (running.get(guest.vmid) === guest) running.delete(guest.vmid);
      options.log.info({ event: 'guest.exited', guest: guest.vmid, generation: guest.generation }, reason);
      await options.replication.stopGuest(guest.vmid);
      options.bell.ring();
    });
  };

  const act = async (vmid: number, record: GuestRecord | null, action: GuestAction) => {
    switch (action.kind) {
      case 'none':
        return;
      case 'refuse':
        await report(statusOf(options.self, record, vmid, 'failed', action.because));
        return;
      case 'kill':
        options.log.warn({ event: 'guest.killed', guest: vmid }, action.because);
        await running.get(vmid)?.kill();
        return;
      case 'shutdown':
        options.log.info({ event: 'guest.stopping', guest: vmid }, action.because);
        await running.get(vmid)?.shutdown({ deadlineMs: limits.guestShutdownMs });
        await report(statusOf(options.self, record, vmid, 'stopped', action.because));
        return;
      case 'demote':
        options.log.info({ event: 'guest.demoted', guest: vmid }, action.because);
        await options.storage.demote(vmid);
        return;
      case 'promote':
        if (record?.order?.promote) {
          const done = await promoteOrDecline(options, record, record.order.promote);
          if (done === null) {
            await report(statusOf(options.self, record, vmid, 'waiting', `the copy on ${options.self} does not verify`));
            return;
          }
          options.log.info({ event: 'guest.promoted', guest: vmid, point: done.point }, action.because);
          await performStart(record, done);
        }
        return;
      case 'start':
        // Of a promotion that an earlier agent ended, this only reads back where the disks came from.
        if (record?.order?.promote) {
          await performStart(record, await options.storage.promote(vmid, record.generation, record.order.promote));
        } else if (record !== null) await performStart(record);
        return;
    }
  };

  const performStart = async (record: GuestRecord, promoted: HaStatus['promoted'] = null) => {
    await report(statusOf(options.self, record, record.vmid, 'starting', 'starting'));
    const disks = await options.storage.openPrimary(record.vmid, record.generation);
    const order = await confirmOrder(options, record);
    if (order === null) return;
    const guest = await options.hypervisor.start({
      vmid: record.vmid,
      name: record.name,
      generation: record.generation,
      nodeEpoch: order.nodeEpoch,
      config: record.config,
      disks,
    });
    adoptProcess(guest);
    const qemuStartedAtMs = options.clock.wallMs();
    // Fresh bitmaps before the first guest write, so that a compare and everything after it misses nothing.
    await options.replication.armBitmaps(guest);
    await guest.resume();
    failures.delete(record.vmid);
    options.replication.startGuest(guest);
    options.log.info({ event: 'guest.started', guest: guest.vmid, generation: guest.generation, epoch: guest.nodeEpoch }, 'runs');
    await report({ ...statusOf(options.self, record, record.vmid, 'running', 'runs'), qemuStartedAtMs, promoted });
  };

  const step = async (vmid: number) => {
    const record = options.world.read<GuestRecord>(keys.guest(vmid))?.value ?? null;
    const copy = copies.get(vmid) ?? null;
    const process = running.get(vmid) ?? null;
    const action = planGuestAction({
      self: options.self,
      epoch: options.readEpoch(),
      record,
      want: options.world.read<HaResource>(keys.haResource(vmid))?.value.want ?? null,
      running: process === null ? null : { generation: process.generation, nodeEpoch: process.nodeEpoch },
      copy: copy === null ? null : { role: copy.role, generation: copy.generation },
    });
    const failure = failures.get(vmid);
    const failureKey = `${action.kind} ${record?.generation ?? 0} ${record?.order?.nodeEpoch ?? 0}`;
    if (failure?.key === failureKey && options.clock.bootMs() < failure.retryAtBootMs) return;
    try {
      await act(vmid, record, action);
      if (action.kind === 'none') await reportEnd(vmid, record, process);
    } catch (error) {
      const count = failure?.key === failureKey ? failure.count + 1 : 1;
      const waitMs = Math.min(limits.guestRetryMs * 2 ** (count - 1), limits.guestRetryMaxMs);
      failures.set(vmid, { key: failureKey, count, retryAtBootMs: options.clock.bootMs() + waitMs });
      options.log.warn(
        { event: 'guest.action-failed', guest: vmid, action: action.kind, err: error },
        `try ${count}, next in ${waitMs} ms`,
      );
      await killHalfStarted(running.get(vmid), process);
      const because = `${action.kind} failed (try ${count}): ${formatErrorChain(error)}`;
      await report(statusOf(options.self, record, vmid, 'failed', because)).catch((lower: unknown) => {
        if (!isAppError(lower)) throw lower;
      });
    }
  };

  const reportEnd = async (vmid: number, record: GuestRecord | null, process: RunningGuest | null) => {
    const order = record?.home === options.self ? record.order : null;
    if (order === null || order.nodeEpoch !== options.readEpoch()) return;
    const known = options.world.read<HaStatus>(keys.haStatus(vmid))?.value;
    const end = { orderId: order.id, result: 'ok' as const };
    if (known?.end?.orderId === order.id) return;
    if (order.kind === 'run' && process !== null) {
      const status = { ...statusOf(options.self, record, vmid, 'running', 'runs'), end };
      const isSame = known?.generation === record?.generation && known?.nodeEpoch === order.nodeEpoch;
      await report(isSame ? { ...status, qemuStartedAtMs: known.qemuStartedAtMs, promoted: known.promoted } : status);
    }
    if (order.kind === 'stop' && process === null)
      await report({ ...statusOf(options.self, record, vmid, 'stopped', 'stopped'), end });
  };

  const launch = (vmid: number) => {
    if (busy.has(vmid)) return;
    busy.add(vmid);
    void step(vmid)
      .catch((error: unknown) =>
        options.log.warn({ event: 'guest.step-failed', guest: vmid, err: error }, 'looked at again next round'),
      )
      .finally(() => {
        busy.delete(vmid);
      });
  };

  return {
    running: () => [...running.values()],
    async exclusively(vmid, work) {
      const giveUpAtBootMs = options.clock.bootMs() + limits.guestBusyMs;
      while (busy.has(vmid) && options.clock.bootMs() < giveUpAtBootMs) await new Promise((resolve) => setTimeout(resolve, 50));
      if (busy.has(vmid)) throw busyError(vmid);
      busy.add(vmid);
      try {
        return await work();
      } finally {
        busy.delete(vmid);
        options.bell.ring();
      }
    },
    async run(signal) {
      for (const guest of await options.hypervisor.adopt()) {
        options.log.info({ event: 'guest.adopted', guest: guest.vmid, generation: guest.generation }, `pid ${guest.pid}`);
        adoptProcess(guest);
        void endHalfStarted(guest, options.log).catch((error: unknown) =>
          options.log.warn({ event: 'guest.not-looked-at', guest: guest.vmid, err: error }, 'it may have been left half started'),
        );
        options.replication.startGuest(guest);
      }
      while (!signal.aborted) {
        if (options.world.isReady()) {
          copies = new Map((await options.storage.listCopies()).map((copy) => [copy.vmid, copy]));
          const vmids = new Set([
            ...options.world.list<GuestRecord>(prefixes.guests).map((entry) => entry.value.vmid),
            ...running.keys(),
          ]);
          for (const vmid of vmids) launch(vmid);
        }
        await options.bell.next(limits.agentRoundMs, signal);
      }
    },
  };
}

async function killHalfStarted(now: RunningGuest | undefined, before: RunningGuest | null): Promise<void> {
  // A QEMU that was spawned and then failed on the way must not linger with its disks open.
  if (now !== undefined && now !== before) await now.kill();
}

/**
 * The last look before a start, linearizable: the guest's record, this node's permit and what is wanted, as the store has them now. Returns the
 * order when it still holds; null when somebody moved first.
 */
async function confirmOrder(options: GuestLoopOptions, seen: GuestRecord): Promise<{ nodeEpoch: number } | null> {
  const record = await readRecord<GuestRecord>(options.store, keys.guest(seen.vmid));
  const permit = await readRecord<Permit>(options.store, keys.nodePermit(options.self));
  const resource = await readRecord<HaResource>(options.store, keys.haResource(seen.vmid));
  const order = record?.value.order ?? null;
  if (record === null || order === null || permit === null || resource?.value.want !== 'started') return null;
  const holds =
    record.value.home === options.self &&
    record.value.generation === seen.generation &&
    order.kind === 'run' &&
    permit.value.state === 'granted' &&
    permit.value.epoch === order.nodeEpoch &&
    options.readEpoch() === order.nodeEpoch;
  return holds ? { nodeEpoch: order.nodeEpoch } : null;
}

/**
 * Promotes this node's copy for a recovery. Returns null when the copy is unfit and this node has declined the order in the record: by
 * compare-and-set, so that from then on nothing here can start the guest under it, and the manager looks for the next copy.
 */
async function promoteOrDecline(
  options: GuestLoopOptions,
  seen: GuestRecord,
  point: ReplicaPoint,
): Promise<{ point: ReplicaPoint; pointAtMs: number } | null> {
  try {
    return await options.storage.promote(seen.vmid, seen.generation, point);
  } catch (error) {
    if (!isAppError(error, 'invalid', 'missing')) throw error;
    const because = formatErrorChain(error);
    const current = await readRecord<GuestRecord>(options.store, keys.guest(seen.vmid));
    const isStill = current?.value.home === options.self && current.value.generation === seen.generation;
    if (current === null || !isStill) return null;
    const declined = { node: options.self, point, lostAtMs: current.value.order?.lostAtMs ?? null, because };
    const next: GuestRecord = {
      ...current.value,
      order: null,
      declined: [...(current.value.declined ?? []), declined].slice(-limits.declinedKept),
    };
    const { write } = newEvent({
      kind: 'declined',
      node: options.self,
      vmid: seen.vmid,
      managerEpoch: 0,
      text: because,
      proof: null,
    });
    const outcome = await options.store.commit(
      [{ key: keys.guest(seen.vmid), modRevision: current.modRevision }],
      [{ key: keys.guest(seen.vmid), value: JSON.stringify(next) }, write],
    );
    options.log.warn({ event: 'guest.declined', guest: seen.vmid, outcome: outcome.kind }, because);
    return null;
  }
}

function statusOf(
  self: string,
  record: GuestRecord | null,
  vmid: number,
  state: HaStatus['state'],
  because: string,
): Omit<HaStatus, 'atMs'> {
  return {
    vmid,
    node: self,
    generation: record?.generation ?? 0,
    nodeEpoch: record?.order?.nodeEpoch ?? 0,
    state,
    because,
    qemuStartedAtMs: null,
    promoted: null,
  };
}

function busyError(vmid: number): AppError {
  return new AppError('busy', `guest ${vmid}: another action on it has not ended; try again`);
}
