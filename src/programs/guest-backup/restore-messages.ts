import type { Trouble } from '#adapters/backup-client/chunk-jobs.ts';
import type { SnapshotId } from '#core/backup/names.ts';
import type { BackedUpGuest } from '#core/guest-backup/guest-blob.ts';
import type { NbdPlace } from '#ports/guest-storage.ts';
import type { BackupChoice } from '#programs/guest-backup/choose-snapshot.ts';
import type { TargetAccess } from '#programs/guest-backup/upload-messages.ts';

/** The talk with the thread that fetches: opened ─► (disk and where to ─► progress… ─► restored)*        at any time: trouble, and it ends. */
export type RestoreStart = { access: TargetAccess; from: BackupChoice };
/** `path`: a new file or a block device. `place`: a disk of which only what differs is written. */
export type ToRestore = { disk: string; to: { kind: 'path'; path: string } | { kind: 'place'; place: NbdPlace } };
export type FromRestore =
  | { kind: 'opened'; snapshot: SnapshotId; guest: BackedUpGuest }
  | { kind: 'progress'; disk: string; doneBytes: number; totalBytes: number }
  | { kind: 'restored'; disk: string; changedBytes: number }
  | { kind: 'trouble'; error: Trouble };
