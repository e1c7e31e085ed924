import { readFile } from 'node:fs/promises';
import { AppError, isAppError } from '#base/error.ts';
import type { ArchiveSpec } from '#core/backup/archive-spec.ts';
import { blobLimits, decodeBlob, encodeBlob } from '#core/backup/blob.ts';
import type { ByteFunctions } from '#core/backup/byte-functions.ts';
import type { CryptKey } from '#core/backup/crypt-key.ts';
import { DigestTable } from '#core/backup/digest-table.ts';
import { fixedChunkBytes } from '#core/backup/index-writer.ts';
import {
  formatManifest,
  makeManifest,
  parseManifest,
  type CryptMode,
  type Manifest,
  type ManifestEntry,
} from '#core/backup/manifest.ts';
import { manifestFile, type SnapshotId } from '#core/backup/names.ts';
import { checkIndex, checkManifestKey } from '#core/backup/snapshot-check.ts';
import { ArchiveUpload, learnIndex, type UploadContext, type UploadFigures } from './archive-upload.ts';
import { openImage } from './image-source.ts';
import { clientLimits } from './limits.ts';
import type { WireSession } from './wire-session.ts';

export type BackupPlan = {
  snapshot: SnapshotId;
  archives: readonly ArchiveSpec[];
  cryptMode: CryptMode;
  /** Encrypts and signs, or signs alone; null with mode none. */
  key: CryptKey | null;
};
export type ArchiveFigures = UploadFigures & { name: string; sizeBytes: number; hasBase: boolean };
export type ClientParts = {
  functions: ByteFunctions;
  randomBytes: (count: number) => Uint8Array;
  /** How far it is; `totalBytes` null: not known beforehand. */
  onProgress: (name: string, doneBytes: number, totalBytes: number | null) => void;
  /** What a person should know of the result. */
  onNotice: (text: string) => void;
};

/** Sends everything and finishes the snapshot. Whatever fails before that leaves nothing at the server. */
export async function performBackup(session: WireSession, plan: BackupPlan, parts: ClientParts): Promise<ArchiveFigures[]> {
  const { functions, randomBytes } = parts;
  const encryptKey = plan.cryptMode === 'encrypt' ? plan.key : null;
  const seed = new DataView(randomBytes(4).buffer).getUint32(0);
  const known = new DigestTable(seed);
  const base = await readBase(session, plan, functions);
  const files: ManifestEntry[] = [];
  const figures: ArchiveFigures[] = [];
  for (const spec of plan.archives) {
    const upload: UploadContext = {
      session,
      functions,
      randomBytes,
      key: encryptKey,
      cryptMode: plan.cryptMode,
      known,
      figures: { readBytes: 0, chunks: 0, sentChunks: 0, sentDataBytes: 0, sentWireBytes: 0 },
    };
    const hasBase = spec.source !== 'file' && base !== null && (await learnBase(session, base, spec.name, upload));
    const entry = spec.source === 'image' ? await sendImage(spec, upload, parts) : await sendFile(spec, upload);
    files.push(entry);
    figures.push({ ...upload.figures, name: spec.name, sizeBytes: entry.sizeBytes, hasBase });
  }
  const manifest = makeManifest(
    { ...plan.snapshot, files, unprotected: {} },
    plan.cryptMode === 'none' ? null : plan.key,
    functions,
  );
  await sendBlob(session, manifestFile, encodeBlob(formatManifest(manifest), { compress: true, crypt: null }, functions));
  await session.call({ method: 'POST', path: 'finish', waitMs: clientLimits.finishMs });
  return figures;
}

/** The manifest of the last backup, if it was made with the same key: its chunks need not be sent again. */
async function readBase(session: WireSession, plan: BackupPlan, functions: ByteFunctions): Promise<Manifest | null> {
  const { status, bytes } = await session.ask({ method: 'GET', path: 'previous', query: { 'archive-name': manifestFile } });
  if (status !== 200) return null;
  try {
    const options = { key: null, maxBytes: blobLimits.wholeBytes, what: 'manifest of the last backup' };
    const manifest = parseManifest(decodeBlob(bytes, options, functions));
    checkManifestKey(manifest, plan.cryptMode === 'none' ? null : plan.key, functions);
    return manifest;
  } catch (error) {
    if (isAppError(error, 'denied', 'invalid')) return null; // another key, or damaged: everything is sent
    throw error;
  }
}

async function learnBase(session: WireSession, base: Manifest, name: string, upload: UploadContext): Promise<boolean> {
  const entry = base.files.find((file) => file.name === name);
  const isSame = (entry?.cryptMode === 'encrypt') === (upload.key !== null);
  if (entry === undefined || !isSame) return false;
  const { status, bytes } = await session.ask({ method: 'GET', path: 'previous', query: { 'archive-name': name } });
  if (status !== 200) return false;
  try {
    learnIndex(upload, checkIndex(entry, bytes, upload.functions));
    return true;
  } catch (error) {
    if (isAppError(error, 'invalid')) return false;
    throw error;
  }
}

async function sendImage(spec: ArchiveSpec, context: UploadContext, parts: ClientParts): Promise<ManifestEntry> {
  await using image = await openImage(spec.path);
  const upload = await ArchiveUpload.start(context, 'fixed', spec.name, image.sizeBytes);
  for (let at = 0; at < image.sizeBytes; at += fixedChunkBytes) {
    const data = await image.read(at, Math.min(fixedChunkBytes, image.sizeBytes - at));
    context.figures.readBytes += data.length;
    await upload.add(data);
    parts.onProgress(spec.name, at + data.length, image.sizeBytes);
  }
  return upload.close();
}

async function sendFile(
  spec: ArchiveSpec,
  { session, functions, key, cryptMode, randomBytes, figures }: UploadContext,
): Promise<ManifestEntry> {
  const data = await readFile(spec.path).catch((cause: unknown) => {
    throw new AppError('invalid', `${spec.name}: reading ${spec.path}`, { cause });
  });
  if (data.length > blobLimits.chunkBytes) {
    throw new AppError(
      'invalid',
      `${spec.name}: ${spec.path} has ${data.length} bytes; a .conf may have ${blobLimits.chunkBytes}`,
    );
  }
  const encoded = encodeBlob(data, { compress: true, crypt: key === null ? null : { key, iv: randomBytes(16) } }, functions);
  await sendBlob(session, spec.name, encoded);
  figures.readBytes += data.length;
  figures.sentDataBytes += data.length;
  figures.sentWireBytes += encoded.length;
  return { name: spec.name, cryptMode, sizeBytes: encoded.length, csum: functions.sha256(encoded) };
}

async function sendBlob(session: WireSession, name: string, encoded: Uint8Array): Promise<void> {
  const query = { 'file-name': name, 'encoded-size': encoded.length };
  await session.call({ method: 'POST', path: 'blob', query, body: encoded });
}
