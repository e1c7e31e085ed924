import { AppError } from '#base/error.ts';
import { limits } from '#base/limits.ts';
import type { GuestRecord } from '#core/guest/guest-record.ts';
import { keys } from '#core/ha/keys.ts';
import { targetOf } from '#core/ha/manager/memory.ts';
import type { HaStatus } from '#core/ha/records.ts';
import { startProgress } from '#cli/progress.ts';
import { readRecord } from '#cli/records.ts';
import type { Session } from '#cli/session.ts';

/** How a move ended. `downMs`: how long the guest did not run, as seen from here; null: it did not run before, or it was not seen. */
export type MoveEnd = { node: string; runs: boolean; downMs: number | null };

type Look = { record: GuestRecord; status: HaStatus | null };

/**
 * Waits until a guest that the manager was told to move lives on `to`: running, or put down there when it is not to run.
 * Raises AppError conflict (it stays elsewhere), missing (removed meanwhile), timeout (it goes on without us).
 */
export async function followMove(session: Session, guest: GuestRecord, to: string, deadlineMs: number): Promise<MoveEnd> {
  const { world } = session;
  const begunAtMs = world.nowMs();
  using progress = startProgress(world.err);
  let seenMoving = false;
  let ranBefore = false;
  let downSinceMs: number | null = null;
  for (;;) {
    const look = await lookAt(session, guest.vmid);
    const runs = isRunning(look);
    if (runs && look.record.home !== to) ranBefore = true;
    if (!runs && ranBefore) downSinceMs ??= world.nowMs();
    const heading = headsTo(look, to);
    seenMoving ||= heading;
    const end = endOf(look, to);
    if (end !== null) return { ...end, downMs: end.runs && downSinceMs !== null ? world.nowMs() - downSinceMs : null };
    const waitedMs = world.nowMs() - begunAtMs;
    if (look.record.home !== to && !heading && isSettled(look) && (seenMoving || waitedMs > limits.moveBeginMs)) {
      const because = look.record.ha?.because ?? 'the manager does not manage it any more';
      throw new AppError(
        'conflict',
        `moving guest ${guest.vmid} ${guest.name} to ${to}: it stays on ${look.record.home} (${because}); see \`holdfast ha show ${guest.vmid}\``,
      );
    }
    const now = `${look.record.ha?.state.kind ?? 'not managed'} on ${look.record.home}`;
    if (waitedMs > deadlineMs) {
      throw new AppError(
        'timeout',
        `moving guest ${guest.vmid} ${guest.name} to ${to}: it is ${now}; the move goes on, see \`holdfast ha show ${guest.vmid}\``,
      );
    }
    progress.say(`guest ${guest.vmid} ${guest.name}: ${now}`);
    await world.sleep(limits.cliPollMs);
  }
}

async function lookAt(session: Session, vmid: number): Promise<Look> {
  const record = await readRecord<GuestRecord>(session, keys.guest(vmid));
  if (record === null) throw new AppError('missing', `waiting for guest ${vmid}: it was removed meanwhile`);
  const status = await readRecord<HaStatus>(session, keys.haStatus(vmid));
  const current = status !== null && status.node === record.home && status.generation === record.generation;
  return { record, status: current ? status : null };
}

function isRunning({ status }: Look): boolean {
  return status?.state === 'running';
}

/** The move was queued, or is under way. */
function headsTo({ record: { ha } }: Look, to: string): boolean {
  if (ha === undefined) return false;
  return targetOf(ha.state) === to || (ha.command?.kind === 'move' && ha.command.to === to);
}

/** Nothing is under way by which it could still arrive. */
function isSettled({ record: { ha } }: Look): boolean {
  if (ha === undefined) return true;
  return !['moving-live', 'moving-cold', 'start-requested-elsewhere', 'awaiting-fence', 'awaiting-recovery'].includes(
    ha.state.kind,
  );
}

function endOf(look: Look, to: string): Omit<MoveEnd, 'downMs'> | null {
  const { record } = look;
  if (record.home !== to || record.ha === undefined || record.ha.node !== to) return null;
  if (isRunning(look)) return { node: to, runs: true };
  return record.ha.state.kind === 'inactive' ? { node: to, runs: false } : null;
}
