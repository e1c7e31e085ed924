import type { ByteFunctions } from '#core/backup/byte-functions.ts';
import type { ChunkVerdict } from '#core/backup/chunk-check.ts';
import type { LocalTime } from '#core/backup/prune.ts';
import type { StoreFiles } from './store-files.ts';

/** What a datastore is made of; all that is not decided by its files. */
export type StoreParts = {
  files: StoreFiles;
  functions: ByteFunctions;
  /** Reads the chunk's file and judges it, perhaps in a worker; null: not there. */
  checkChunk: (path: string, digest: Uint8Array) => Promise<ChunkVerdict | null>;
  /** How many checks may run at once. */
  checkers: number;
  nowMs: () => number;
  randomBytes: (count: number) => Uint8Array;
  toLocal: (atSeconds: number) => LocalTime;
  /** What is on disk when a backup is acknowledged: nothing for sure, each file as it is written, or all of it at the end. */
  sync: 'none' | 'file' | 'filesystem';
  /** Every new snapshot is locked for so long from its finish on; missing or 0: not at all. */
  lockSeconds?: number;
  /** Space kept for removing when all else is full; missing or 0: none. */
  reserveBytes?: number;
  /** Collections set access times of all chunks in use, for a program that collects by them. */
  touchesChunks?: boolean;
  /** Folders of chunks that each collection lists to see whether they are as known; missing: 1,024. */
  foldersInTurn?: number;
};

/** Own records below the datastore's root; a leading dot keeps the original away from them. */
export const own = {
  root: '.holdfast',
  temporary: '.holdfast/tmp',
  trash: '.holdfast/trash',
  sessions: '.holdfast/sessions',
  reserve: '.holdfast/reserve',
  chunkLog: '.holdfast/chunks.log',
  checkpoint: '.holdfast/checkpoint',
  /** There while no process has the store open: then the chunk log is complete. */
  clean: '.holdfast/clean',
} as const;
