import type { Trouble } from '#adapters/backup-client/chunk-jobs.ts';
import type { SnapshotId } from '#core/backup/names.ts';
import type { BackedUpGuest } from '#core/guest-backup/guest-blob.ts';
import type { NbdPlace } from '#ports/guest-storage.ts';
import type { BackupChoice } from '#programs/guest-backup/choose-snapshot.ts';
import type { TargetAccess } from '#programs/guest-backup/upload-messages.ts';

/**
 * The talk with the thread that fetches: opened ─► (disk and where to ─► progress… ─► restored, or to measure it ─► measured)*        at any time:
 * trouble, and it ends.
 */
export type RestoreStart = { access: TargetAccess; from: BackupChoice };
/** `path`: a new file or a block device. `place`: a disk of which only what differs is written. */
export type ToRestore = { disk: string; to: RestorePlace | { kind: 'nowhere' } };
export type RestorePlace = { kind: 'path'; path: string } | { kind: 'place'; place: NbdPlace };
/** How a disk lies in the backup; see Arrival. */
export type MeasuredDisk = { sizeBytes: number; chunkBytes: number; csum: string };
export type FromRestore =
  | { kind: 'opened'; snapshot: SnapshotId; guest: BackedUpGuest }
  | { kind: 'progress'; disk: string; doneBytes: number; totalBytes: number }
  | { kind: 'restored'; disk: string; changedBytes: number }
  | ({ kind: 'measured' } & MeasuredDisk)
  | { kind: 'trouble'; error: Trouble };
