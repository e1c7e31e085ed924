import type { WireSession } from '#adapters/backup-client/wire-session.ts';
import { AppError, formatErrorChain, isAppError } from '#base/error.ts';
import { blobLimits, checkBlob, decodeBlob, encodeBlob } from '#core/backup/blob.ts';
import type { ByteFunctions } from '#core/backup/byte-functions.ts';
import { formatHex } from '#core/backup/bytes.ts';
import { chunksOf, fixedChunkBytes, type KnownChunk } from '#core/backup/index-writer.ts';
import { isChosen } from '#core/backup/group-filter.ts';
import { formatManifest, parseManifest, withUnprotected, type Manifest, type ManifestEntry } from '#core/backup/manifest.ts';
import {
  clientLogFile,
  formatGroup,
  formatSnapshot,
  manifestFile,
  parseArchiveName,
  type GroupId,
  type SnapshotId,
} from '#core/backup/names.ts';
import { checkIndex } from '#core/backup/snapshot-check.ts';
import { planSync } from '#core/backup/sync-plan.ts';
import type { BackupSession, Datastore } from '#ports/datastore.ts';
import { checkIncoming } from '../incoming-chunk.ts';
import type { Work } from '../rest/work.ts';
import type { PeerSnapshot } from './peer.ts';
import type { SyncChoice } from './sync.ts';
import { keepGroup, refuseFailed, type SyncParts } from './sync-group.ts';

const chunksAtOnce = 16;

/** Brings the snapshots of the other server here. Raises at the end when a group failed; the others are done all the same. */
export async function pull({ work, peer, choice, functions }: SyncParts): Promise<void> {
  let failed = 0;
  for (const there of await peer.namespaces(choice.remoteNamespace, choice.depth)) {
    const here = [...choice.namespace, ...there.slice(choice.remoteNamespace.length)];
    await ensureNamespace(work.store, here);
    const groups = (await peer.groups(there)).filter(({ type, id }) => isChosen(choice.filters, type, id));
    for (const group of groups) {
      const held = await keepGroup(work, group, () =>
        pullGroup({ work, peer, choice, functions }, group, { ...group, namespace: here }),
      );
      if (!held) failed += 1;
    }
    if (choice.removeVanished) failed += await removeVanishedGroups(work, choice, groups, here);
  }
  refuseFailed(failed);
}

async function ensureNamespace(store: Datastore, namespace: readonly string[]): Promise<void> {
  for (let levels = 1; levels <= namespace.length; levels += 1) {
    const part = namespace.slice(0, levels);
    const siblings = await store.listNamespaces(part.slice(0, -1));
    if (!siblings.some((found) => found.at(-1) === part.at(-1))) await store.createNamespace(part);
  }
}

async function pullGroup({ work, peer, choice, functions }: SyncParts, there: GroupId, here: GroupId): Promise<void> {
  const source = await peer.snapshots(there);
  const target = await listHere(work.store, here);
  const plan = planSync(
    source.map(({ snapshot, isFinished }) => ({ atSeconds: snapshot.atSeconds, isFinished })),
    target,
    choice,
  );
  work.note(`${formatGroup(there)}: ${plan.because}`);
  for (const atSeconds of plan.transfer) {
    work.signal.throwIfAborted();
    await pullSnapshot({ work, peer, choice, functions }, { ...there, atSeconds }, { ...here, atSeconds });
  }
  await pullLateLog({ work, peer }, source, here);
  if (!choice.removeVanished) return;
  for (const atSeconds of plan.vanished) await removeVanished(work, { ...here, atSeconds });
}

async function listHere(store: Datastore, group: GroupId): Promise<{ atSeconds: number; isFinished: boolean }[]> {
  try {
    const { snapshots } = await store.readGroup(group);
    return snapshots.map(({ snapshot, isFinished }) => ({ atSeconds: snapshot.atSeconds, isFinished }));
  } catch (error) {
    if (isAppError(error, 'missing')) return [];
    throw error;
  }
}

/** As a backup of our own: until its end nothing of it is seen, and what a crash leaves is cleared away. */
async function pullSnapshot({ work, peer, choice, functions }: SyncParts, there: SnapshotId, here: SnapshotId): Promise<void> {
  using wire = await peer.open('reader', there);
  const session = await work.store.startBackup(here, choice.owner);
  try {
    const manifest = readManifest(await download(wire, manifestFile), there, functions);
    for (const entry of manifest.files) {
      if (parseArchiveName(entry.name).kind === 'blob') await session.addBlob(entry.name, await download(wire, entry.name));
      else await pullArchive({ work, functions }, wire, session, entry);
    }
    // What that server found by verifying says nothing of our copy.
    const { verify_state: _verified, ...unprotected } = manifest.unprotected;
    const text = formatManifest(withUnprotected(manifest, unprotected));
    await session.addBlob(manifestFile, encodeBlob(text, { compress: true, crypt: null }, functions));
    await session.finish();
  } finally {
    await session.abort(); // does nothing after a finish
  }
  const { count, size, compressed_size: stored } = session.stats;
  work.note(`${formatSnapshot(there)}: ${count} chunks, ${size} bytes of data, ${stored} bytes stored`);
  await pullLog(work, wire, here);
}

function readManifest(encoded: Uint8Array, snapshot: SnapshotId, functions: ByteFunctions): Manifest {
  const options = { key: null, maxBytes: blobLimits.wholeBytes, what: `manifest of ${formatSnapshot(snapshot)}` };
  return parseManifest(decodeBlob(encoded, options, functions));
}

/** Chunks that the base holds are not asked for, those that lie here otherwise are read here. */
async function pullArchive(
  { work, functions }: Pick<SyncParts, 'work' | 'functions'>,
  wire: WireSession,
  session: BackupSession,
  entry: ManifestEntry,
): Promise<void> {
  const index = checkIndex(entry, await download(wire, entry.name), functions);
  if (index.kind === 'fixed' && index.chunkBytes !== fixedChunkBytes)
    throw new AppError(
      'unsupported',
      `${entry.name}: chunks of ${index.chunkBytes} bytes; images have chunks of ${fixedChunkBytes}`,
    );
  if (session.base?.manifest.files.some(({ name }) => name === entry.name) === true) await session.readBase(entry.name);
  const writer = await session.startIndex(entry.name, index.kind, { sizeBytes: index.sizeBytes, reuseCsum: null });
  const underWay = new Set<Promise<void>>();
  for (const chunk of chunksOf(index)) {
    if (session.knownSize(chunk.digest) !== null) continue;
    work.signal.throwIfAborted();
    if (underWay.size >= chunksAtOnce) await Promise.race(underWay);
    const job = pullChunk({ work, functions }, wire, session, entry, chunk).finally(() => underWay.delete(job));
    job.catch(() => {}); // raised by the race or below
    underWay.add(job);
  }
  await Promise.all(underWay);
  let start = 0;
  for (const chunk of chunksOf(index)) {
    const sizeBytes = session.knownSize(chunk.digest);
    if (sizeBytes === null)
      throw new AppError('unavailable', `${entry.name}: chunk ${formatHex(chunk.digest)} was lost here meanwhile`);
    writer.append({ digest: chunk.digest, sizeBytes }, start);
    start += chunk.sizeBytes;
  }
  await session.addIndex(
    entry.name,
    writer.close({ chunkCount: index.count, sizeBytes: index.sizeBytes, csum: entry.csum }, functions),
  );
}

async function pullChunk(
  { work, functions }: Pick<SyncParts, 'work' | 'functions'>,
  wire: WireSession,
  session: BackupSession,
  entry: ManifestEntry,
  { digest, sizeBytes }: KnownChunk,
): Promise<void> {
  const expected = entry.cryptMode === 'encrypt' ? 'encrypted' : 'plain';
  const isNew = async (encoded: Uint8Array): Promise<void> => {
    // A stored chunk has its CRC; of an encrypted one that is all by which damage is seen. One of the other class is not this chunk.
    const { cryptClass } = checkBlob(encoded, `chunk ${formatHex(digest)}`, functions);
    if (cryptClass !== expected)
      throw new AppError('invalid', `${entry.name}: chunk ${formatHex(digest)} is ${cryptClass}, the archive is ${expected}`);
    await session.addChunk(await checkIncoming({ digest, sizeBytes, encodedBytes: encoded.length }, encoded));
  };
  const own = await work.store.readChunk(digest);
  if (own !== null) {
    try {
      return await isNew(own);
    } catch (error) {
      if (!isAppError(error)) throw error; // what lies here is damaged: the other's is taken
    }
  }
  await isNew(await wire.fetch({ method: 'GET', path: 'chunk', query: { digest: formatHex(digest) } }));
}

function download(wire: WireSession, name: string): Promise<Uint8Array> {
  return wire.fetch({ method: 'GET', path: 'download', query: { 'file-name': name } });
}

/** Many snapshots have no log. */
async function pullLog({ store, warn }: Work, wire: WireSession, here: SnapshotId): Promise<void> {
  const { status, bytes } = await wire.ask({ method: 'GET', path: 'download', query: { 'file-name': clientLogFile } });
  if (status !== 200) return;
  await store.addLog(here, bytes).catch((error: unknown) => warn(`${formatSnapshot(here)}: its log: ${formatErrorChain(error)}`));
}

/** A client sends its log after the finish: it may have come since the newest snapshot was brought. */
async function pullLateLog(
  { work, peer }: Pick<SyncParts, 'work' | 'peer'>,
  source: readonly PeerSnapshot[],
  here: GroupId,
): Promise<void> {
  const mine = (await listHere(work.store, here)).filter(({ isFinished }) => isFinished);
  const newest = Math.max(0, ...mine.map(({ atSeconds }) => atSeconds));
  const there = source.find(({ snapshot, hasLog }) => snapshot.atSeconds === newest && hasLog);
  if (there === undefined) return;
  const snapshot = { ...here, atSeconds: newest };
  if ((await work.store.readSnapshot(snapshot)).files.includes(clientLogFile)) return;
  using wire = await peer.open('reader', there.snapshot);
  await pullLog(work, wire, snapshot);
}

async function removeVanished({ store, note, warn }: Work, snapshot: SnapshotId): Promise<void> {
  try {
    await store.removeSnapshot(snapshot);
    note(`${formatSnapshot(snapshot)}: removed, as the other server has it no more`);
  } catch (error) {
    if (!isAppError(error)) throw error;
    warn(`${formatSnapshot(snapshot)}: the other server has it no more; it stays: ${error.message}`);
  }
}

/** Groups of this job's owner that the other server has no more. */
async function removeVanishedGroups(
  work: Work,
  choice: SyncChoice,
  there: readonly GroupId[],
  here: readonly string[],
): Promise<number> {
  const names = new Set(there.map(({ type, id }) => `${type}/${id}`));
  let failed = 0;
  for (const { group, owner } of await work.store.listGroups(here)) {
    if (names.has(`${group.type}/${group.id}`) || owner !== choice.owner || !isChosen(choice.filters, group.type, group.id))
      continue;
    const { kept, removed } = await work.store.removeGroup(group);
    work.note(`${formatGroup(group)}: the other server has it no more; ${removed} snapshots removed, ${kept.length} stay`);
    if (kept.length > 0) failed += 1;
  }
  return failed;
}
