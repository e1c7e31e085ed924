import { parentPort, receiveMessageOnPort, workerData } from 'node:worker_threads';
import type { TreeReaderData, TreeReaderWord } from '#adapters/backup-client/tree-jobs.ts';
import { TreeReader } from '#adapters/backup-client/tree-reader.ts';
import { describeTrouble } from '#adapters/backup-client/trouble.ts';
import { createCatalogWriter } from '#core/backup/catalog.ts';
import { joinBytes } from '#core/backup/bytes.ts';
import { ChunkBuffer } from '#core/backup/chunk-buffer.ts';
import { defaultChunkBytes } from '#core/backup/chunker.ts';

/** Reads one tree from its root to its end, then is done. */
const port = parentPort;
if (port === null) throw new Error('this is a worker');
const { root, name, options, credits } = workerData as TreeReaderData;
const given = new Int32Array(credits);

function say(word: TreeReaderWord, moved: ArrayBuffer[] = []): void {
  port?.postMessage(word, moved);
}

/** The next buffer to fill; waits for one. */
function takeRoom(): Uint8Array {
  for (;;) {
    const seen = Atomics.load(given, 0);
    const posted = receiveMessageOnPort(port!) as { message: ArrayBuffer } | undefined;
    if (posted !== undefined) return new Uint8Array(posted.message);
    Atomics.wait(given, 0, seen);
  }
}

try {
  const out = new ChunkBuffer(defaultChunkBytes, {
    takeRoom,
    emit: (room, bytes) => say({ kind: 'chunk', room: room.buffer as ArrayBuffer, bytes }, [room.buffer as ArrayBuffer]),
  });
  const tables: Uint8Array[] = [];
  const onNotice = (text: string): void => say({ kind: 'notice', text });
  const reader = new TreeReader(out, createCatalogWriter(), (table) => tables.push(table), options, onNotice);
  reader.read(root, name);
  const catalog = { name: new TextEncoder().encode(name), tables: joinBytes(tables), lastBytes: tables.at(-1)?.length ?? 0 };
  say({ kind: 'end', figures: reader.figures, catalog });
} catch (error) {
  say({ kind: 'trouble', error: describeTrouble(error) });
}
