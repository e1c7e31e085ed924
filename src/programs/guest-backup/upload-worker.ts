import { randomBytes } from 'node:crypto';
import { setTimeout as delay } from 'node:timers/promises';
import { parentPort, workerData } from 'node:worker_threads';
import { ArchiveUpload, learnIndex, type UploadContext } from '#adapters/backup-client/archive-upload.ts';
import type { ChunkPool } from '#adapters/backup-client/chunk-pool.ts';
import { logIn } from '#adapters/backup-client/connection.ts';
import { readLastIndex, readLastManifest, sendBlob } from '#adapters/backup-client/last-backup.ts';
import { clientLimits } from '#adapters/backup-client/limits.ts';
import { describeTrouble } from '#adapters/backup-client/trouble.ts';
import { openSession, type WireSession } from '#adapters/backup-client/wire-session.ts';
import { nodeBytes } from '#adapters/bytes/node-bytes.ts';
import { AppError } from '#base/error.ts';
import { limits } from '#base/limits.ts';
import { encodeBlob } from '#core/backup/blob.ts';
import { formatHex } from '#core/backup/bytes.ts';
import type { JsonObject } from '#core/backup/canonical-json.ts';
import { DigestTable } from '#core/backup/digest-table.ts';
import { formatManifest, makeManifest, type Manifest, type ManifestEntry } from '#core/backup/manifest.ts';
import { formatGroup, manifestFile } from '#core/backup/names.ts';
import { diskArchiveName, diskOfArchive, guestBlobName } from '#core/guest-backup/guest-blob.ts';
import type { BackedUp } from '#core/guest-backup/plan-backup.ts';
import { clientWorkers } from '#programs/backup-client/workers.ts';
import { readPoint } from '#programs/guest-backup/chunk-source.ts';
import type { FromUpload, ToUpload, UploadOrder, UploadStart } from '#programs/guest-backup/upload-messages.ts';

/**
 * The thread that reads a guest's point and sends it to a backup server: neither the network nor the work on the bytes is for the agent's own loop.
 * When it ends before `finished`, the connection ends with it and the server forgets everything.
 */
const start = workerData as UploadStart;
const { access, snapshot } = start;
const { key } = access;
const cryptMode = key === null ? 'none' : 'encrypt';
const inbox: ToUpload[] = [];
let wake = (): void => {};

const tell = (message: FromUpload): void => parentPort?.postMessage(message);

async function nextOrder(): Promise<ToUpload> {
  while (inbox.length === 0) await new Promise<void>((resolve) => (wake = resolve));
  return inbox.shift()!;
}

function describePrevious(manifest: Manifest | null): BackedUp | null {
  if (manifest === null) return null;
  const { type, id, atSeconds, files } = manifest;
  return {
    group: formatGroup({ namespace: snapshot.namespace, type, id }),
    atSeconds,
    key: key === null ? null : formatHex(key.fingerprint),
    disks: files.flatMap(({ name, sizeBytes, csum, cryptMode: mode }) => {
      const disk = diskOfArchive(name);
      return disk === null || mode !== cryptMode ? [] : [{ name: disk, sizeBytes, csum: formatHex(csum) }];
    }),
  };
}

type Run = { session: WireSession; pool: ChunkPool; last: Manifest | null; known: DigestTable; order: UploadOrder };

async function sendDisks(run: Run): Promise<{ files: ManifestEntry[]; figures: UploadContext['figures']; totalBytes: number }> {
  const { session, order, known } = run;
  const figures = { readBytes: 0, chunks: 0, sentChunks: 0, sentDataBytes: 0, sentWireBytes: 0 };
  const context: UploadContext = { session, functions: nodeBytes, cryptMode, known, figures };
  const totalBytes = order.disks.reduce((sum, disk) => sum + disk.sizeBytes, 0);
  let doneBytes = 0;
  let isHeld = false;
  const beganMs = performance.now();
  const say = (): void => {
    const { sentWireBytes, readBytes, chunks, sentChunks } = figures;
    const moved = sentWireBytes + readBytes + chunks + sentChunks;
    tell({ kind: 'progress', progress: { doneBytes, totalBytes, sentWireBytes, moved, isHeld } });
  };
  const timer = setInterval(say, limits.backupProgressMs);
  /** Waits until what was sent is no more than the rate allows. */
  const keepRate = async (): Promise<void> => {
    const rate = order.rateBytesPerSecond;
    const waitMs = rate === null ? 0 : beganMs + (figures.sentWireBytes / rate) * 1_000 - performance.now();
    if (waitMs <= 0) return;
    isHeld = true;
    await delay(waitMs);
    isHeld = false;
  };
  try {
    const files: ManifestEntry[] = [];
    for (const disk of order.disks) {
      files.push(
        await sendDisk(run, context, disk, async (bytes) => {
          doneBytes += bytes;
          await keepRate();
        }),
      );
      // What was still on its way when its turn came counts as well.
      await keepRate();
    }
    return { files, figures, totalBytes };
  } finally {
    clearInterval(timer);
  }
}

async function sendDisk(
  run: Run,
  context: UploadContext,
  { name, sizeBytes }: UploadOrder['disks'][number],
  onChunk: (bytes: number) => Promise<void>,
): Promise<ManifestEntry> {
  const { session, last, pool, order } = run;
  const archive = diskArchiveName(name);
  const index = last === null ? null : await readLastIndex(session, last, archive, key !== null, nodeBytes);
  if (index !== null) learnIndex(context, index);
  if (order.bitmap !== null && index === null) {
    throw new AppError('conflict', `${archive}: the last backup cannot be built upon any more; the next try compares`);
  }
  const upload = await ArchiveUpload.start(context, 'fixed', archive, sizeBytes, order.bitmap === null ? null : index);
  const { socketPath, bitmap, canRelease } = order;
  const disk = { socketPath, exportName: name, bitmap, canRelease };
  for await (const { start: at, bytes, held } of readPoint(disk, { pool, key, functions: nodeBytes })) {
    await (order.bitmap === null ? upload.add(held) : upload.replace(held, at));
    await onChunk(bytes);
  }
  return await upload.close();
}

async function sendGuest({ session, order }: Run): Promise<ManifestEntry> {
  const crypt = key === null ? null : { key, iv: Uint8Array.from(randomBytes(16)) };
  const encoded = encodeBlob(order.guestBlob, { compress: true, crypt }, nodeBytes);
  await sendBlob(session, guestBlobName, encoded);
  return { name: guestBlobName, cryptMode, sizeBytes: encoded.length, csum: nodeBytes.sha256(encoded) };
}

async function run(): Promise<void> {
  const target = { repository: access.repository, fingerprint: access.fingerprint, signal: new AbortController().signal };
  const login = await logIn(target, access.secret);
  using session = await openSession('backup', access.repository.store, snapshot, target, login);
  const last = await readLastManifest(session, key, nodeBytes);
  tell({ kind: 'opened', previous: describePrevious(last) });
  const go = await nextOrder();
  if (go.kind !== 'go') return;
  await using pool = clientWorkers.startPool(key);
  const known = new DigestTable(new DataView(Uint8Array.from(randomBytes(4)).buffer).getUint32(0));
  const own: Run = { session, pool, last, known, order: go.order };
  const { files, figures, totalBytes } = await sendDisks(own);
  const guest = await sendGuest(own);
  const unprotected: JsonObject = go.order.notes === null ? {} : { notes: go.order.notes };
  const manifest = makeManifest({ ...snapshot, files: [...files, guest], unprotected }, key, nodeBytes);
  await sendBlob(session, manifestFile, encodeBlob(formatManifest(manifest), { compress: true, crypt: null }, nodeBytes));
  const disks = files.map(({ name, sizeBytes, csum }) => ({ name: diskOfArchive(name) ?? '', sizeBytes, csum: formatHex(csum) }));
  tell({ kind: 'uploaded', disks, figures: { ...figures, totalBytes } });
  const finish = await nextOrder();
  if (finish.kind !== 'finish') return;
  await session.call({ method: 'POST', path: 'finish', waitMs: clientLimits.finishMs });
  tell({ kind: 'finished' });
}

parentPort?.on('message', (message: ToUpload) => {
  inbox.push(message);
  wake();
});
try {
  await run();
} catch (error) {
  tell({ kind: 'trouble', error: describeTrouble(error) });
}
parentPort?.close();
