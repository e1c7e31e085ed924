import type { WireSession } from '#adapters/backup-client/wire-session.ts';
import { AppError } from '#base/error.ts';
import type { ByteFunctions } from '#core/backup/byte-functions.ts';
import { formatHex } from '#core/backup/bytes.ts';
import { parseIndex, type ChunkIndex } from '#core/backup/chunk-index.ts';
import { isChosen } from '#core/backup/group-filter.ts';
import { chunksOf, type KnownChunk } from '#core/backup/index-writer.ts';
import { formatManifest, withUnprotected, type ManifestEntry } from '#core/backup/manifest.ts';
import { checkBlob, encodeBlob } from '#core/backup/blob.ts';
import {
  formatGroup,
  formatSnapshot,
  manifestFile,
  parseArchiveName,
  type GroupId,
  type SnapshotId,
} from '#core/backup/names.ts';
import { checkIndex } from '#core/backup/snapshot-check.ts';
import { planSync } from '#core/backup/sync-plan.ts';
import type { SnapshotReader } from '#ports/datastore.ts';
import { namespacesBelow } from '../rest/context.ts';
import type { Work } from '../rest/work.ts';
import { keepGroup, refuseFailed, type SyncParts } from './sync-group.ts';

const chunksAtOnce = 16;
/** Entries of one append; older servers take no more in one body. */
const appendEntries = 128;
const finishMs = 600_000;

/** What goes to one snapshot at the other server. */
type Sending = {
  work: Work;
  wire: WireSession;
  reader: SnapshotReader;
  functions: ByteFunctions;
  known: Set<string>;
  sent: { chunks: number; bytes: number };
};

/** Sends our snapshots to the other server. Raises at the end when a group failed; the others are done all the same. */
export async function push({ work, peer, choice, functions }: SyncParts): Promise<void> {
  let failed = 0;
  for (const here of await namespacesBelow(work.store, choice.namespace, choice.depth)) {
    const there = [...choice.remoteNamespace, ...here.slice(choice.namespace.length)];
    for (const { group } of await work.store.listGroups(here)) {
      if (!isChosen(choice.filters, group.type, group.id)) continue;
      const held = await keepGroup(work, group, () =>
        pushGroup({ work, peer, choice, functions }, group, { ...group, namespace: there }),
      );
      if (!held) failed += 1;
    }
  }
  refuseFailed(failed);
}

async function pushGroup({ work, peer, choice, functions }: SyncParts, here: GroupId, there: GroupId): Promise<void> {
  const { snapshots } = await work.store.readGroup(here);
  const target = (await peer.snapshots(there)).map(({ snapshot, isFinished }) => ({ atSeconds: snapshot.atSeconds, isFinished }));
  const plan = planSync(
    snapshots.map(({ snapshot, isFinished }) => ({ atSeconds: snapshot.atSeconds, isFinished })),
    target,
    choice,
  );
  work.note(`${formatGroup(here)}: ${plan.because}`);
  for (const atSeconds of plan.transfer) {
    work.signal.throwIfAborted();
    await pushSnapshot({ work, peer, choice, functions }, { ...here, atSeconds }, { ...there, atSeconds });
  }
}

async function pushSnapshot({ work, peer, functions }: SyncParts, here: SnapshotId, there: SnapshotId): Promise<void> {
  const reader = await work.store.openSnapshot(here);
  try {
    using wire = await peer.open('backup', there);
    const sending: Sending = { work, wire, reader, functions, known: new Set(), sent: { chunks: 0, bytes: 0 } };
    for (const entry of reader.manifest.files) {
      const { kind } = parseArchiveName(entry.name);
      if (kind === 'blob') await sendBlob(wire, entry.name, await reader.read(entry.name));
      else await sendArchive(sending, entry);
    }
    const { verify_state: _verified, ...unprotected } = reader.manifest.unprotected;
    const text = formatManifest(withUnprotected(reader.manifest, unprotected));
    await sendBlob(wire, manifestFile, encodeBlob(text, { compress: true, crypt: null }, functions));
    await wire.call({ method: 'POST', path: 'finish', waitMs: finishMs });
    work.note(`${formatSnapshot(here)}: ${sending.sent.chunks} chunks, ${sending.sent.bytes} bytes sent`);
  } finally {
    reader.close();
  }
}

async function sendBlob(wire: WireSession, name: string, encoded: Uint8Array): Promise<void> {
  await wire.call({ method: 'POST', path: 'blob', query: { 'file-name': name, 'encoded-size': encoded.length }, body: encoded });
}

async function sendArchive(sending: Sending, entry: ManifestEntry): Promise<void> {
  const { wire, reader, functions, work, known } = sending;
  const index = checkIndex(entry, await reader.read(entry.name), functions);
  const { kind } = index;
  await learnPrevious(sending, entry.name, kind);
  const wid = await wire.call({
    method: 'POST',
    path: `${kind}_index`,
    query: { 'archive-name': entry.name, ...(kind === 'fixed' ? { size: index.sizeBytes } : {}) },
  });
  if (typeof wid !== 'number') throw new AppError('unavailable', `${entry.name}: the other server answers no number of a writer`);
  const underWay = new Set<Promise<void>>();
  for (const chunk of chunksOf(index)) {
    const hex = formatHex(chunk.digest);
    if (known.has(hex)) continue;
    known.add(hex);
    work.signal.throwIfAborted();
    if (underWay.size >= chunksAtOnce) await Promise.race(underWay);
    const job = sendChunk(sending, entry, wid, chunk).finally(() => underWay.delete(job));
    job.catch(() => {}); // raised by the race or below
    underWay.add(job);
  }
  await Promise.all(underWay);
  await appendAll(wire, index, wid);
  const close = { wid, 'chunk-count': index.count, size: index.sizeBytes, csum: formatHex(entry.csum) };
  await wire.call({ method: 'POST', path: `${kind}_close`, query: close });
}

/** What the last snapshot there holds need not be sent; a server without one says so. */
async function learnPrevious({ wire, known }: Sending, name: string, kind: ChunkIndex['kind']): Promise<void> {
  const { status, bytes } = await wire.ask({ method: 'GET', path: 'previous', query: { 'archive-name': name } });
  if (status !== 200) return;
  for (const { digest } of chunksOf(parseIndex(kind, bytes, `${name} of the previous backup`))) known.add(formatHex(digest));
}

async function sendChunk(
  { work, wire, sent, functions }: Sending,
  entry: ManifestEntry,
  wid: number,
  { digest, sizeBytes }: KnownChunk,
): Promise<void> {
  const hex = formatHex(digest);
  const encoded = await work.store.readChunk(digest);
  if (encoded === null) throw new AppError('unavailable', `chunk ${hex} is not there; verify the snapshot`);
  // The other server writes the CRC anew and could not see damage of what is encrypted.
  const { cryptClass } = checkBlob(encoded, `chunk ${hex}`, functions);
  const expected = entry.cryptMode === 'encrypt' ? 'encrypted' : 'plain';
  if (cryptClass !== expected)
    throw new AppError(
      'invalid',
      `${entry.name}: chunk ${hex} is ${cryptClass}, the archive is ${expected}; verify the snapshot`,
    );
  await wire.call({
    method: 'POST',
    path: entry.name.endsWith('.fidx') ? 'fixed_chunk' : 'dynamic_chunk',
    query: { wid, digest: hex, size: sizeBytes, 'encoded-size': encoded.length },
    body: encoded,
  });
  sent.chunks += 1;
  sent.bytes += encoded.length;
}

async function appendAll(wire: WireSession, index: ChunkIndex, wid: number): Promise<void> {
  let digests: string[] = [];
  let offsets: number[] = [];
  let start = 0;
  const flush = async (): Promise<void> => {
    if (digests.length === 0) return;
    await wire.call({
      method: 'PUT',
      path: `${index.kind}_index`,
      body: { wid, 'digest-list': digests, 'offset-list': offsets },
    });
    digests = [];
    offsets = [];
  };
  for (const { digest, sizeBytes } of chunksOf(index)) {
    digests.push(formatHex(digest));
    offsets.push(start);
    start += sizeBytes;
    if (digests.length === appendEntries) await flush();
  }
  await flush();
}
