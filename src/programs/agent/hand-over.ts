import { AppError } from '#base/error.ts';
import { limits } from '#base/limits.ts';
import type { GivenUp, GuestRecord } from '#core/guest/guest-record.ts';
import { orderKey } from '#core/guest/order-tries.ts';
import type { HandedOver } from '#core/guest/process-state.ts';
import { keys } from '#core/ha/keys.ts';
import type { GuestMemory } from '#programs/agent/guest-memory.ts';
import { type Attempt, done, type GuestLoopOptions, skipped } from '#programs/agent/guest-world.ts';
import { newEvent } from '#programs/agent/ha-event.ts';
import type { StatusDesk } from '#programs/agent/status-desk.ts';
import { readRecord } from '#programs/agent/world.ts';

/**
 * The steps by which a guest leaves this node; core/guest/hand-over-plan.ts says which comes next.
 *
 *   pre-copy ─> halt ─> last point arrives ─> QEMU ends ─> noted in the manifest, announced ─> record: no order, given up
 *
 * Until the record says so the disks here are the guest's own: whatever fails on the way, it can run here again.
 */
export type HandOver = {
  preCopy(memory: GuestMemory, record: GuestRecord, to: string): Promise<Attempt>;
  halt(memory: GuestMemory, record: GuestRecord, because: string): Promise<Attempt>;
  /** `to` null: to every other node. */
  send(memory: GuestMemory, record: GuestRecord, to: string | null, because: string): Promise<Attempt>;
  giveUp(memory: GuestMemory, record: GuestRecord, handed: HandedOver, because: string): Promise<Attempt>;
};

export function createHandOver(options: GuestLoopOptions, desk: StatusDesk): HandOver {
  const { self, store, storage, replication, clock, log } = options;

  async function giveUp(memory: GuestMemory, seen: GuestRecord, handed: HandedOver, because: string): Promise<Attempt> {
    const { vmid } = seen;
    const key = keys.guest(vmid);
    const current = await readRecord<GuestRecord>(store, key);
    const isStill =
      current?.value.home === self &&
      current.value.generation === seen.generation &&
      current.value.order !== null &&
      current.value.order.id === seen.order?.id;
    if (current === null || !isStill) return skipped;
    // The node stays after all: the guest starts here again.
    if (current.value.order?.kind !== 'move' && options.readEnding() !== 'give-up') return skipped;
    const givenUp: GivenUp = {
      node: self,
      orderId: current.value.order?.kind === 'move' ? current.value.order.id : null,
      point: handed.point,
      copiedTo: handed.copiedTo,
      atMs: clock.wallMs(),
      because,
    };
    const next: GuestRecord = { ...current.value, order: null, givenUp };
    const text = `guest ${vmid} was given up: ${because}; ${handed.copiedTo.join(', ')} holds all of it`;
    const { write } = newEvent({ kind: 'given-up', node: self, vmid, managerEpoch: 0, text, proof: null });
    const outcome = await store.commit(
      [{ key, modRevision: current.modRevision }],
      [{ key, value: JSON.stringify(next) }, write],
    );
    if (outcome.kind === 'maybe') throw new AppError('unavailable', `give guest ${vmid} up: the store did not confirm it`);
    const downMs = memory.haltedAtBootMs === null ? null : clock.bootMs() - memory.haltedAtBootMs;
    memory.haltedAtBootMs = null;
    log.info({ event: 'guest.given-up', guest: vmid, outcome: outcome.kind, copiedTo: handed.copiedTo, downMs }, because);
    return outcome.kind === 'committed' ? done : skipped;
  }

  return {
    async preCopy(memory, record, to) {
      try {
        const lines = await replication.syncNow(record.vmid, to);
        memory.preCopiedUnder = orderKey(record);
        log.info({ event: 'guest.pre-copied', guest: record.vmid, to }, lines.join('; '));
        return done;
      } catch (error) {
        return { kind: 'failed', error };
      }
    },
    async halt(memory, record, because) {
      const { vmid } = record;
      const guest = memory.process;
      if (guest === null) return skipped;
      await desk.tell(record, { state: 'waiting', because: `is stopped for its hand-over: ${because}`, end: null });
      const beganBootMs = clock.bootMs();
      memory.haltedAtBootMs ??= beganBootMs;
      // A cycle under way would let the CPUs run again when it is done with its point.
      await replication.stopGuest(vmid);
      memory.state = 'halting';
      try {
        memory.state = await guest.halt({ deadlineMs: limits.guestShutdownMs });
      } catch (error) {
        return { kind: 'failed', error };
      }
      const how = memory.state === 'off' ? 'it powered down' : 'it did not power down in time: its CPUs were stopped';
      log.info({ event: 'guest.halted', guest: vmid, tookMs: clock.bootMs() - beganBootMs }, how);
      return done;
    },
    async send(memory, record, to, because) {
      const { vmid, generation } = record;
      const guest = memory.process;
      if (guest === null) return skipped;
      await desk.tell(record, { state: 'waiting', because: `its last state is on the way: ${because}`, end: null });
      const beganBootMs = clock.bootMs();
      const { arrived, failed } = await replication
        .sendLast(guest, to === null ? null : [to])
        .catch((error: unknown) => ({ arrived: null, failed: [error] }));
      if (arrived === null) {
        const cause = failed.length === 1 && failed[0] instanceof Error ? failed[0] : undefined;
        const words = cause === undefined ? `: ${failed.join('; ') || 'there is no other node'}` : '';
        return {
          kind: 'failed',
          error: new AppError('unavailable', `send the last state of guest ${vmid}${words}`, { cause }),
        };
      }
      const { bytes } = arrived.lastCycle;
      log.info({ event: 'guest.last-point', guest: vmid, bytes, tookMs: clock.bootMs() - beganBootMs, failed }, 'arrived');
      memory.isEnding = true;
      await guest.end();
      await storage.noteHandedOver(vmid, generation, { ...arrived, source: self });
      // Should the copy over there turn out unfit, this one is the next best, and the manager knows before it chooses.
      await replication.announce(vmid);
      return await giveUp(memory, record, arrived, because);
    },
    giveUp,
  };
}
