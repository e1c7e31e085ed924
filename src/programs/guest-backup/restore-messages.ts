import type { Trouble } from '#adapters/backup-client/chunk-jobs.ts';
import type { SnapshotId } from '#core/backup/names.ts';
import type { BackedUpGuest } from '#core/guest-backup/guest-blob.ts';
import type { TargetAccess } from '#programs/guest-backup/upload-messages.ts';

/** The talk with the thread that fetches: opened ─► (disk and path ─► progress… ─► restored)*        at any time: trouble, and it ends. */
export type RestoreStart = { access: TargetAccess; from: { vmid: number; atSeconds: number | null } };
export type ToRestore = { disk: string; path: string };
export type FromRestore =
  | { kind: 'opened'; snapshot: SnapshotId; guest: BackedUpGuest }
  | { kind: 'progress'; disk: string; doneBytes: number; totalBytes: number }
  | { kind: 'restored'; disk: string }
  | { kind: 'trouble'; error: Trouble };
