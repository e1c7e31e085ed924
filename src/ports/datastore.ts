import type { BlobHeader } from '#core/backup/blob.ts';
import type { ByteRooms } from '#core/backup/byte-rooms.ts';
import type { IndexKind } from '#core/backup/chunk-index.ts';
import type { ClosedIndex, IndexWriter } from '#core/backup/index-writer.ts';
import type { JsonObject } from '#core/backup/canonical-json.ts';
import type { Manifest } from '#core/backup/manifest.ts';
import type { GroupId, SnapshotId } from '#core/backup/names.ts';
import type { KeepRule, KeepRules, PruneMark } from '#core/backup/prune.ts';

/** A chunk as it came: `digest` belongs to the data, `encoded` is a blob whose envelope and, if plain, content were checked. */
export type CheckedChunk = { digest: Uint8Array; sizeBytes: number; encoded: Uint8Array; header: BlobHeader };

export type SnapshotInfo = {
  snapshot: SnapshotId;
  owner: string | null;
  isFinished: boolean;
  isProtected: boolean;
  /** Seconds since 1970 before which nobody removes it; null: no such lock. */
  lockedUntil: number | null;
  files: string[];
};

/** `encodedBytes`: the size of its file. */
export type StoredManifest = Manifest & { encodedBytes: number };

export type GroupInfo = { group: GroupId; owner: string | null; notes: string | null; snapshots: SnapshotInfo[] };

export type UploadStats = { count: number; size: number; compressed_size: number; duplicates: number };

/** One backup being written. Until `finish` answers nothing of it counts; `abort` and a crash leave nothing. */
export interface BackupSession {
  readonly snapshot: SnapshotId;
  /** The newest finished snapshot of the group that no verification found bad; it cannot be removed while this session lasts. */
  /** What came so far, under the names that manifests use. */
  readonly stats: Readonly<UploadStats>;
  readonly base: { snapshot: SnapshotId; manifest: Manifest } | null;
  /** A file of the base as it is stored. An index also makes its chunks known here. Raises AppError missing. */
  readBase(name: string): Promise<Uint8Array>;
  /** Stores a chunk and makes it known here. Raises AppError conflict when one of another class lies there. */
  addChunk(chunk: CheckedChunk): Promise<{ isDuplicate: boolean }>;
  /** The size of a chunk that may be referred to; null: unknown in this session. */
  knownSize(digest: Uint8Array): number | null;
  startIndex(name: string, kind: IndexKind, options: { sizeBytes: number; reuseCsum: Uint8Array | null }): Promise<IndexWriter>;
  /** Stores a closed index. */
  addIndex(name: string, index: ClosedIndex): Promise<void>;
  /** Stores a blob; the manifest too, which becomes visible only with `finish`. Raises AppError invalid when its CRC is wrong. */
  addBlob(name: string, encoded: Uint8Array): Promise<void>;
  /** Makes the snapshot durable, then visible. Raises AppError invalid without a readable manifest, conflict when the base is gone. */
  finish(): Promise<void>;
  abort(): Promise<void>;
}

/** Files and chunks of one finished snapshot, which cannot be removed meanwhile. */
export interface SnapshotReader {
  readonly manifest: Manifest;
  read(name: string): Promise<Uint8Array>;
  close(): void;
}

export type GarbageResult = {
  indexFiles: number;
  /** Logical bytes of all indexes. */
  indexBytes: number;
  diskChunks: number;
  diskBytes: number;
  removedChunks: number;
  removedBytes: number;
  /** Not referred to by any snapshot, but known to a backup that is being written. */
  pendingChunks: number;
  pendingBytes: number;
  removedBad: number;
  stillBad: number;
  /** Referred to but not there. */
  missingChunks: number;
  /** Indexes that are damaged; what is left of them was respected. */
  warnings: string[];
};

/** `scan`: look at all folders of chunks first. `upid`: kept with the figures. `note`: hears how far it is. */
export type CollectOptions = { signal?: AbortSignal; scan?: boolean; upid?: string; note?: (text: string) => void };
export type VerifyResult = { snapshot: SnapshotId; problems: string[] };
export type PruneResult = { snapshot: SnapshotId; mark: PruneMark; rule: KeepRule | null; error: string | null };

/** A deduplicating store of backups. */
export interface Datastore {
  listNamespaces(parent: readonly string[]): Promise<string[][]>;
  createNamespace(namespace: readonly string[]): Promise<void>;
  /** With `withGroups` all groups and namespaces in it go first. Raises AppError conflict when something stays. */
  removeNamespace(namespace: readonly string[], options: { withGroups: boolean }): Promise<void>;
  listGroups(namespace: readonly string[]): Promise<GroupInfo[]>;
  readGroup(group: GroupId): Promise<GroupInfo>;
  changeOwner(group: GroupId, owner: string): Promise<void>;
  setGroupNotes(group: GroupId, notes: string): Promise<void>;
  /** Removes the snapshots of a group that may go, and the group when none is left. Raises AppError busy when a backup of it runs. */
  removeGroup(group: GroupId): Promise<{ removed: number; kept: { snapshot: SnapshotId; reason: string }[] }>;
  /** Raises AppError missing. */
  readSnapshot(snapshot: SnapshotId): Promise<SnapshotInfo>;
  readManifest(snapshot: SnapshotId): Promise<StoredManifest>;
  /** Replaces the unprotected part of a manifest by what `change` makes of it. */
  updateUnprotected(snapshot: SnapshotId, change: (unprotected: JsonObject) => JsonObject): Promise<void>;
  setProtected(snapshot: SnapshotId, isProtected: boolean): Promise<void>;
  /** Can be set later only, never earlier or away. */
  lockUntil(snapshot: SnapshotId, untilSeconds: number): Promise<void>;
  /** The client's log, once. Raises AppError conflict when there is one. */
  addLog(snapshot: SnapshotId, encoded: Uint8Array): Promise<void>;
  /** Raises AppError conflict when it is protected, locked until later, or in use. */
  removeSnapshot(snapshot: SnapshotId): Promise<void>;
  prune(group: GroupId, rules: KeepRules, options: { dryRun: boolean }): Promise<PruneResult[]>;
  /** Raises AppError denied when the group is somebody else's, busy when a backup runs, conflict for a time not after the last one. */
  startBackup(snapshot: SnapshotId, owner: string): Promise<BackupSession>;
  openSnapshot(snapshot: SnapshotId): Promise<SnapshotReader>;
  /** The chunk's file; null: not there. */
  readChunk(digest: Uint8Array, rooms?: ByteRooms): Promise<Uint8Array | null>;
  collectGarbage(options?: CollectOptions): Promise<GarbageResult>;
  /** The figures of the last collection as they are kept beside the chunks; null: there was none. */
  readGarbageStatus(): Promise<JsonObject | null>;
  verifySnapshot(
    snapshot: SnapshotId,
    upid: string,
    options?: { signal?: AbortSignal; notAfter?: number },
  ): Promise<VerifyResult>;
  /** The rolling verification of chunks: looks at `bytes` of those longest not looked at. */
  verifyChunks(options: { bytes: number; olderThan: number; signal?: AbortSignal }): Promise<{ checked: number; bad: string[] }>;
  readUsage(): Promise<{ totalBytes: number; availableBytes: number; chunks: number; chunkBytes: number }>;
  close(): Promise<void>;
}
