import type { Trouble } from '#adapters/backup-client/chunk-jobs.ts';
import type { CryptKey } from '#core/backup/crypt-key.ts';
import type { SnapshotId } from '#core/backup/names.ts';
import type { Repository } from '#core/backup/repository.ts';
import type { BackedUp, BackedUpDisk } from '#core/guest-backup/plan-backup.ts';

/** A backup server as it is reached from here, with its secrets. */
export type TargetAccess = {
  repository: Repository;
  fingerprint: Uint8Array | null;
  namespace: string[];
  secret: string;
  key: CryptKey | null;
};

/**
 * The talk with the thread that sends a guest's disks:
 *
 *     (started with UploadStart) ─► opened ─► (go) ─► progress… ─► uploaded ─► (finish) ─► finished        at any time: trouble, and it ends
 */
export type UploadStart = { access: TargetAccess; snapshot: SnapshotId };

export type UploadOrder = {
  /** QEMU's exports of the point, one a disk, named like it. */
  socketPath: string;
  disks: { name: string; sizeBytes: number }[];
  /** The bitmap that marks what changed since the last backup; null: everything is read. */
  bitmap: string | null;
  /** What has been read may be given back: it is kept for us only. */
  canRelease: boolean;
  guestBlob: Uint8Array;
  notes: string | null;
  rateBytesPerSecond: number | null;
};

export type ToUpload = { kind: 'go'; order: UploadOrder } | { kind: 'finish' };

/** `moved` grows whenever anything goes on. `isHeld`: it waits because of its rate. */
export type UploadProgress = {
  doneBytes: number;
  totalBytes: number;
  sentWireBytes: number;
  moved: number;
  isHeld: boolean;
};

export type UploadedFigures = {
  totalBytes: number;
  readBytes: number;
  chunks: number;
  sentChunks: number;
  sentDataBytes: number;
  sentWireBytes: number;
};

export type FromUpload =
  | { kind: 'opened'; previous: BackedUp | null }
  | { kind: 'progress'; progress: UploadProgress }
  | { kind: 'uploaded'; disks: BackedUpDisk[]; figures: UploadedFigures }
  | { kind: 'finished' }
  | { kind: 'trouble'; error: Trouble };
