import type { ByteRooms } from '#core/backup/byte-rooms.ts';

/** What a name in a folder is. */
export type FolderEntry = { name: string; isFolder: boolean };

/** Held until `release`, or until this process ends. */
export type FileLock = { release(): void };

/**
 * The file operations of a datastore; paths are relative to its root. They are few and each is atomic for others, so that a test can
 * stand in for them, choose the order in which they happen, and cut them off anywhere.
 * Troubles other than "not there" are AppErrors: unavailable, or busy with no space left.
 */
export type StoreFiles = {
  /** null: not there. `rooms`: where the memory comes from; whoever asks gives it back. */
  read(path: string, rooms?: ByteRooms): Promise<Uint8Array | null>;
  /** Size, and the first `bytes` of the content; null: not there. */
  peek(path: string, bytes: number): Promise<{ sizeBytes: number; head: Uint8Array } | null>;
  list(path: string): Promise<FolderEntry[] | null>;
  /** When a folder's entries last changed, milliseconds since 1970 by the file system's clock; null: not there. */
  changedAt(path: string): Promise<number | null>;
  /** Writes a whole file under a temporary name and renames it; others see the old or the new. `sync`: on disk before it has its name. A folder
   * that is gone is made again for chunks alone. */
  replace(path: string, content: Uint8Array, sync: boolean): Promise<void>;
  /** The same, but false and nothing changed when there is one already. */
  createNew(path: string, content: Uint8Array): Promise<boolean>;
  append(path: string, content: Uint8Array): Promise<void>;
  rename(from: string, to: string): Promise<void>;
  /** False: it was not there. */
  remove(path: string): Promise<boolean>;
  removeTree(path: string): Promise<void>;
  /** False: it is not there, or not empty. */
  removeFolder(path: string): Promise<boolean>;
  /** With its parents; false: it was there. */
  makeFolder(path: string): Promise<boolean>;
  /** Makes many inside folders that are there; those that exist stay. */
  makeFolders(paths: readonly string[]): Promise<void>;
  /** Sets the access time to now and leaves the modification time. False: not there. */
  touch(path: string): Promise<boolean>;
  /** The folder's entries are on disk. */
  syncFolder(path: string): Promise<void>;
  /** Everything on this file system is on disk. */
  syncAll(): Promise<void>;
  /** An advisory lock (flock), never waiting; null: somebody else holds one that excludes it, or the path is gone. */
  lock(path: string, mode: 'shared' | 'exclusive'): Promise<FileLock | null>;
  /** The lock of the whole process on `.lock` (fcntl): own locks do not exclude each other. Null as above. */
  lockProcess(mode: 'shared' | 'exclusive'): Promise<FileLock | null>;
  space(): Promise<{ totalBytes: number; availableBytes: number }>;
};
