import { AppError } from '#base/error.ts';
import { limits } from '#base/limits.ts';
import type { GuestRecord } from '#core/guest/guest-record.ts';
import { keys } from '#core/ha/keys.ts';
import type { HaResource, HaStatus } from '#core/ha/records.ts';
import { refuseUnlessItFits } from '#cli/admission.ts';
import { startProgress } from '#cli/progress.ts';
import { changeRecord, findGuest, readRecord } from '#cli/records.ts';
import type { Session } from '#cli/session.ts';

/**
 * Records that a guest is wanted started or stopped and waits until its home says that it is so.
 * Raises AppError missing (no such guest), timeout (the wish stays recorded), conflict (it would not fit after a loss; the manager gave it up as failed).
 */
export async function setWanted(
  session: Session,
  numberOrName: string,
  want: 'started' | 'stopped',
  options: { wait: boolean; deadlineMs: number; force: boolean },
): Promise<void> {
  const guest = await findGuest(session, numberOrName);
  if (want === 'started' && !options.force) await refuseNewStart(session, guest);
  const askedAtMs = session.world.nowMs();
  await changeRecord<HaResource>(session, keys.haResource(guest.vmid), `what is wanted of guest ${guest.vmid}`, (current) => ({
    ...(current ?? { vmid: guest.vmid, maxDataAgeMs: null }),
    want,
  }));
  if (!options.wait) {
    session.printer.show({ vmid: guest.vmid, want }, () => `guest ${guest.vmid} ${guest.name} is wanted ${want}\n`);
    return;
  }
  const status = await followStatus(session, guest, want, askedAtMs, options.deadlineMs);
  const because = status === null ? '' : ` (${status.because})`;
  const text = want === 'started' ? `runs on ${status?.node ?? guest.home}${because}` : `is stopped${because}`;
  session.printer.show({ vmid: guest.vmid, want, status }, () => `guest ${guest.vmid} ${guest.name} ${text}\n`);
}

/** As refuseUnlessItFits, but for a guest that is wanted started already nothing would change. */
export async function refuseNewStart(session: Session, guest: GuestRecord): Promise<void> {
  const resource = await readRecord<HaResource>(session, keys.haResource(guest.vmid));
  if (resource?.want !== 'started') await refuseUnlessItFits(session, guest);
}

async function followStatus(
  session: Session,
  guest: GuestRecord,
  want: 'started' | 'stopped',
  askedAtMs: number,
  deadlineMs: number,
): Promise<HaStatus | null> {
  using progress = startProgress(session.world.err);
  let last = 'its home has not answered yet';
  for (;;) {
    const status = await readRecord<HaStatus>(session, keys.haStatus(guest.vmid));
    const record = await readRecord<GuestRecord>(session, keys.guest(guest.vmid));
    if (record === null) throw new AppError('missing', `waiting for guest ${guest.vmid}: it was removed meanwhile`);
    const current = status !== null && status.node === record.home && status.generation === record.generation ? status : null;
    if (isReached(want, current, record)) return current;
    if (current !== null) last = `${current.state} on ${current.node}: ${current.because}`;
    // A start that failed on one node is tried again, here and on others; only the manager gives the guest up.
    if (want === 'started' && record.ha?.state.kind === 'failed') {
      const clear = `holdfast ha set ${guest.vmid} --want disabled, then start it again`;
      throw new AppError(
        'conflict',
        `starting guest ${guest.vmid} ${guest.name}: ${record.ha.because} (${last}); clear the failure with: ${clear}`,
      );
    }
    const waitedMs = session.world.nowMs() - askedAtMs;
    if (waitedMs > deadlineMs) {
      const wish = `the wish stays recorded; see \`holdfast guest show ${guest.vmid}\``;
      throw new AppError('timeout', `waiting for guest ${guest.vmid} ${guest.name} to be ${want}: ${last}; ${wish}`);
    }
    progress.say(`guest ${guest.vmid} ${guest.name}: ${last}`);
    await session.world.sleep(limits.cliPollMs);
  }
}

/** A guest that never ran or failed has no more to say once its order is no longer to run. */
function isReached(want: 'started' | 'stopped', current: HaStatus | null, record: GuestRecord): boolean {
  if (want === 'started') return current?.state === 'running';
  const runs = current?.state === 'running' || current?.state === 'starting';
  return current?.state === 'stopped' || (!runs && record.order?.kind !== 'run');
}
