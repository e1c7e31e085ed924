import type { BackupKind } from '#core/guest-backup/records.ts';

/** A disk as it lies in a backup. `csum`: hex, of its index. */
export type BackedUpDisk = { name: string; sizeBytes: number; csum: string };

/** One backup of a guest. `key`: fingerprint of what it was encrypted with, hex; null: not encrypted. */
export type BackedUp = { group: string; atSeconds: number; key: string | null; disks: BackedUpDisk[] };

/** What the bitmap for one target counts from. `pending`: a backup whose end was not heard of; the bitmap holds every write after it too. */
export type BackupBasis = { base: BackedUp | null; pending: BackedUp | null };

/**
 * How to make the next backup: by the bitmap when the newest backup at the target is one that it counts from, else by comparing everything with
 * that one, else whole. `previous`: what the target says is the newest usable one.
 */
export function planBackup(
  disks: readonly { name: string; sizeBytes: number }[],
  basis: BackupBasis | null,
  previous: BackedUp | null,
): { kind: BackupKind; because: string } {
  if (previous === null) return { kind: 'whole', because: 'the target has no earlier backup to build on' };
  if (basis === null) return compare('the writes of this guest were not followed until now');
  const known = [basis.base, basis.pending].find((one) => one !== null && isSame(one, previous));
  if (known === undefined || known === null) return compare('the newest backup there is another one than its bitmap counts from');
  const fits =
    disks.length === previous.disks.length &&
    disks.every((disk) => previous.disks.some(({ name, sizeBytes }) => name === disk.name && sizeBytes === disk.sizeBytes));
  if (!fits) return compare('disks were added, removed or resized since the last backup');
  return { kind: 'delta', because: 'its bitmap counts from the newest backup there' };
}

function isSame(a: BackedUp, b: BackedUp): boolean {
  const text = ({ disks, group, atSeconds, key }: BackedUp): string =>
    JSON.stringify([
      group,
      atSeconds,
      key,
      disks
        .map(({ name, sizeBytes, csum }) => [name, sizeBytes, csum])
        .toSorted((x, y) => String(x[0]).localeCompare(String(y[0]))),
    ]);
  return text(a) === text(b);
}

function compare(because: string): { kind: BackupKind; because: string } {
  return { kind: 'compare', because };
}
