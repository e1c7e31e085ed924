import { AppError } from '#base/error.ts';
import { checkBlob } from '#core/backup/blob.ts';
import { encodeText, formatHex, isSameBytes } from '#core/backup/bytes.ts';
import { computeIndexCsum, digestAt, parseIndex, type ChunkIndex, type IndexKind } from '#core/backup/chunk-index.ts';
import { chunksOf, startDynamicIndex, startFixedIndex, type ClosedIndex, type IndexWriter } from '#core/backup/index-writer.ts';
import { checkManifestFiles, fillManifest, type StoredFile } from '#core/backup/manifest-check.ts';
import { withUnprotected, type Manifest } from '#core/backup/manifest.ts';
import {
  formatGroup,
  formatSnapshot,
  groupPath,
  manifestFile,
  parseArchiveName,
  snapshotPath,
  type SnapshotId,
} from '#core/backup/names.ts';
import { isOwnedBy } from '#core/backup/owner.ts';
import type { BackupSession, CheckedChunk, UploadStats } from '#ports/datastore.ts';
import { type Base, checkTime, chooseBase } from './backup-base.ts';
import type { ChunkStore } from './chunk-store.ts';
import type { Guard } from './guard.ts';
import { createKeyedLock } from './parallel.ts';
import { own, type StoreParts } from './parts.ts';
import type { Snapshots } from './snapshots.ts';
import type { FileLock } from './store-files.ts';

/** Begins a backup: checks who may, takes the locks, notes on disk that the folder is unfinished, makes it. */
export async function startSession(
  parts: StoreParts,
  chunks: ChunkStore,
  snapshots: Snapshots,
  wanted: { snapshot: SnapshotId; owner: string },
): Promise<Session> {
  const { snapshot } = wanted;
  const locks: FileLock[] = [];
  let isMade = false;
  const record = `${own.sessions}/${formatHex(parts.randomBytes(16))}`;
  try {
    const owner = await snapshots.ensureGroup(snapshot, wanted.owner);
    if (!isOwnedBy(owner, wanted.owner)) {
      throw new AppError('denied', `group ${formatGroup(snapshot)} belongs to ${owner}, not to ${wanted.owner}`);
    }
    locks.push(
      await take(parts, groupPath(snapshot), 'exclusive', `another backup of ${formatGroup(snapshot)} is already running`),
    );
    const process = await parts.files.lockProcess('shared');
    if (process === null)
      throw new AppError('busy', 'another program collects garbage in this datastore; try again when it has ended');
    locks.push(process);
    const base = await chooseBase(chunks, snapshots, snapshot);
    await checkTime(snapshots, snapshot, base);
    if (base !== null)
      locks.push(await take(parts, snapshotPath(base.snapshot), 'shared', `${formatSnapshot(base.snapshot)} is being removed`));
    await parts.files.replace(record, encodeText(snapshotPath(snapshot)), true);
    await parts.files.syncFolder(own.sessions);
    isMade = await parts.files.makeFolder(snapshotPath(snapshot));
    locks.push(await take(parts, snapshotPath(snapshot), 'exclusive', `${formatSnapshot(snapshot)} is in use`));
    return new Session(parts, chunks, snapshots, { snapshot, base, locks, record });
  } catch (error) {
    if (isMade) await snapshots.moveToTrash(snapshotPath(snapshot));
    for (const lock of locks.toReversed()) lock.release();
    await parts.files.remove(record);
    throw error;
  }
}

/** Removes what sessions of an earlier process left unfinished. */
export async function clearSessions(parts: StoreParts, snapshots: Snapshots): Promise<string[]> {
  const cleared: string[] = [];
  for (const { name } of (await parts.files.list(own.sessions)) ?? []) {
    const record = `${own.sessions}/${name}`;
    const path = new TextDecoder().decode((await parts.files.read(record)) ?? new Uint8Array());
    const isLeft =
      path !== '' && (await parts.files.list(path)) !== null && (await parts.files.peek(`${path}/${manifestFile}`, 0)) === null;
    const lock = isLeft ? await parts.files.lock(path, 'exclusive') : null;
    if (isLeft && lock === null) continue; // an older process of ours is still writing it
    if (lock !== null) {
      await snapshots.moveToTrash(path);
      lock.release();
      cleared.push(path);
    }
    await parts.files.remove(record);
  }
  return cleared;
}

export class Session implements BackupSession {
  readonly snapshot: SnapshotId;
  readonly base: Base | null;
  readonly #parts: StoreParts;
  readonly #chunks: ChunkStore;
  readonly #snapshots: Snapshots;
  readonly #guard: Guard;
  readonly #record: string;
  readonly #locks: FileLock[];
  readonly #names = new Set<string>();
  readonly #withName = createKeyedLock();
  readonly #stored: { name: string; index: ChunkIndex }[] = [];
  readonly stats: UploadStats = { count: 0, size: 0, compressed_size: 0, duplicates: 0 };
  readonly #files = new Map<string, StoredFile>();
  #manifest: Uint8Array | null = null;
  #openIndexes = 0;
  #state: 'open' | 'ending' | 'ended' = 'open';

  constructor(
    parts: StoreParts,
    chunks: ChunkStore,
    snapshots: Snapshots,
    begun: { snapshot: SnapshotId; base: Base | null; locks: FileLock[]; record: string },
  ) {
    this.#parts = parts;
    this.#chunks = chunks;
    this.#snapshots = snapshots;
    this.#guard = chunks.guards.open();
    this.snapshot = begun.snapshot;
    this.base = begun.base;
    this.#locks = begun.locks;
    this.#record = begun.record;
  }

  async readBase(name: string): Promise<Uint8Array> {
    this.#mustBeOpen();
    const archive = parseArchiveName(name);
    if (this.base === null) throw new AppError('missing', `no valid previous backup of ${formatGroup(this.snapshot)}`);
    const file = await this.#parts.files.read(`${snapshotPath(this.base.snapshot)}/${archive.name}`);
    if (file === null) throw new AppError('missing', `the previous backup ${formatSnapshot(this.base.snapshot)} has no ${name}`);
    if (archive.kind !== 'blob') this.#learn(parseIndex(archive.kind, file, name));
    return file;
  }

  async addChunk(chunk: CheckedChunk): Promise<{ isDuplicate: boolean }> {
    this.#mustBeOpen();
    const { isDuplicate } = await this.#chunks.insert(this.#guard, chunk);
    this.stats.count += 1;
    this.stats.size += chunk.sizeBytes;
    this.stats.compressed_size += isDuplicate ? 0 : chunk.encoded.length;
    this.stats.duplicates += isDuplicate ? 1 : 0;
    return { isDuplicate };
  }

  knownSize(digest: Uint8Array): number | null {
    return this.#guard.knownSize(digest);
  }

  async startIndex(
    name: string,
    kind: IndexKind,
    { sizeBytes, reuseCsum }: { sizeBytes: number; reuseCsum: Uint8Array | null },
  ): Promise<IndexWriter> {
    this.#mustBeOpen();
    if (parseArchiveName(name).kind !== kind)
      throw new AppError('invalid', `archive-name: ${name} is not the name of a ${kind} index`);
    this.#claimName(name);
    try {
      const birth = { uuid: this.#parts.randomBytes(16), ctimeSeconds: Math.floor(this.#parts.nowMs() / 1_000) };
      const base = reuseCsum === null ? null : await this.#reuse(name, reuseCsum);
      const writer = kind === 'fixed' ? startFixedIndex(sizeBytes, base, birth) : startDynamicIndex(birth);
      this.#openIndexes += 1;
      return writer;
    } catch (error) {
      this.#names.delete(name);
      throw error;
    }
  }

  async addIndex(name: string, closed: ClosedIndex): Promise<void> {
    this.#mustBeOpen();
    const index = parseIndex(name.endsWith('.fidx') ? 'fixed' : 'dynamic', closed.file, name);
    await this.#store(name, closed.file);
    this.#stored.push({ name, index });
    this.#files.set(name, { kind: 'index', sizeBytes: closed.sizeBytes, csum: closed.csum });
    this.#openIndexes -= 1;
  }

  async addBlob(name: string, encoded: Uint8Array): Promise<void> {
    this.#mustBeOpen();
    if (parseArchiveName(name, 'file-name').kind !== 'blob')
      throw new AppError('invalid', `file-name: ${name} does not end with .blob`);
    const { cryptClass } = checkBlob(encoded, name, this.#parts.functions);
    if (name === manifestFile) {
      if (cryptClass !== 'plain') throw new AppError('invalid', 'the manifest must not be encrypted');
      this.#manifest = encoded;
      return;
    }
    // One that comes again replaces what came before.
    await this.#withName(name, async () => {
      await this.#store(name, encoded);
      this.#files.set(name, { kind: 'blob', sizeBytes: encoded.length, csum: this.#parts.functions.sha256(encoded) });
    });
  }

  async finish(): Promise<void> {
    this.#mustBeOpen();
    const manifest = this.#checkManifest();
    this.#state = 'ending';
    const path = `${snapshotPath(this.snapshot)}/${manifestFile}`;
    try {
      await this.#checkBase();
      this.#checkLost();
      const stats = { ...this.stats };
      const content = this.#snapshots.encodeManifest(
        withUnprotected(manifest, { ...manifest.unprotected, chunk_upload_stats: stats }),
      );
      if (this.#parts.sync === 'filesystem') {
        const prepared = await this.#chunks.prepareCheckpoint();
        await this.#parts.files.syncAll();
        await this.#chunks.checkpoint(prepared);
      }
      this.#checkLost();
      await this.#lock(); // before anybody can see the snapshot, and by our clock, whatever time its name says
      await this.#parts.files.replace(path, content, this.#parts.sync !== 'none');
      if (this.#parts.sync !== 'none') await this.#syncFolders();
    } catch (error) {
      this.#state = 'open';
      throw error;
    }
    this.#letGo();
    await this.#parts.files.remove(this.#record);
  }

  async abort(): Promise<void> {
    if (this.#state !== 'open') return;
    this.#state = 'ending';
    try {
      await this.#snapshots.moveToTrash(snapshotPath(this.snapshot));
      await this.#parts.files.remove(this.#record); // if the folder could not be moved, the next start does it by this record
    } finally {
      this.#letGo();
    }
  }

  async #lock(): Promise<void> {
    const seconds = this.#parts.lockSeconds ?? 0;
    if (seconds > 0) await this.#snapshots.writeLock(this.snapshot, Math.floor(this.#parts.nowMs() / 1_000) + seconds);
  }

  #letGo(): void {
    this.#state = 'ended';
    this.#chunks.guards.close(this.#guard);
    for (const lock of this.#locks.toReversed()) lock.release();
  }

  #mustBeOpen(): void {
    if (this.#state !== 'open') throw new AppError('conflict', `the backup ${formatSnapshot(this.snapshot)} has ended`);
  }

  #claimName(name: string): void {
    if (this.#names.has(name)) throw new AppError('conflict', `${name} was written already in this backup`);
    this.#names.add(name);
  }

  async #store(name: string, content: Uint8Array): Promise<void> {
    await this.#parts.files.replace(`${snapshotPath(this.snapshot)}/${name}`, content, this.#parts.sync === 'file');
  }

  #learn(index: ChunkIndex): void {
    for (const { digest, sizeBytes } of chunksOf(index)) {
      if (!this.#chunks.catalogue.isLost(digest)) this.#guard.know(digest, sizeBytes);
    }
  }

  async #reuse(name: string, csum: Uint8Array): Promise<ChunkIndex> {
    const file = await this.readBase(name).catch((cause: unknown) => {
      // 'missing' would say that the call itself does not exist.
      throw new AppError('invalid', `reuse-csum: there is no ${name} of a previous backup to build on`, { cause });
    });
    const index = parseIndex('fixed', file, name);
    const found = computeIndexCsum(index.records, this.#parts.functions);
    if (!isSameBytes(found, csum)) {
      throw new AppError('invalid', `reuse-csum: ${formatHex(csum)}, but ${name} of the previous backup has ${formatHex(found)}`);
    }
    return index;
  }

  #checkManifest(): Manifest {
    if (this.#openIndexes > 0)
      throw new AppError('conflict', `${this.#openIndexes} indexes are still open; close them before finish`);
    if (this.#manifest === null) throw new AppError('invalid', `the backup has no ${manifestFile}`);
    const manifest = this.#snapshots.decodeManifest(this.#manifest, this.snapshot, (text) => fillManifest(text, this.#files));
    checkManifestFiles(manifest, this.#files);
    return manifest;
  }

  async #checkBase(): Promise<void> {
    if (this.base === null) return;
    const path = `${snapshotPath(this.base.snapshot)}/${manifestFile}`;
    if ((await this.#parts.files.peek(path, 0)) === null) {
      throw new AppError(
        'conflict',
        `the previous backup ${formatSnapshot(this.base.snapshot)} vanished while this one relied on it`,
      );
    }
  }

  /** A verification may have set chunks aside that were known here. */
  #checkLost(): void {
    if (this.#guard.lostCount === 0) return;
    for (const { name, index } of this.#stored) {
      for (let at = 0; at < index.count; at += 1) {
        const digest = digestAt(index, at);
        if (this.#guard.isLost(digest)) {
          throw new AppError(
            'conflict',
            `${name}: chunk ${formatHex(digest)} was found damaged on this server meanwhile; run the backup again`,
          );
        }
      }
    }
  }

  /** From the snapshot up to the root: each may be new. */
  async #syncFolders(): Promise<void> {
    const parts = snapshotPath(this.snapshot).split('/');
    for (let count = parts.length; count >= 0; count -= 1) await this.#parts.files.syncFolder(parts.slice(0, count).join('/'));
  }
}

async function take(parts: StoreParts, path: string, mode: 'shared' | 'exclusive', trouble: string): Promise<FileLock> {
  const lock = await parts.files.lock(path, mode);
  if (lock === null) throw new AppError('busy', trouble);
  return lock;
}
