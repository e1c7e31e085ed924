import { parentPort, workerData } from 'node:worker_threads';
import type { TreeWriterData, TreeWriterOrder, TreeWriterWord } from '#adapters/backup-client/tree-jobs.ts';
import { TreeWriter } from '#adapters/backup-client/tree-writer.ts';
import { describeTrouble } from '#adapters/backup-client/trouble.ts';

/** Writes one tree. */
const { target, isOwnerKept } = workerData as TreeWriterData;
const say = (word: TreeWriterWord): void => parentPort?.postMessage(word);
const writer = new TreeWriter(target, isOwnerKept, (text) => say({ kind: 'notice', text }));

parentPort?.on('message', (order: TreeWriterOrder) => {
  try {
    if (order.kind === 'end') return say({ kind: 'end', entries: writer.end() });
    writer.push(order.bytes);
    say({ kind: 'taken' });
  } catch (error) {
    writer.abandon();
    say({ kind: 'trouble', error: describeTrouble(error) });
  }
});
