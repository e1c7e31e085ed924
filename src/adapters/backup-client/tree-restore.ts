import type { Worker } from 'node:worker_threads';
import { AppError } from '#base/error.ts';
import type { Piece } from './snapshot-source.ts';
import type { TreeWriterOrder, TreeWriterWord } from './tree-jobs.ts';
import { raiseTrouble } from './trouble.ts';

/** Pieces given to the writer that it has not written yet. */
const mostUnderWay = 4;

/** Writes a tree from its archive; answers how many entries it has. Raises AppError; what was written then stays, incomplete. */
export async function restoreTree(
  worker: Worker,
  pieces: AsyncIterable<Piece>,
  onProgress: (doneBytes: number) => void,
  onNotice: (text: string) => void,
): Promise<number> {
  let underWay = 0;
  let failure: Error | null = null;
  let entries: number | null = null;
  let bell = Promise.withResolvers<void>();
  const fail = (error: Error): void => {
    failure ??= error;
    bell.resolve();
  };
  worker.on('message', (word: TreeWriterWord) => {
    if (word.kind === 'notice') return onNotice(word.text);
    if (word.kind === 'trouble') return fail(raiseTrouble(word.error));
    if (word.kind === 'end') entries = word.entries;
    else underWay -= 1;
    bell.resolve();
  });
  worker.on('error', (cause) => fail(new AppError('unavailable', 'the worker that writes the tree died', { cause })));
  const order = (what: TreeWriterOrder, moved: ArrayBuffer[]): void => worker.postMessage(what, moved);
  const until = async (isTrue: () => boolean): Promise<void> => {
    while (failure === null && !isTrue()) {
      await bell.promise;
      bell = Promise.withResolvers();
    }
    if (failure !== null) throw failure as Error;
  };
  try {
    for await (const { start, data } of pieces) {
      const end = start + data.length;
      const { buffer } = data;
      const isWhole = buffer instanceof ArrayBuffer && buffer.byteLength === data.byteLength;
      order({ kind: 'data', bytes: data }, isWhole ? [buffer] : []);
      underWay += 1;
      await until(() => underWay < mostUnderWay);
      onProgress(end);
    }
    order({ kind: 'end' }, []);
    await until(() => entries !== null);
    return entries ?? 0;
  } finally {
    await worker.terminate();
  }
}
