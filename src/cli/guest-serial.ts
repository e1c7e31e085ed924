import { AppError } from '#base/error.ts';
import { limits } from '#base/limits.ts';
import { guestDataPaths } from '#core/guest/guest-paths.ts';
import type { GuestRecord } from '#core/guest/guest-record.ts';
import { findGuest } from '#cli/records.ts';
import type { Session } from '#cli/session.ts';

/**
 * Prints the guest's serial log from its home node, and goes on with what comes when `follow` is set.
 * Raises AppError missing (no guest, no log) and unsupported (its home is another server).
 */
export async function followSerial(session: Session, numberOrName: string, follow: boolean): Promise<void> {
  const guest = await findGuest(session, numberOrName);
  const path = serialPath(session, guest);
  let offsetBytes = 0;
  for (;;) {
    const part = await session.world.readFileFrom(path, offsetBytes);
    if (part === null && !follow) {
      throw new AppError(
        'missing',
        `guest ${guest.vmid} ${guest.name} has no serial log on ${guest.home} (${path}); has it ever run there?`,
      );
    }
    // A log that became shorter was turned over: begin with the new one.
    offsetBytes = part?.nextBytes ?? 0;
    if (part !== null && part.text !== '') session.printer.show({ vmid: guest.vmid, text: part.text }, () => part.text);
    // A long log comes in parts; only at its end is there something to wait for.
    if (part !== null && part.text !== '') continue;
    if (!follow) return;
    await session.world.sleep(limits.cliPollMs);
  }
}

function serialPath({ place }: Session, guest: GuestRecord): string {
  if (place.kind === 'lab') return guestDataPaths(place.dataDirectoryOf(guest.home), guest.vmid).serialLog;
  if (place.node === guest.home) return guestDataPaths(place.dataDirectory, guest.vmid).serialLog;
  throw new AppError('unsupported', `guest ${guest.vmid} ${guest.name} is at home on ${guest.home}; run this command there`);
}
