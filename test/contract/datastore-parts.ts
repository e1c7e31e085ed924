import { randomBytes } from 'node:crypto';
import { existsSync, mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { checkBlob, encodeBlob } from '#core/backup/blob.ts';
import { joinBytes } from '#core/backup/bytes.ts';
import { judgeChunk } from '#core/backup/chunk-check.ts';
import { computeIndexCsum, encodeDynamicRecord } from '#core/backup/chunk-index.ts';
import { chunkDigest, type CryptKey } from '#core/backup/crypt-key.ts';
import { formatManifest, makeManifest, type ManifestEntry } from '#core/backup/manifest.ts';
import { manifestFile, type SnapshotId } from '#core/backup/names.ts';
import type { BackupSession, CheckedChunk, Datastore } from '#ports/datastore.ts';
import { nodeBytes } from '../../src/adapters/bytes/node-bytes.ts';
import { createDatastore, openDatastore } from '../../src/adapters/datastore/datastore.ts';
import { openNodeFiles } from '../../src/adapters/datastore/node-files.ts';
import type { StoreParts } from '../../src/adapters/datastore/parts.ts';

/** The parts of a datastore on a real folder. */
export function realParts(root: string): StoreParts {
  const files = openNodeFiles(root);
  return {
    files,
    functions: nodeBytes,
    checkChunk: async (path, digest) => {
      const encoded = await files.read(path);
      return encoded === null ? null : judgeChunk(encoded, digest, nodeBytes);
    },
    checkers: 2,
    nowMs: Date.now,
    randomBytes,
    toLocal: (atSeconds) => {
      const date = new Date(atSeconds * 1_000);
      return { year: date.getFullYear(), month: date.getMonth() + 1, day: date.getDate(), hour: date.getHours() };
    },
    sync: 'filesystem',
  };
}

type MadeStore = { root: string; store: Datastore; reopen(): Promise<Datastore>; [Symbol.dispose](): void };

/** A new datastore in a folder of its own, with all its 65,536 folders. */
export async function makeStore(): Promise<MadeStore> {
  const root = makeRoot();
  await createDatastore(realParts(root));
  return openMade(root);
}

/** One whose folders are made as they are needed, as a missing one is tolerated: much quicker. */
export async function makeBareStore(more: Partial<StoreParts> = {}): Promise<MadeStore> {
  const root = makeRoot();
  mkdirSync(join(root, '.chunks'));
  return openMade(root, more);
}

/** In memory where that is possible. */
function makeRoot(): string {
  return mkdtempSync(join(existsSync('/dev/shm') ? '/dev/shm' : tmpdir(), 'holdfast-datastore-'));
}

async function openMade(root: string, more: Partial<StoreParts> = {}): Promise<MadeStore> {
  const reopen = (): Promise<Datastore> => openDatastore({ ...realParts(root), ...more });
  return { root, store: await reopen(), reopen, [Symbol.dispose]: () => rmSync(root, { recursive: true, force: true }) };
}

export function chunkOf(data: Uint8Array, key: CryptKey | null = null): CheckedChunk {
  const encoded = encodeBlob(data, { compress: true, crypt: key === null ? null : { key, iv: randomBytes(16) } }, nodeBytes);
  return {
    digest: chunkDigest(data, key, nodeBytes),
    sizeBytes: data.length,
    encoded,
    header: checkBlob(encoded, 'chunk', nodeBytes),
  };
}

/** Sends chunks, one archive of them in this order, and the manifest; does not finish. */
export async function sendArchive(
  session: BackupSession,
  chunks: readonly CheckedChunk[],
  mode: 'none' | 'encrypt' = 'none',
): Promise<void> {
  for (const chunk of chunks) await session.addChunk(chunk);
  await sendIndex(session, chunks, mode);
}

export async function sendIndex(
  session: BackupSession,
  chunks: readonly CheckedChunk[],
  mode: 'none' | 'encrypt' = 'none',
): Promise<void> {
  const entry = await addArchive(session, 'data.didx', chunks);
  await addManifest(session, [{ ...entry, cryptMode: mode }]);
}

/** One archive of chunks that the session knows; what a manifest says of it. */
export async function addArchive(session: BackupSession, name: string, chunks: readonly CheckedChunk[]): Promise<ManifestEntry> {
  const writer = await session.startIndex(name, 'dynamic', { sizeBytes: 0, reuseCsum: null });
  let end = 0;
  const records: Uint8Array[] = [];
  for (const { digest, sizeBytes } of chunks) {
    writer.append({ digest, sizeBytes }, end);
    end += sizeBytes;
    records.push(encodeDynamicRecord(end, digest));
  }
  const csum = computeIndexCsum(joinBytes(records), nodeBytes);
  await session.addIndex(name, writer.close({ chunkCount: chunks.length, sizeBytes: end, csum }, nodeBytes));
  return { name, cryptMode: 'none', sizeBytes: end, csum };
}

export async function addManifest(session: BackupSession, files: readonly ManifestEntry[]): Promise<void> {
  const { type, id, atSeconds } = session.snapshot;
  const manifest = makeManifest({ type, id, atSeconds, files, unprotected: {} }, null, nodeBytes);
  await session.addBlob(manifestFile, encodeBlob(formatManifest(manifest), { compress: true, crypt: null }, nodeBytes));
}

export function snapshotAt(atSeconds: number, id = '100'): SnapshotId {
  return { namespace: [], type: 'vm', id, atSeconds };
}
