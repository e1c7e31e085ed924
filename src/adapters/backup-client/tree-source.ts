import type { Worker } from 'node:worker_threads';
import { AppError } from '#base/error.ts';
import type { CatalogPart } from '#core/backup/catalog.ts';
import { chunkRoomBytes } from '#core/backup/chunk-buffer.ts';
import { defaultChunkBytes } from '#core/backup/chunker.ts';
import type { ChunkPool, HeldChunk } from './chunk-pool.ts';
import type { TreeReaderData, TreeReaderWord } from './tree-jobs.ts';
import type { TreeFigures } from './tree-reader.ts';
import { raiseTrouble } from './trouble.ts';

export type TreeEnd = { figures: TreeFigures; catalog: CatalogPart };

/** Starts the worker that reads a tree; it fills the buffers that `giveRoom` gives it. */
export type StartTreeReader = (data: Omit<TreeReaderData, 'credits'>) => {
  worker: Worker;
  giveRoom: (room: ArrayBuffer) => void;
};

/** The chunks of a tree's archive in order, their digests taken by the pool; returns what there was at the end. Raises AppError. */
export async function* readTree(
  start: StartTreeReader,
  data: Omit<TreeReaderData, 'credits'>,
  pool: ChunkPool,
  onNotice: (text: string) => void,
): AsyncGenerator<HeldChunk, TreeEnd> {
  const { worker, giveRoom } = start(data);
  const ready: Promise<HeldChunk>[] = [];
  let end: TreeEnd | null = null;
  let failure: Error | null = null;
  let bell = Promise.withResolvers<void>();
  const fail = (error: Error): void => {
    failure ??= error;
    bell.resolve();
  };
  worker.on('message', (word: TreeReaderWord) => {
    if (word.kind === 'notice') return onNotice(word.text);
    if (word.kind === 'trouble') return fail(raiseTrouble(word.error));
    if (word.kind === 'end') end = word;
    else {
      const held = pool.take(word.room, word.bytes, giveRoom);
      held.catch(() => {}); // it is raised when its turn comes
      ready.push(held);
    }
    bell.resolve();
  });
  worker.on('error', (cause) => fail(new AppError('unavailable', `archive: reading ${data.root}: the worker died`, { cause })));
  for (let number = 0; number < pool.width * 2 + 2; number += 1) giveRoom(new ArrayBuffer(chunkRoomBytes(defaultChunkBytes)));
  try {
    for (;;) {
      if (failure !== null) throw failure as Error;
      const next = ready.shift();
      if (next !== undefined) yield await next;
      else if (end !== null) return end;
      else {
        await bell.promise;
        bell = Promise.withResolvers();
      }
    }
  } finally {
    await worker.terminate();
  }
}
