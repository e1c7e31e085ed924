import type { Worker } from 'node:worker_threads';
import type { CryptKey } from '#core/backup/crypt-key.ts';
import type { ChunkPool } from './chunk-pool.ts';
import type { TreeWriterData } from './tree-jobs.ts';
import type { StartTreeReader } from './tree-source.ts';

/** Who starts the threads that the client works with. */
export type ClientWorkers = {
  /** `key` null: chunks are neither encrypted nor decrypted. */
  startPool(key: CryptKey | null): ChunkPool;
  startTreeReader: StartTreeReader;
  startTreeWriter(data: TreeWriterData): Worker;
};
