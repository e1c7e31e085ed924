import { isAppError } from '#base/error.ts';
import { checkBlob, decodeBlob, blobLimits } from '#core/backup/blob.ts';
import { formatHex, isSameBytes } from '#core/backup/bytes.ts';
import { computeIndexCsum, digestAt, parseIndex, type ChunkIndex } from '#core/backup/chunk-index.ts';
import { DigestTable } from '#core/backup/digest-table.ts';
import type { ManifestEntry } from '#core/backup/manifest.ts';
import { parseArchiveName, snapshotPath, type SnapshotId } from '#core/backup/names.ts';
import { planVerify } from '#core/backup/verify-plan.ts';
import type { VerifyResult } from '#ports/datastore.ts';
import type { ChunkStore } from './chunk-store.ts';
import { inParallel } from './parallel.ts';
import type { StoreParts } from './parts.ts';
import type { Snapshots } from './snapshots.ts';

/** Problems that are told one by one; the rest is a number. */
const problemsTold = 50;

/**
 * Checks every file and chunk of a snapshot and writes the verdict into its manifest. A chunk found right after `notAfter` (seconds since
 * 1970) is not read again: so a verification that was broken off goes on where it was.
 */
export async function verifySnapshot(
  parts: StoreParts,
  chunks: ChunkStore,
  snapshots: Snapshots,
  snapshot: SnapshotId,
  options: { upid: string; signal?: AbortSignal; notAfter?: number },
): Promise<VerifyResult> {
  const problems: string[] = [];
  const manifest = await snapshots.readManifest(snapshot);
  const seen = new DigestTable(1);
  for (const entry of manifest.files) {
    options.signal?.throwIfAborted();
    problems.push(...(await verifyFile(parts, chunks, { snapshot, entry, seen, ...options })));
  }
  const state = problems.length === 0 ? 'ok' : 'failed';
  await snapshots.updateUnprotected(snapshot, (unprotected) => ({ ...unprotected, verify_state: { state, upid: options.upid } }));
  await chunks.flush();
  const untold = problems.length - problemsTold;
  return { snapshot, problems: untold > 0 ? [...problems.slice(0, problemsTold), `and ${untold} more`] : problems };
}

/** The rolling verification: those chunks that nobody looked at for longest, within a budget. Bad ones are set aside. */
export async function verifyChunks(
  parts: StoreParts,
  chunks: ChunkStore,
  { bytes, olderThan, signal }: { bytes: number; olderThan: number; signal?: AbortSignal },
): Promise<{ checked: number; bad: string[] }> {
  const bad: string[] = [];
  let checked = 0;
  await inParallel(planVerify(chunks.catalogue, { bytes, olderThan }), parts.checkers, async (digest) => {
    signal?.throwIfAborted();
    const { problem } = await chunks.check(digest);
    checked += 1;
    // One that a collection removed meanwhile is no problem.
    if (problem !== null && chunks.catalogue.isLost(digest)) bad.push(problem);
  });
  await chunks.flush();
  return { checked, bad };
}

type FileJob = { snapshot: SnapshotId; entry: ManifestEntry; seen: DigestTable; signal?: AbortSignal; notAfter?: number };

async function verifyFile(parts: StoreParts, chunks: ChunkStore, job: FileJob): Promise<string[]> {
  const { name } = job.entry;
  const file = await parts.files.read(`${snapshotPath(job.snapshot)}/${name}`);
  if (file === null) return [`${name}: it is listed in the manifest and not there`];
  const { kind } = parseArchiveName(name);
  try {
    if (kind === 'blob') return verifyBlob(parts, job.entry, file);
    const index = parseIndex(kind, file, name);
    const csum = computeIndexCsum(index.records, parts.functions);
    return [...compare(job.entry, index.sizeBytes, csum), ...(await verifyIndexChunks(parts, chunks, job, index))];
  } catch (error) {
    if (!isAppError(error, 'invalid', 'denied')) throw error;
    return [error.message];
  }
}

function verifyBlob(parts: StoreParts, entry: ManifestEntry, file: Uint8Array): string[] {
  const { cryptClass } = checkBlob(file, entry.name, parts.functions);
  if (cryptClass === 'plain') decodeBlob(file, { key: null, maxBytes: blobLimits.wholeBytes, what: entry.name }, parts.functions);
  return compare(entry, file.length, parts.functions.sha256(file));
}

function compare(entry: ManifestEntry, sizeBytes: number, csum: Uint8Array): string[] {
  const problems: string[] = [];
  if (sizeBytes !== entry.sizeBytes) problems.push(`${entry.name}: ${sizeBytes} bytes, but the manifest says ${entry.sizeBytes}`);
  if (!isSameBytes(csum, entry.csum)) {
    problems.push(`${entry.name}: its checksum is ${formatHex(csum)}, but the manifest says ${formatHex(entry.csum)}`);
  }
  return problems;
}

async function verifyIndexChunks(parts: StoreParts, chunks: ChunkStore, job: FileJob, index: ChunkIndex): Promise<string[]> {
  const { name, cryptMode } = job.entry;
  const expected = cryptMode === 'encrypt' ? 'encrypted' : 'plain';
  const problems: string[] = [];
  function* distinct(): Generator<Uint8Array> {
    for (let at = 0; at < index.count; at += 1) {
      const digest = digestAt(index, at);
      if (job.seen.has(digest)) continue;
      job.seen.add(digest);
      yield digest;
    }
  }
  await inParallel(distinct(), parts.checkers, async (digest) => {
    job.signal?.throwIfAborted();
    const known = chunks.catalogue.look(digest);
    const isFresh = known !== null && job.notAfter !== undefined && known.verifiedAt > job.notAfter && known.cryptClass !== null;
    const { problem, cryptClass } = isFresh ? { problem: null, cryptClass: known.cryptClass } : await chunks.check(digest);
    if (problem !== null) problems.push(`${name}: ${problem}`);
    else if (cryptClass !== expected)
      problems.push(`${name}: chunk ${formatHex(digest)} is ${cryptClass}, the archive is ${expected}`);
  });
  return problems;
}
