import { AppError } from '#base/error.ts';
import { decodeText, encodeText } from '#core/backup/bytes.ts';
import { checkGuestConfig } from '#core/guest/guest-config-rules.ts';
import type { GuestConfig } from '#core/guest/guest-record.ts';
import type { BackupConsistency } from '#core/guest-backup/records.ts';

/** The file of a backup that says what the guest is. */
export const guestBlobName = 'holdfast-guest.json.blob';

/** The file of a backup that holds a disk. */
export function diskArchiveName(disk: string): string {
  return `drive-${disk}.img.fidx`;
}

/** The disk that a file of a backup holds; null: it is another file. */
export function diskOfArchive(name: string): string | null {
  return /^drive-([a-z][a-z0-9]*)\.img\.fidx$/.exec(name)?.[1] ?? null;
}

/** A guest as it is kept beside its disks. `pointAtMs`: wall clock of the guest at the point. */
export type BackedUpGuest = {
  version: 1;
  vmid: number;
  name: string;
  config: GuestConfig;
  home: string;
  generation: number;
  pointAtMs: number;
  consistency: BackupConsistency;
};

export function formatGuestBlob(guest: BackedUpGuest): Uint8Array {
  return encodeText(`${JSON.stringify(guest, null, 2)}\n`);
}

/** Raises AppError invalid, naming what is wrong with it, unless it is a guest that could be made. */
export function parseGuestBlob(bytes: Uint8Array): BackedUpGuest {
  const text = decodeText(bytes, guestBlobName);
  let guest: Partial<BackedUpGuest> | null;
  try {
    guest = JSON.parse(text) as Partial<BackedUpGuest> | null;
  } catch (cause) {
    throw new AppError('invalid', `${guestBlobName}: not JSON`, { cause });
  }
  const { version, vmid, name, config } = guest ?? {};
  if (version !== 1) throw new AppError('invalid', `${guestBlobName}: version ${JSON.stringify(version)} is not known here`);
  const isShaped =
    typeof vmid === 'number' && typeof name === 'string' && Array.isArray(config?.disks) && Array.isArray(config.nics);
  if (!isShaped || config === undefined) throw new AppError('invalid', `${guestBlobName}: vmid, name or config is missing`);
  checkGuestConfig(config);
  return guest as BackedUpGuest;
}
