import { parentPort, workerData } from 'node:worker_threads';
import { restoreImage } from '#adapters/backup-client/image-restore.ts';
import { openSnapshot, restoreWidth, type SnapshotSource } from '#adapters/backup-client/snapshot-source.ts';
import { describeTrouble } from '#adapters/backup-client/trouble.ts';
import { nodeBytes } from '#adapters/bytes/node-bytes.ts';
import { diskArchiveName, guestBlobName, parseGuestBlob } from '#core/guest-backup/guest-blob.ts';
import type { ChunkPool } from '#adapters/backup-client/chunk-pool.ts';
import { clientWorkers } from '#programs/backup-client/workers.ts';
import { openGuestBackup } from '#programs/guest-backup/choose-snapshot.ts';
import { restoreDifferences } from '#programs/guest-backup/differing-restore.ts';
import { describeDiskIndex } from '#programs/guest-backup/live-source.ts';
import type { FromRestore, RestoreStart, ToRestore } from '#programs/guest-backup/restore-messages.ts';

/** The thread that fetches a guest's disks from a backup server and writes them. */
const { access, from } = workerData as RestoreStart;
const inbox: ToRestore[] = [];
let wake = (): void => {};
const tell = (message: FromRestore): void => parentPort?.postMessage(message);

async function nextOrder(): Promise<ToRestore> {
  while (inbox.length === 0) await new Promise<void>((resolve) => (wake = resolve));
  return inbox.shift()!;
}

async function writeDisk(source: SnapshotSource, pool: ChunkPool, { disk, to }: ToRestore): Promise<void> {
  const name = diskArchiveName(disk);
  const index = await source.openIndex(name);
  if (to.kind === 'nowhere') return tell({ kind: 'measured', sizeBytes: index.sizeBytes, ...describeDiskIndex(name, index) });
  const width = restoreWidth(pool);
  let toldMs = 0;
  const onProgress = (doneBytes: number): void => {
    if (performance.now() - toldMs < 500) return;
    toldMs = performance.now();
    tell({ kind: 'progress', disk, doneBytes, totalBytes: index.sizeBytes });
  };
  let changedBytes = index.sizeBytes;
  if (to.kind === 'path') await restoreImage(to.path, source, { name, index, width }, onProgress);
  else changedBytes = await restoreDifferences(to.place, { source, pool, name, index, width, onProgress });
  tell({ kind: 'restored', disk, changedBytes });
}

async function run(): Promise<void> {
  const { snapshot, session: opened } = await openGuestBackup(access, from, new AbortController().signal);
  using session = opened;
  await using pool = clientWorkers.startPool(access.key);
  const source = await openSnapshot(session, access.key, pool, nodeBytes);
  const guest = parseGuestBlob(await source.readBlob(guestBlobName));
  tell({ kind: 'opened', snapshot, guest });
  for (;;) await writeDisk(source, pool, await nextOrder());
}

parentPort?.on('message', (message: ToRestore) => {
  inbox.push(message);
  wake();
});
try {
  await run();
} catch (error) {
  tell({ kind: 'trouble', error: describeTrouble(error) });
}
parentPort?.close();
