import { AppError, formatErrorChain, isAppError } from '#base/error.ts';
import { checkBlob } from '#core/backup/blob.ts';
import type { JsonObject } from '#core/backup/canonical-json.ts';
import { ChunkCatalogue } from '#core/backup/chunk-catalogue.ts';
import {
  clientLogFile,
  formatSnapshot,
  parseArchiveName,
  snapshotPath,
  type GroupId,
  type SnapshotId,
} from '#core/backup/names.ts';
import { planPrune, type KeepRules } from '#core/backup/prune.ts';
import type { Datastore, GarbageResult, PruneResult, SnapshotReader } from '#ports/datastore.ts';
import { clearSessions, startSession } from './backup-session.ts';
import { ChunkStore } from './chunk-store.ts';
import { collectGarbage, formatGarbageStatus } from './garbage.ts';
import { own, type StoreParts } from './parts.ts';
import { Reserve } from './reserve.ts';
import { Snapshots } from './snapshots.ts';
import { verifyChunks, verifySnapshot } from './verify.ts';

/** Makes the folders of a new datastore. Raises AppError conflict when there is one. */
export async function createDatastore({ files }: Pick<StoreParts, 'files'>): Promise<void> {
  if ((await files.list('.chunks')) !== null) throw new AppError('conflict', 'there is a datastore in this folder already');
  await files.makeFolder(own.temporary);
  await files.makeFolder('.chunks');
  await files.makeFolders(Array.from({ length: 65_536 }, (_, number) => `.chunks/${number.toString(16).padStart(4, '0')}`));
  await files.createNew('.lock', new Uint8Array());
  // A store without chunks is known completely.
  await files.replace(own.chunkLog, new ChunkCatalogue(0).encode(), true);
  await files.replace(own.clean, new Uint8Array(), true);
  await files.syncAll();
}

/** Opens a datastore, made by us or by the original, and clears away what an earlier process of ours left unfinished. */
export async function openDatastore(parts: StoreParts): Promise<Datastore & { cleared: string[] }> {
  if ((await parts.files.list('.chunks')) === null)
    throw new AppError('missing', 'there is no datastore in this folder: it has no .chunks');
  for (const folder of [own.temporary, own.trash, own.sessions]) await parts.files.makeFolder(folder);
  const chunks = new ChunkStore(parts);
  const snapshots = new Snapshots(parts);
  await chunks.load();
  const cleared = await clearSessions(parts, snapshots);
  for (const folder of [own.temporary, own.trash]) {
    for (const { name } of (await parts.files.list(folder)) ?? []) await parts.files.removeTree(`${folder}/${name}`);
  }
  const reserve = new Reserve(parts, parts.reserveBytes ?? 0);
  await reserve.fill();
  return assemble(parts, { chunks, snapshots, reserve }, cleared);
}

function assemble(
  parts: StoreParts,
  { chunks, snapshots, reserve }: { chunks: ChunkStore; snapshots: Snapshots; reserve: Reserve },
  cleared: string[],
): Datastore & { cleared: string[] } {
  let isCollecting = false;
  return {
    cleared,
    listNamespaces: (parent) => snapshots.listNamespaces(parent),
    createNamespace: (namespace) => snapshots.createNamespace(namespace),
    removeNamespace: (namespace, { withGroups }) => reserve.spend(() => snapshots.removeNamespace(namespace, withGroups)),
    listGroups: (namespace) => snapshots.listGroups(namespace),
    readGroup: (group) => snapshots.readGroup(group),
    changeOwner: (group, owner) => snapshots.changeOwner(group, owner),
    setGroupNotes: (group, notes) => snapshots.setGroupNotes(group, notes),
    removeGroup: (group) => reserve.spend(() => snapshots.removeGroup(group)),
    readSnapshot: (snapshot) => snapshots.readInfo(snapshot),
    readManifest: (snapshot) => snapshots.readManifest(snapshot),
    updateUnprotected: (snapshot, change) => snapshots.updateUnprotected(snapshot, change),
    setProtected: (snapshot, isProtected) => snapshots.setProtected(snapshot, isProtected),
    lockUntil: (snapshot, untilSeconds) => snapshots.lockUntil(snapshot, untilSeconds),
    async addLog(snapshot, encoded) {
      checkBlob(encoded, clientLogFile, parts.functions);
      await snapshots.addLog(snapshot, clientLogFile, encoded);
    },
    removeSnapshot: (snapshot) => reserve.spend(() => snapshots.remove(snapshot)),
    prune: (group, rules, { dryRun }) =>
      dryRun ? prune(parts, snapshots, group, rules, true) : reserve.spend(() => prune(parts, snapshots, group, rules, false)),
    async startBackup(snapshot, owner) {
      await reserve.requireSpace();
      return startSession(parts, chunks, snapshots, { snapshot, owner });
    },
    openSnapshot: (snapshot) => openReader(parts, snapshots, snapshot),
    readChunk: (digest, rooms) => chunks.read(digest, rooms),
    async collectGarbage(options = {}) {
      if (isCollecting) throw new AppError('busy', 'garbage is being collected already');
      isCollecting = true;
      try {
        const result = await reserve.spend(() => collectGarbage(parts, chunks, options));
        await writeStatus(parts, result, options.upid ?? null);
        return result;
      } finally {
        isCollecting = false;
      }
    },
    readGarbageStatus: () => readStatus(parts),
    verifySnapshot: (snapshot, upid, options = {}) => verifyLocked(parts, chunks, snapshots, snapshot, { upid, ...options }),
    verifyChunks: (options) => verifyChunks(parts, chunks, options),
    async readUsage() {
      return { ...(await parts.files.space()), chunks: chunks.catalogue.count, chunkBytes: chunks.catalogue.bytes };
    },
    close: () => chunks.close(),
  };
}

/** Oldest first, so that an interrupted run leaves what a shorter history would be. */
async function prune(
  parts: StoreParts,
  snapshots: Snapshots,
  group: GroupId,
  rules: KeepRules,
  dryRun: boolean,
): Promise<PruneResult[]> {
  const { snapshots: all } = await snapshots.readGroup(group);
  const nowSeconds = parts.nowMs() / 1_000;
  const candidates = all.map(({ snapshot, isFinished, isProtected, lockedUntil }) => ({
    snapshot,
    atSeconds: snapshot.atSeconds,
    isFinished,
    isProtected,
    isLocked: lockedUntil !== null && lockedUntil > nowSeconds,
  }));
  const verdicts = planPrune(candidates, rules, parts.toLocal);
  const errors = new Map<SnapshotId, string>();
  for (const { snapshot, mark } of verdicts.toReversed()) {
    if (mark !== 'remove' || dryRun) continue;
    try {
      await snapshots.remove(snapshot.snapshot);
    } catch (error) {
      if (!isAppError(error)) throw error;
      errors.set(snapshot.snapshot, formatErrorChain(error)); // one in use must not keep the others
    }
  }
  return verdicts.map(({ snapshot, mark, rule }) => ({
    snapshot: snapshot.snapshot,
    mark,
    rule,
    error: errors.get(snapshot.snapshot) ?? null,
  }));
}

async function openReader(parts: StoreParts, snapshots: Snapshots, snapshot: SnapshotId): Promise<SnapshotReader> {
  const lock = await parts.files.lock(snapshotPath(snapshot), 'shared');
  try {
    const manifest = await snapshots.readManifest(snapshot);
    if (lock === null) throw new AppError('busy', `${formatSnapshot(snapshot)} is being written or removed`);
    return {
      manifest,
      async read(name) {
        const file = await snapshots.readFile(snapshot, parseArchiveName(name, 'file-name').name);
        if (file === null) throw new AppError('missing', `${formatSnapshot(snapshot)} has no ${name}`);
        return file;
      },
      close: () => lock.release(),
    };
  } catch (error) {
    lock?.release();
    throw error;
  }
}

async function verifyLocked(
  parts: StoreParts,
  chunks: ChunkStore,
  snapshots: Snapshots,
  snapshot: SnapshotId,
  options: { upid: string; signal?: AbortSignal; notAfter?: number },
): ReturnType<typeof verifySnapshot> {
  const lock = await parts.files.lock(snapshotPath(snapshot), 'shared');
  if (lock === null) throw new AppError('busy', `${formatSnapshot(snapshot)} is being written or removed, or is gone`);
  try {
    return await verifySnapshot(parts, chunks, snapshots, snapshot, options);
  } finally {
    lock.release();
  }
}

async function writeStatus(parts: StoreParts, result: GarbageResult, upid: string | null): Promise<void> {
  try {
    await parts.files.replace('.gc-status', formatGarbageStatus(result, upid), false);
  } catch (error) {
    if (!isAppError(error)) throw error;
    result.warnings.push(`the result could not be written down: ${formatErrorChain(error)}`);
  }
}

/** What cannot be read tells nothing; the next collection writes it anew. */
async function readStatus(parts: StoreParts): Promise<JsonObject | null> {
  const file = await parts.files.read('.gc-status');
  try {
    const value = file === null ? null : (JSON.parse(new TextDecoder().decode(file)) as unknown);
    return typeof value === 'object' && value !== null && !Array.isArray(value) ? (value as JsonObject) : null;
  } catch {
    return null;
  }
}
