import { formatErrorChain, isAppError } from '#base/error.ts';
import { limits } from '#base/limits.ts';
import { diskHolderConfig } from '#core/guest/disk-holder.ts';
import type { GuestConfig, GuestOrder, GuestRecord, ReplicaPoint } from '#core/guest/guest-record.ts';
import { noteStarted } from '#core/guest/order-tries.ts';
import { keys } from '#core/ha/keys.ts';
import type { HaResource, HaStatus, Permit } from '#core/ha/records.ts';
import type { DiskChain, RunningGuest } from '#ports/hypervisor.ts';
import type { GuestMemory } from '#programs/agent/guest-memory.ts';
import { type Attach, type Attempt, done, type GuestLoopOptions, skipped } from '#programs/agent/guest-world.ts';
import { newEvent } from '#programs/agent/ha-event.ts';
import type { StatusDesk } from '#programs/agent/status-desk.ts';
import { readRecord } from '#programs/agent/world.ts';

/**
 * Starts of QEMU: to run the guest, or only to open its disks (a guest that moves while it is stopped).
 *
 *   tell "starting" ─> confirm order and permit ─> chains of the primary copy ─> spawn, CPUs stopped ─> arm bitmaps ─┬─> let it run
 *                                                                                                                 └─> leave it so
 */
export type Starter = {
  /** Promotes the copy here and, when the guest is to run, starts it. A copy that is unfit is declined. */
  promote(memory: GuestMemory, record: GuestRecord): Promise<Attempt>;
  start(memory: GuestMemory, record: GuestRecord): Promise<Attempt>;
  open(memory: GuestMemory, record: GuestRecord): Promise<Attempt>;
};

export function createStarter(options: GuestLoopOptions, desk: StatusDesk, attach: Attach): Starter {
  const { self, storage, hypervisor, replication, clock, log } = options;

  async function run(
    memory: GuestMemory,
    record: GuestRecord,
    promoted: HaStatus['promoted'],
    begunBootMs: number,
  ): Promise<Attempt> {
    await desk.tell(record, { state: 'starting', because: 'starting', end: null });
    const isWanted = await isWantedStarted(record.vmid);
    const nodeEpoch = await confirmOrder(options, record, ['run']);
    if (nodeEpoch === null || !isWanted || options.readEnding() !== null) return skipped;
    const disks = await openDisks(record);
    let qemuStartedAtMs: number;
    let startTookMs: number;
    try {
      const guest = await spawn(record, record.config, nodeEpoch, disks);
      qemuStartedAtMs = clock.wallMs();
      // Fresh bitmaps before the first guest write, so that a compare and everything after it misses nothing.
      await replication.armBitmaps(guest);
      await guest.resume();
      startTookMs = clock.bootMs() - begunBootMs;
      memory.state = 'running';
      memory.tries = noteStarted(memory.tries, clock.bootMs());
      replication.startGuest(guest);
      log.info({ event: 'guest.started', guest: guest.vmid, generation: guest.generation, epoch: nodeEpoch }, 'runs');
    } catch (error) {
      return await abandon(memory, nodeEpoch, error);
    }
    const started = { qemuStartedAtMs, promoted, startTookMs };
    // Whether the order has ended with that is told by the next round, from what it finds.
    await desk.tell(record, { state: 'running', because: 'runs', end: null, started });
    return done;
  }

  /** The chains of the primary copy. Without them no other attempt can do better, and that is told at once. */
  async function openDisks(record: GuestRecord): Promise<DiskChain[]> {
    try {
      return await storage.openPrimary(record.vmid, record.generation);
    } catch (error) {
      if (!isAppError(error, 'missing')) throw error;
      await desk.tell(record, { state: 'failed', because: formatErrorChain(error), end: 'broken' });
      throw error;
    }
  }

  async function spawn(
    { vmid, name, generation }: GuestRecord,
    config: GuestConfig,
    nodeEpoch: number,
    disks: DiskChain[],
  ): Promise<RunningGuest> {
    const guest = await hypervisor.start({ vmid, name, generation, nodeEpoch, config, disks });
    attach(guest);
    return guest;
  }

  /** A QEMU that was spawned and then failed on the way must not linger with its disks open. */
  async function abandon(memory: GuestMemory, nodeEpoch: number, error: unknown): Promise<Attempt> {
    memory.isEnding = true;
    await memory.process?.kill();
    // The epoch was taken away meanwhile: that says nothing about the guest.
    if (options.readEpoch() !== nodeEpoch) throw error;
    return { kind: 'failed', error };
  }

  async function isWantedStarted(vmid: number): Promise<boolean> {
    return (await readRecord<HaResource>(options.store, keys.haResource(vmid)))?.value.want === 'started';
  }

  return {
    async promote(memory, record) {
      const { vmid, generation, order } = record;
      if (order === null || order.promote === null) return skipped;
      const begunBootMs = clock.bootMs();
      const promoted = await promoteOrDecline(options, record, order.promote);
      if (promoted === null) {
        await desk.tell(record, { state: 'waiting', because: `the copy on ${self} does not verify`, end: null });
        return done;
      }
      log.info(
        { event: 'guest.promoted', guest: vmid, generation, point: promoted.point },
        'its disks are this copy from now on',
      );
      return order.kind === 'run' && options.readEnding() === null ? await run(memory, record, promoted, begunBootMs) : done;
    },
    async start(memory, record) {
      // Of a promotion that an earlier agent ended, this only reads back where the disks came from.
      const { vmid, generation } = record;
      const promote = record.order?.promote ?? null;
      const begunBootMs = clock.bootMs();
      const promoted = promote === null ? null : await storage.promote(vmid, generation, promote);
      return await run(memory, record, promoted, begunBootMs);
    },
    async open(memory, record) {
      const nodeEpoch = await confirmOrder(options, record, ['move', 'run']);
      if (nodeEpoch === null) return skipped;
      const disks = await openDisks(record);
      try {
        const guest = await spawn(record, diskHolderConfig(record.config), nodeEpoch, disks);
        await replication.armBitmaps(guest);
        memory.state = 'prelaunch';
        log.info(
          { event: 'guest.opened', guest: guest.vmid, generation: guest.generation },
          'its disks are open, it does not run',
        );
        return done;
      } catch (error) {
        return await abandon(memory, nodeEpoch, error);
      }
    },
  };
}

/**
 * The last look before a start, linearizable: the guest's record and this node's permit, as the store has them now. Returns the node's epoch when
 * the order that was seen still holds and is of one of these kinds; null when somebody moved first.
 */
async function confirmOrder(
  options: GuestLoopOptions,
  seen: GuestRecord,
  kinds: readonly GuestOrder['kind'][],
): Promise<number | null> {
  const record = await readRecord<GuestRecord>(options.store, keys.guest(seen.vmid));
  const permit = await readRecord<Permit>(options.store, keys.nodePermit(options.self));
  const order = record?.value.order ?? null;
  if (record === null || order === null || permit === null || seen.order === null) return null;
  const holds =
    record.value.home === options.self &&
    record.value.generation === seen.generation &&
    order.id === seen.order.id &&
    order.kind === seen.order.kind &&
    kinds.includes(order.kind) &&
    permit.value.state === 'granted' &&
    permit.value.epoch === order.nodeEpoch &&
    options.readEpoch() === order.nodeEpoch;
  return holds ? order.nodeEpoch : null;
}

/**
 * Promotes this node's copy. Returns null when the copy is unfit and this node has declined the order in the record: by compare-and-set, so that
 * from then on nothing here can start the guest under it, and the manager looks for the next copy.
 */
async function promoteOrDecline(
  options: GuestLoopOptions,
  seen: GuestRecord,
  point: ReplicaPoint,
): Promise<{ point: ReplicaPoint; pointAtMs: number } | null> {
  try {
    return await options.storage.promote(seen.vmid, seen.generation, point);
  } catch (error) {
    // A conflict lasts as well: what lies here is older than the point, or not a copy that can be promoted.
    if (!isAppError(error, 'invalid', 'missing', 'conflict')) throw error;
    const because = formatErrorChain(error);
    const current = await readRecord<GuestRecord>(options.store, keys.guest(seen.vmid));
    const isStill =
      current?.value.home === options.self &&
      current.value.generation === seen.generation &&
      current.value.order?.id === seen.order?.id;
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
