import { AppError } from '#base/error.ts';
import { encodeText } from '#core/backup/bytes.ts';
import { digestAt, parseIndex, salvageDigests, type IndexKind } from '#core/backup/chunk-index.ts';
import { DigestTable } from '#core/backup/digest-table.ts';
import { chunkPath } from '#core/backup/names.ts';
import { formatHex } from '#core/backup/bytes.ts';
import type { CollectOptions, GarbageResult } from '#ports/datastore.ts';
import type { ChunkStore } from './chunk-store.ts';
import { inParallel } from './parallel.ts';
import type { StoreParts } from './parts.ts';

const indexesAtOnce = 4;
const removalsAtOnce = 16;

type Marks = {
  /** Of chunks that the catalogue knows: one bit by number. */
  bits: Uint8Array;
  /** Referred to and not in the catalogue. */
  missing: DigestTable;
};

/**
 * Removes the chunks that nothing refers to.
 *
 *     guards of open backups are kept from here on ─► every index is read, its digests are marked in memory
 *     ─► what the catalogue lists, unmarked and unguarded, is removed at once
 *
 * No access time is asked and no day is waited for: a chunk may go as soon as no snapshot and no running backup refers to it, because
 * every running backup holds what it may refer to in its guard. A backup that ends meanwhile has its indexes in place before its guard
 * closes, and the guard counts until the end. Programs of others are kept out by the process lock. Folders of chunks are not listed:
 * the catalogue knows what is there; after a crash those that may have changed since are listed first, and each time a few in turn.
 */
export async function collectGarbage(parts: StoreParts, chunks: ChunkStore, options: CollectOptions): Promise<GarbageResult> {
  const lock = await parts.files.lockProcess('exclusive');
  if (lock === null)
    throw new AppError('busy', 'another program writes backups into this datastore; collect garbage when it has ended');
  chunks.guards.beginCollection();
  try {
    const note = options.note ?? (() => {});
    await learnChunks(chunks, options.scan === true, note, options.signal);
    const result = emptyResult();
    const marks: Marks = { bits: new Uint8Array(0), missing: new DigestTable(1) };
    const paths = await listIndexes(parts, options.signal);
    note(`marking what ${paths.length} indexes refer to`);
    await inParallel(paths, indexesAtOnce, (path) => markIndex(parts, chunks, marks, result, path, options.signal));
    if (await chunks.isAnyThere(marks.missing)) {
      note('a chunk is there of which nothing was known: looking through all folders of chunks');
      await chunks.scan(options.signal); // what it finds is among the missing, or nothing refers to it
    }
    result.missingChunks = countMissing(chunks, marks);
    if (parts.touchesChunks === true) await touchMarked(parts, chunks, marks, options.signal);
    // A removed snapshot must not come back after a power cut without the chunks that go now.
    if (parts.sync !== 'none') await parts.files.syncAll();
    note(`removing what nothing refers to among ${chunks.catalogue.count} chunks`);
    await sweep(chunks, marks, result, options.signal);
    await sweepBad(chunks, marks, result, options.signal);
    const prepared = await chunks.prepareCheckpoint();
    if (parts.sync !== 'none') {
      await parts.files.syncAll();
      await chunks.checkpoint(prepared);
    }
    return { ...result, diskChunks: chunks.catalogue.count, diskBytes: chunks.catalogue.bytes };
  } finally {
    chunks.guards.endCollection();
    lock.release();
  }
}

/** Brings the catalogue in line with what is there, with as few folders listed as is safe. */
async function learnChunks(
  chunks: ChunkStore,
  isAll: boolean,
  note: (text: string) => void,
  signal?: AbortSignal,
): Promise<void> {
  if (!isAll && !chunks.isComplete) {
    const { listed, folders } = await chunks.catchUp(signal);
    note(`after a crash: ${listed} of ${folders} folders of chunks may have changed and were listed`);
    if (listed === folders) return;
  }
  const isWrong = !isAll && !(await chunks.isRightInTurn(signal));
  if (isWrong) note('a folder of chunks is not as it was known');
  if (!isAll && !isWrong) return;
  note('looking through all folders of chunks');
  await chunks.scan(signal);
}

function countMissing(chunks: ChunkStore, { missing }: Marks): number {
  let count = 0;
  for (let number = 0; number < missing.top; number += 1) {
    const digest = missing.at(number);
    if (digest !== null && chunks.catalogue.find(digest) < 0) count += 1;
  }
  return count;
}

/** The result as the original keeps it in `.gc-status`. */
export function formatGarbageStatus(result: GarbageResult, upid: string | null): Uint8Array {
  return encodeText(
    JSON.stringify({
      ...(upid === null ? {} : { upid }),
      'index-file-count': result.indexFiles,
      'index-data-bytes': result.indexBytes,
      'disk-bytes': result.diskBytes,
      'disk-chunks': result.diskChunks,
      'removed-bytes': result.removedBytes,
      'removed-chunks': result.removedChunks,
      'pending-bytes': result.pendingBytes,
      'pending-chunks': result.pendingChunks,
      'removed-bad': result.removedBad,
      'still-bad': result.stillBad,
    }),
  );
}

/** Every index below the root, also outside of snapshots: somebody may have put one there to keep its chunks. */
async function listIndexes(parts: StoreParts, signal?: AbortSignal): Promise<{ path: string; kind: IndexKind }[]> {
  const found: { path: string; kind: IndexKind }[] = [];
  const folders = [''];
  for (let folder = folders.pop(); folder !== undefined; folder = folders.pop()) {
    signal?.throwIfAborted();
    for (const { name, isFolder } of (await parts.files.list(folder)) ?? []) {
      if (name.startsWith('.') || (folder === '' && name === 'lost+found')) continue;
      const path = folder === '' ? name : `${folder}/${name}`;
      if (isFolder) folders.push(path);
      else if (name.endsWith('.fidx')) found.push({ path, kind: 'fixed' });
      else if (name.endsWith('.didx')) found.push({ path, kind: 'dynamic' });
    }
  }
  return found;
}

async function markIndex(
  parts: StoreParts,
  chunks: ChunkStore,
  marks: Marks,
  result: GarbageResult,
  { path, kind }: { path: string; kind: IndexKind },
  signal?: AbortSignal,
): Promise<void> {
  signal?.throwIfAborted();
  const file = await parts.files.read(path);
  if (file === null) return; // its snapshot was removed meanwhile
  result.indexFiles += 1;
  try {
    const index = parseIndex(kind, file, path);
    result.indexBytes += index.sizeBytes;
    for (let at = 0; at < index.count; at += 1) mark(chunks, marks, digestAt(index, at));
  } catch (error) {
    // A damaged index cannot be restored as it is, but what it still names may be all that is left of a backup.
    for (const digest of salvageDigests(kind, file)) mark(chunks, marks, digest);
    result.warnings.push(error instanceof Error ? error.message : String(error));
  }
}

function mark(chunks: ChunkStore, marks: Marks, digest: Uint8Array): void {
  const number = chunks.catalogue.find(digest);
  if (number < 0) {
    marks.missing.add(digest);
    return;
  }
  if (number >> 3 >= marks.bits.length) {
    const larger = new Uint8Array(Math.max((chunks.catalogue.top >> 3) + 1, marks.bits.length * 2));
    larger.set(marks.bits);
    marks.bits = larger;
  }
  marks.bits[number >> 3]! |= 1 << (number & 7);
}

function isMarked(marks: Marks, number: number): boolean {
  return ((marks.bits[number >> 3] ?? 0) & (1 << (number & 7))) !== 0;
}

async function sweep(chunks: ChunkStore, marks: Marks, result: GarbageResult, signal?: AbortSignal): Promise<void> {
  const { catalogue } = chunks;
  function* unmarked(): Generator<{ digest: Uint8Array; sizeBytes: number }> {
    for (let number = 0; number < catalogue.top; number += 1) {
      if (isMarked(marks, number)) continue;
      const digest = catalogue.digestOf(number);
      // A chunk that was missing when its index was read may have come back since.
      if (digest === null || marks.missing.has(digest)) continue;
      yield { digest: Uint8Array.from(digest), sizeBytes: catalogue.factsOf(number).sizeBytes };
    }
  }
  await inParallel(unmarked(), removalsAtOnce, async ({ digest, sizeBytes }) => {
    signal?.throwIfAborted();
    const outcome = await chunks.removeUnheld(digest);
    if (outcome === 'removed') {
      result.removedChunks += 1;
      result.removedBytes += sizeBytes;
    } else if (outcome === 'held') {
      result.pendingChunks += 1;
      result.pendingBytes += sizeBytes;
    }
  });
}

/** What was set aside stays as long as something refers to the chunk and no good one has come: it may be repaired by hand. */
async function sweepBad(chunks: ChunkStore, marks: Marks, result: GarbageResult, signal?: AbortSignal): Promise<void> {
  for (const digest of chunks.catalogue.listBad()) {
    signal?.throwIfAborted();
    if (marks.missing.has(digest) && chunks.catalogue.find(digest) < 0) result.stillBad += 1;
    else result.removedBad += await chunks.removeBad(digest);
  }
}

/** Access times for a collector that goes by them: once for each chunk, however many snapshots refer to it. */
async function touchMarked(parts: StoreParts, chunks: ChunkStore, marks: Marks, signal?: AbortSignal): Promise<void> {
  function* marked(): Generator<string> {
    for (let number = 0; number < chunks.catalogue.top; number += 1) {
      const digest = isMarked(marks, number) ? chunks.catalogue.digestOf(number) : null;
      if (digest !== null) yield chunkPath(formatHex(digest));
    }
  }
  await inParallel(marked(), removalsAtOnce, async (path) => {
    signal?.throwIfAborted();
    await parts.files.touch(path);
  });
}

function emptyResult(): GarbageResult {
  return {
    indexFiles: 0,
    indexBytes: 0,
    diskChunks: 0,
    diskBytes: 0,
    removedChunks: 0,
    removedBytes: 0,
    pendingChunks: 0,
    pendingBytes: 0,
    removedBad: 0,
    stillBad: 0,
    missingChunks: 0,
    warnings: [],
  };
}
