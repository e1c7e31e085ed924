import type { Trouble } from '#adapters/backup-client/chunk-jobs.ts';
import type { LiveLimits } from '#core/guest-backup/live-limits.ts';
import type { Arrival } from '#core/storage/arrival.ts';
import type { ArrivingDisk } from '#ports/guest-storage.ts';
import type { TargetAccess } from '#programs/guest-backup/upload-messages.ts';

/**
 * The talk with the thread that serves and fills the disks of a guest that runs on them already:
 *
 *     (started with LiveStart) ─► serving ─► (source) ─► progress… ─► complete ─► it serves on until it is ended
 *                                               ▲             └─► lost: why. It serves on, and waits for another (source)
 *                                               └───────────────────┘                    at any time: trouble, and it ends
 */
export type LiveStart = {
  disks: ArrivingDisk[];
  arrival: Arrival;
  socketPath: string;
  /** Who may read: QEMU's user; null: whoever we are. */
  owner: { uid: number; gid: number } | null;
  limits: LiveLimits;
};

/** Where the content is to be had from now on. */
export type ToLive = { kind: 'source'; access: TargetAccess };

/** `owed`: chunks for which a guest's read failed and that are not here yet. `bad`: chunks that the server could not give, and why one of them. */
export type LiveProgress = {
  doneBytes: number;
  totalBytes: number;
  owed: number;
  bad: { count: number; because: string } | null;
};

export type FromLive =
  | { kind: 'serving' }
  | { kind: 'progress'; progress: LiveProgress }
  | { kind: 'lost'; error: Trouble }
  | { kind: 'complete' }
  | { kind: 'trouble'; error: Trouble };
