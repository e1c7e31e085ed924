import { isAppError } from '#base/error.ts';
import type { GuestAction } from '#core/guest/guest-plan.ts';
import type { GuestRecord } from '#core/guest/guest-record.ts';
import { createStarter } from '#programs/agent/guest-start.ts';
import type { GuestMemory } from '#programs/agent/guest-memory.ts';
import { type Attach, type Attempt, done, type GuestLoopOptions, skipped } from '#programs/agent/guest-world.ts';
import { createHandOver } from '#programs/agent/hand-over.ts';
import type { StatusDesk } from '#programs/agent/status-desk.ts';

/** Performs one planned action on one guest. Raises AppError; then it is planned afresh after a pause. */
export type PerformAction = (memory: GuestMemory, record: GuestRecord | null, action: GuestAction) => Promise<Attempt>;

export function createActions(options: GuestLoopOptions, desk: StatusDesk, attach: Attach): PerformAction {
  const { storage, replication, log } = options;
  const starter = createStarter(options, desk, attach);
  const handOver = createHandOver(options, desk);

  /** Ends the process as told by `work`; says so when the guest is ours to speak of. */
  async function stop(
    memory: GuestMemory,
    record: GuestRecord | null,
    because: string,
    work: () => Promise<void>,
  ): Promise<void> {
    memory.isEnding = true;
    await work();
    if (record === null || record.home !== options.self) return;
    await desk.tell(record, { state: 'stopped', because, end: record.order?.kind === 'stop' ? 'ok' : null });
  }

  async function revive(memory: GuestMemory): Promise<void> {
    const guest = memory.process;
    if (guest === null) return;
    memory.haltedAtBootMs = null;
    try {
      await guest.revive();
    } catch (error) {
      if (!isAppError(error, 'conflict')) throw error;
      memory.state = 'off';
      return;
    }
    memory.state = 'running';
    replication.startGuest(guest);
  }

  return async (memory, record, action) => {
    const { vmid, process } = memory;
    const { because } = action;
    switch (action.kind) {
      case 'none':
      case 'refuse':
        return skipped;
      case 'kill':
        log.warn({ event: 'guest.killed', guest: vmid }, because);
        memory.isEnding = true;
        await process?.kill();
        return done;
      case 'shutdown': {
        log.info({ event: 'guest.stopping', guest: vmid, timeoutMs: action.timeoutMs }, because);
        const deadlineMs = action.timeoutMs;
        await stop(memory, record, because, async () => (deadlineMs === 0 ? process?.kill() : process?.shutdown({ deadlineMs })));
        return done;
      }
      case 'end':
        log.info({ event: 'guest.ended', guest: vmid, state: memory.state }, because);
        await stop(memory, record, because, async () => process?.end());
        return done;
      case 'demote':
        log.info({ event: 'guest.demoted', guest: vmid, identicalTo: action.identicalTo }, because);
        await storage.demote(vmid, action.identicalTo);
        // What it is now may be the freshest copy there is.
        await replication.announce(vmid);
        return done;
      case 'revive':
        log.info({ event: 'guest.revived', guest: vmid }, because);
        await revive(memory);
        return done;
      case 'promote':
        return record === null ? skipped : await starter.promote(memory, record);
      case 'start':
        return record === null ? skipped : await starter.start(memory, record);
      case 'open':
        return record === null ? skipped : await starter.open(memory, record);
      case 'pre-copy':
        return record === null ? skipped : await handOver.preCopy(memory, record, action.to);
      case 'halt':
        return record === null ? skipped : await handOver.halt(memory, record, because);
      case 'hand-over':
        return record === null ? skipped : await handOver.send(memory, record, action.to, because);
      case 'give-up':
        return record === null ? skipped : await handOver.giveUp(memory, record, action.handed, because);
    }
  };
}
