import { readFile } from 'node:fs/promises';
import { AppError } from '#base/error.ts';
import type { ArchiveSpec } from '#core/backup/archive-spec.ts';
import { blobLimits, encodeBlob } from '#core/backup/blob.ts';
import type { ByteFunctions } from '#core/backup/byte-functions.ts';
import { joinCatalogs, type CatalogPart } from '#core/backup/catalog.ts';
import { ChunkBuffer, chunkRoomBytes } from '#core/backup/chunk-buffer.ts';
import { chunkDigest, type CryptKey } from '#core/backup/crypt-key.ts';
import { DigestTable } from '#core/backup/digest-table.ts';
import { fixedChunkBytes } from '#core/backup/index-writer.ts';
import { formatManifest, makeManifest, type CryptMode, type Manifest, type ManifestEntry } from '#core/backup/manifest.ts';
import { catalogFile, manifestFile, sealedKeyFile, type SnapshotId } from '#core/backup/names.ts';
import { ArchiveUpload, learnIndex, type UploadContext, type UploadFigures } from './archive-upload.ts';
import type { ChunkPool, HeldChunk } from './chunk-pool.ts';
import type { ClientWorkers } from './client-workers.ts';
import { openImage, type ImageSource } from './image-source.ts';
import { readLastIndex, readLastManifest, sendBlob } from './last-backup.ts';
import { clientLimits } from './limits.ts';
import type { TreeFigures, TreeOptions } from './tree-reader.ts';
import { readTree } from './tree-source.ts';
import type { WireSession } from './wire-session.ts';

export type BackupPlan = {
  snapshot: SnapshotId;
  archives: readonly ArchiveSpec[];
  cryptMode: CryptMode;
  /** Encrypts and signs, or signs alone; null with mode none. */
  key: CryptKey | null;
  /** The data key, sealed for the holder of the master key; null: there is no master key. */
  sealedKey: Uint8Array | null;
  tree: TreeOptions;
};
/** `tree`: what a directory held. */
export type ArchiveFigures = UploadFigures & { name: string; sizeBytes: number; hasBase: boolean; tree: TreeFigures | null };
export type ClientParts = {
  functions: ByteFunctions;
  randomBytes: (count: number) => Uint8Array;
  workers: ClientWorkers;
  /** How far it is; `totalBytes` null: not known beforehand. */
  onProgress: (name: string, doneBytes: number, totalBytes: number | null) => void;
  /** What a person should know of the result. */
  onNotice: (text: string) => void;
};
/** One backup under way. */
type Run = {
  session: WireSession;
  plan: BackupPlan;
  parts: ClientParts;
  pool: ChunkPool;
  known: DigestTable;
  base: Manifest | null;
};
type Sent = { entry: ManifestEntry; figures: ArchiveFigures; catalog: CatalogPart | null };

/** The average of the chunks of a catalog, which is small and changes everywhere. */
const catalogChunkBytes = 512 * 1024;

/** Sends everything and finishes the snapshot. Whatever fails before that leaves nothing at the server. */
export async function performBackup(session: WireSession, plan: BackupPlan, parts: ClientParts): Promise<ArchiveFigures[]> {
  const { functions, randomBytes } = parts;
  const known = new DigestTable(new DataView(Uint8Array.from(randomBytes(4)).buffer).getUint32(0));
  await using pool = parts.workers.startPool(encryptKey(plan));
  const run: Run = { session, plan, parts, pool, known, base: await readLastManifest(session, signKey(plan), functions) };
  const sent: Sent[] = [];
  for (const spec of plan.archives) sent.push(await sendArchive(run, spec));
  const catalogs = sent.flatMap(({ catalog }) => catalog ?? []);
  if (catalogs.length > 0) sent.push(await sendCatalog(run, joinCatalogs(catalogs)));
  const files = sent.map(({ entry }) => entry);
  if (plan.sealedKey !== null) files.push(await sendSealedKey(session, plan.sealedKey, functions));
  const manifest = makeManifest({ ...plan.snapshot, files, unprotected: {} }, signKey(plan), functions);
  await sendBlob(session, manifestFile, encodeBlob(formatManifest(manifest), { compress: true, crypt: null }, functions));
  await session.call({ method: 'POST', path: 'finish', waitMs: clientLimits.finishMs });
  return sent.map(({ figures }) => figures);
}

function encryptKey({ cryptMode, key }: BackupPlan): CryptKey | null {
  return cryptMode === 'encrypt' ? key : null;
}

function signKey({ cryptMode, key }: BackupPlan): CryptKey | null {
  return cryptMode === 'none' ? null : key;
}

function sendArchive(run: Run, spec: ArchiveSpec): Promise<Sent> {
  switch (spec.source) {
    case 'image':
      return sendImage(run, spec);
    case 'tree':
      return sendTree(run, spec);
    case 'file':
      return sendFile(run, spec);
  }
}

async function sendImage(run: Run, spec: ArchiveSpec): Promise<Sent> {
  const { upload, context, hasBase } = await startUpload(run, 'fixed', spec.name);
  await using image = await openImage(spec.path);
  const index = await upload(image.sizeBytes);
  for await (const held of readImage(run, image)) {
    await index.add(held);
    run.parts.onProgress(spec.name, context.figures.readBytes, image.sizeBytes);
  }
  const entry = await index.close();
  return { entry, figures: describe(entry, context.figures, hasBase), catalog: null };
}

/** Pieces of an image in order, their digests taken, some of them ahead of time. */
async function* readImage(run: Run, image: ImageSource): AsyncGenerator<HeldChunk> {
  const { pool } = run;
  const ahead: Promise<HeldChunk>[] = [];
  const zero = zeroChunk(run);
  for (let at = 0; at < image.sizeBytes || ahead.length > 0;) {
    while (at < image.sizeBytes && ahead.length < pool.width * 2) {
      const bytes = Math.min(fixedChunkBytes, image.sizeBytes - at);
      const isHole = bytes === fixedChunkBytes && image.isHole(at, bytes);
      const held = isHole ? Promise.resolve(zero) : pool.read(image.fd, at, bytes);
      held.catch(() => {}); // it is raised when its turn comes
      ahead.push(held);
      at += bytes;
    }
    yield await ahead.shift()!;
  }
}

/** A whole chunk of zeros, which nobody has to read. */
function zeroChunk({ pool, plan, parts }: Run): HeldChunk {
  const bytes = fixedChunkBytes;
  return {
    digest: chunkDigest(new Uint8Array(bytes), encryptKey(plan), parts.functions),
    sizeBytes: bytes,
    encode: async () => (await pool.take(new ArrayBuffer(bytes), bytes, () => {})).encode(),
    drop: () => Promise.resolve(),
  };
}

async function sendTree(run: Run, spec: ArchiveSpec): Promise<Sent> {
  const { upload, context, hasBase } = await startUpload(run, 'dynamic', spec.name);
  const { workers, onNotice, onProgress } = run.parts;
  const data = { root: spec.path, name: spec.name, options: run.plan.tree };
  const index = await upload(0);
  const chunks = readTree(workers.startTreeReader, data, run.pool, onNotice);
  let step = await chunks.next();
  try {
    for (; step.done !== true; step = await chunks.next()) {
      await index.add(step.value);
      onProgress(spec.name, context.figures.readBytes, null);
    }
  } finally {
    if (step.done !== true) await chunks.return(undefined as never); // ends the worker
  }
  const entry = await index.close();
  const { catalog, figures } = step.value;
  return { entry, figures: { ...describe(entry, context.figures, hasBase), tree: figures }, catalog };
}

async function sendCatalog(run: Run, catalog: Uint8Array): Promise<Sent> {
  const { upload, context, hasBase } = await startUpload(run, 'dynamic', catalogFile);
  const index = await upload(0);
  const chunks: { room: ArrayBuffer; bytes: number }[] = [];
  const buffer = new ChunkBuffer(catalogChunkBytes, {
    takeRoom: () => new Uint8Array(chunkRoomBytes(catalogChunkBytes)),
    emit: (room, bytes) => chunks.push({ room: room.buffer as ArrayBuffer, bytes }),
  });
  buffer.write(catalog);
  buffer.end();
  for (const { room, bytes } of chunks) await index.add(await run.pool.take(room, bytes, () => {}));
  const entry = await index.close();
  return { entry, figures: describe(entry, context.figures, hasBase), catalog: null };
}

type Started = {
  context: UploadContext;
  hasBase: boolean;
  /** Opens the index, for an image of so many bytes. */
  upload: (sizeBytes: number) => Promise<ArchiveUpload>;
};

async function startUpload(run: Run, kind: 'fixed' | 'dynamic', name: string): Promise<Started> {
  const { session, plan, parts, known, base } = run;
  const figures = { readBytes: 0, chunks: 0, sentChunks: 0, sentDataBytes: 0, sentWireBytes: 0 };
  const context: UploadContext = { session, functions: parts.functions, cryptMode: plan.cryptMode, known, figures };
  const hasBase = base !== null && (await learnBase(context, base, name, plan.cryptMode === 'encrypt'));
  return { context, hasBase, upload: (sizeBytes) => ArchiveUpload.start(context, kind, name, sizeBytes) };
}

async function learnBase(context: UploadContext, base: Manifest, name: string, isEncrypted: boolean): Promise<boolean> {
  const index = await readLastIndex(context.session, base, name, isEncrypted, context.functions);
  if (index !== null) learnIndex(context, index);
  return index !== null;
}

async function sendFile({ session, plan, parts }: Run, spec: ArchiveSpec): Promise<Sent> {
  const { functions, randomBytes } = parts;
  const data = await readFile(spec.path).catch((cause: unknown) => {
    throw new AppError('invalid', `${spec.name}: reading ${spec.path}`, { cause });
  });
  if (data.length > blobLimits.chunkBytes) {
    throw new AppError(
      'invalid',
      `${spec.name}: ${spec.path} has ${data.length} bytes; a .conf may have ${blobLimits.chunkBytes}`,
    );
  }
  const key = encryptKey(plan);
  const encoded = encodeBlob(data, { compress: true, crypt: key === null ? null : { key, iv: randomBytes(16) } }, functions);
  await sendBlob(session, spec.name, encoded);
  const sent = { sentChunks: 0, sentDataBytes: data.length, sentWireBytes: encoded.length };
  const entry = { name: spec.name, cryptMode: plan.cryptMode, sizeBytes: encoded.length, csum: functions.sha256(encoded) };
  return { entry, figures: describe(entry, { readBytes: data.length, chunks: 0, ...sent }, false), catalog: null };
}

async function sendSealedKey(session: WireSession, sealed: Uint8Array, functions: ByteFunctions): Promise<ManifestEntry> {
  const encoded = encodeBlob(sealed, { compress: false, crypt: null }, functions);
  await sendBlob(session, sealedKeyFile, encoded);
  return { name: sealedKeyFile, cryptMode: 'encrypt', sizeBytes: encoded.length, csum: functions.sha256(encoded) };
}

function describe(entry: ManifestEntry, figures: UploadFigures, hasBase: boolean): ArchiveFigures {
  return { ...figures, name: entry.name, sizeBytes: entry.sizeBytes, hasBase, tree: null };
}
