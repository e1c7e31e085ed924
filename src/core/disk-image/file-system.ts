import type { Reading, Volume } from './reading.ts';

/** A file in a file system that is only read. `id`: what the file system calls it. */
export type FileNode = {
  id: number;
  kind: 'file' | 'directory' | 'link' | 'other';
  sizeBytes: number;
  /** Permission bits; null: the file system has none. */
  mode: number | null;
  uid: number;
  gid: number;
  mtimeMs: number;
};

export type FileEntry = { name: string; id: number };

export type FileSystem = {
  kind: string;
  label: string;
  /** What people should know about what they see. */
  notes: string[];
  rootId: number;
  look(id: number): Reading<FileNode>;
  /** Without `.` and `..`. Raises AppError unless it is a directory. */
  list(node: FileNode): Reading<FileEntry[]>;
  /** `bytes` of a file from `at` on, no more than it has. */
  read(node: FileNode, at: number, bytes: number): Reading<Uint8Array>;
  readLink(node: FileNode): Reading<string>;
};

/** Looks whether a volume holds it; null: it does not. Raises AppError when it does and cannot be read. */
export type OpenFileSystem = (volume: Volume) => Reading<FileSystem | null>;

/** A directory of more entries than this is not believed. */
export const mostEntries = 2_000_000;
/** Nor one that is longer, however many holes it has. */
export const mostDirectoryBytes = 2 ** 30;
