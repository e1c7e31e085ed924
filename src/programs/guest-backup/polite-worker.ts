import { setPriority } from 'node:os';
import { parentPort } from 'node:worker_threads';
import { allLoaded } from '#adapters/backup-client/thread-loads.ts';
import { limits } from '#base/limits.ts';
import { endWord, mayEndWord } from '#programs/guest-backup/polite-words.ts';

/** See polite-thread.ts. */
setPriority(limits.backupNice);
const native = import('#adapters/bytes/node-bytes.ts');
parentPort?.on('message', (message: { kind?: string }) => {
  if (message.kind === endWord) void native.then(allLoaded).then(() => parentPort?.postMessage({ kind: mayEndWord }));
});
await native;
await import(process.argv.at(-1) ?? '');
