import { AppError } from '#base/error.ts';
import { kindOfHead } from '#core/backup/blob.ts';
import type { ByteRooms } from '#core/backup/byte-rooms.ts';
import { encodeText, formatHex, joinBytes, parseHex } from '#core/backup/bytes.ts';
import { ChunkCatalogue } from '#core/backup/chunk-catalogue.ts';
import { planInsert, type InsertPlan } from '#core/backup/chunk-check.ts';
import type { DigestTable } from '#core/backup/digest-table.ts';
import { chunkPath } from '#core/backup/names.ts';
import type { CheckedChunk } from '#ports/datastore.ts';
import { ChunkAccount } from './chunk-account.ts';
import { createGuards, type Guard, type Guards } from './guard.ts';
import { createKeyedLock, inParallel } from './parallel.ts';
import { own, type StoreParts } from './parts.ts';

/** Changes of the catalogue that are held before they are appended to its log. */
const journalRecords = 1_000;
/** Folders listed at once by a scan. */
const scanWidth = 32;
/** Of the chunks that are referred to and not known, so many are looked for. */
const missingLookedFor = 1_000;
const badNumbers = 10;

/** The chunks of a store: one file each, one job at a time on each. */
export class ChunkStore {
  readonly catalogue: ChunkCatalogue;
  readonly guards: Guards;
  readonly #parts: StoreParts;
  readonly #withLock = createKeyedLock();
  readonly #account: ChunkAccount;
  #flushing: Promise<void> = Promise.resolve();
  /** False: chunks may be there that the catalogue lacks. */
  #isComplete = false;
  /** False: the log on disk lacks something, or has a torn record. */
  #isLogWhole = true;
  #logBytes = 0;
  /** Folders (first two bytes of a digest) that the log tells of since it was last known to be on disk. */
  #doubtful: ReadonlySet<number> = new Set();

  constructor(parts: StoreParts) {
    const seed = new DataView(Uint8Array.from(parts.randomBytes(4)).buffer).getInt32(0);
    this.#parts = parts;
    this.catalogue = new ChunkCatalogue(seed);
    this.guards = createGuards(seed);
    this.#account = new ChunkAccount(parts);
  }

  get isComplete(): boolean {
    return this.#isComplete;
  }

  /** Reads the log. It is complete only when the last process closed the store in order. */
  async load(): Promise<void> {
    const { files } = this.#parts;
    const wasClosed = (await files.read(own.clean)) !== null;
    const log = await files.read(own.chunkLog);
    await this.#account.load();
    const syncedBytes = wasClosed ? Number.POSITIVE_INFINITY : this.#account.syncedBytes;
    try {
      if (log === null || (!wasClosed && log.length < syncedBytes)) throw new AppError('missing', 'no chunk log, or half of one');
      const { doubtful, tornBytes } = this.catalogue.replay(log, syncedBytes);
      if (tornBytes > 0) await files.append(own.chunkLog, new Uint8Array(tornBytes));
      this.#logBytes = log.length + tornBytes;
      this.#doubtful = doubtful;
      this.#isComplete = wasClosed;
      if (wasClosed) await this.#account.commit(this.#parts.nowMs(), this.#logBytes); // the log is known to be on disk
    } catch {
      await this.#account.distrust(); // a damaged log is no loss: a scan of all folders finds every chunk
      await this.#rewriteLog();
    }
    await files.remove(own.clean);
    await files.syncFolder(own.root);
  }

  /** Writes the log down, after which the next process need not scan. */
  async close(): Promise<void> {
    const { files } = this.#parts;
    await this.flush();
    await files.replace(own.chunkLog, this.catalogue.encode(), true);
    if (this.#isComplete) await files.replace(own.clean, encodeText('closed in order\n'), true);
  }

  /** Stores a chunk for the writer that `guard` belongs to. Raises AppError conflict when what lies there must not be replaced. */
  async insert(guard: Guard, chunk: CheckedChunk): Promise<{ isDuplicate: boolean }> {
    const hex = formatHex(chunk.digest);
    guard.hold(chunk.digest); // first of all: from here on no collection removes it
    return this.#withDigest(hex, async () => {
      const plan = await this.#settle(hex, chunk);
      if (plan === 'duplicate') await this.#parts.files.touch(chunkPath(hex));
      else await this.#write(hex, chunk);
      guard.know(chunk.digest, chunk.sizeBytes);
      await this.#noteProgress();
      return { isDuplicate: plan === 'duplicate' };
    });
  }

  read(digest: Uint8Array, rooms?: ByteRooms): Promise<Uint8Array | null> {
    return this.#parts.files.read(chunkPath(formatHex(digest)), rooms);
  }

  /** Looks at a chunk's file; one that is bad is set aside. Answers what is wrong, or null. */
  async check(digest: Uint8Array): Promise<{ problem: string | null; cryptClass: 'plain' | 'encrypted' | null }> {
    const hex = formatHex(digest);
    return this.#withDigest(hex, async () => {
      const verdict = await this.#judge(hex, digest);
      if (verdict === null) return { problem: `chunk ${hex}: it is not there`, cryptClass: null };
      if (verdict.kind === 'right') return { problem: null, cryptClass: verdict.cryptClass };
      await this.#setAside(hex, digest);
      return { problem: verdict.problem, cryptClass: null };
    });
  }

  /** For the collector: removes a chunk unless a writer holds it. */
  async removeUnheld(digest: Uint8Array): Promise<'removed' | 'held' | 'gone'> {
    const hex = formatHex(digest);
    return this.#withDigest(hex, async () => {
      if (this.guards.isHeld(digest)) return 'held';
      const wasThere = await this.#parts.files.remove(chunkPath(hex));
      this.catalogue.remove(digest);
      await this.#noteProgress();
      return wasThere ? 'removed' : 'gone';
    });
  }

  /** Removes all that was set aside of a chunk; answers how many files. */
  async removeBad(digest: Uint8Array): Promise<number> {
    const hex = formatHex(digest);
    return this.#withDigest(hex, async () => {
      let removed = 0;
      for (let number = 0; number < badNumbers; number += 1)
        if (await this.#parts.files.remove(badPath(hex, number))) removed += 1;
      this.catalogue.setBad(digest, false);
      return removed;
    });
  }

  /** Brings the catalogue in line with all folders. Writers may go on meanwhile. */
  async scan(signal?: AbortSignal): Promise<void> {
    await this.#lookThrough(null, signal);
    this.#isComplete = true;
  }

  /** The same after a crash, with those folders alone that may have changed since what is known for sure. How many were listed, of how many. */
  async catchUp(signal?: AbortSignal): Promise<{ listed: number; folders: number }> {
    const prefixes = await this.#listPrefixes();
    const changed = await this.#account.listChanged(prefixes, this.#doubtful, signal);
    await this.#lookThrough(changed, signal);
    this.#isComplete = true;
    return { listed: (changed ?? prefixes).length, folders: prefixes.length };
  }

  /** Lists the folders whose turn it is; false: the catalogue was wrong about one of them. */
  async isRightInTurn(signal?: AbortSignal): Promise<boolean> {
    return (await this.#lookThrough(this.#account.takeTurn(await this.#listPrefixes()), signal)) === 0;
  }

  /** Looks for chunks that the catalogue lacks; true when one is there, so that the catalogue is wrong. */
  async isAnyThere(digests: DigestTable): Promise<boolean> {
    for (let number = 0, looked = 0; number < digests.top && looked < missingLookedFor; number += 1) {
      const digest = digests.at(number);
      if (digest === null || this.catalogue.find(digest) >= 0) continue;
      looked += 1;
      if ((await this.#parts.files.peek(chunkPath(formatHex(digest)), 0)) !== null) return true;
    }
    return false;
  }

  async #listPrefixes(): Promise<string[]> {
    const folders = (await this.#parts.files.list('.chunks')) ?? [];
    return folders.map(({ name }) => name).filter((name) => /^[0-9a-f]{4}$/.test(name));
  }

  /** `only`: these folders and those that are gone; null: all. Answers how often the catalogue was wrong. */
  async #lookThrough(only: readonly string[] | null, signal?: AbortSignal): Promise<number> {
    const all = await this.#listPrefixes();
    const seen = new Set<string>();
    await inParallel(only ?? all, scanWidth, async (prefix) => {
      signal?.throwIfAborted();
      for (const { name } of (await this.#parts.files.list(`.chunks/${prefix}`)) ?? []) {
        if (/^[0-9a-f]{64}$/.test(name)) seen.add(name);
        else if (/^[0-9a-f]{64}\.[0-9]\.bad$/.test(name)) this.catalogue.setBad(parseHex(name.slice(0, 64), 32, 'chunk'), true);
      }
    });
    const untouched = only === null ? new Set<string>() : new Set(all).difference(new Set(only));
    let wrong = 0;
    await inParallel(this.#differences(seen, untouched), scanWidth, async (digest) => {
      if (await this.#reconcile(digest)) wrong += 1;
    });
    await this.flush();
    return wrong;
  }

  /** To be called before everything is synced; what it answers is for `checkpoint` afterwards. */
  async prepareCheckpoint(): Promise<{ notedUntilMs: number; logBytes: number }> {
    const notedUntilMs = this.#account.notedUntilMs();
    await this.flush();
    return { notedUntilMs, logBytes: this.#logBytes };
  }

  /** After a crash only what changed since it was prepared is to be looked at. */
  async checkpoint({ notedUntilMs, logBytes }: { notedUntilMs: number; logBytes: number }): Promise<void> {
    if (this.#isComplete && this.#isLogWhole) await this.#account.commit(notedUntilMs, logBytes);
  }

  /** Appends what changed to the log. */
  async flush(): Promise<void> {
    this.#flushing = this.#flushing.then(async () => {
      const { files } = this.#parts;
      const records = this.catalogue.takeJournal();
      if (records.length === 0 && this.#isLogWhole) return;
      try {
        if (!this.#isLogWhole) return await this.#rewriteLog();
        const added = joinBytes(records);
        await files.append(own.chunkLog, added);
        this.#logBytes += added.length;
      } catch {
        this.#isLogWhole = false; // a full disk: it is written anew later; removing must go on
        await this.#account.distrust(); // a process that finds this log looks through all folders
      }
    });
    await this.#flushing;
  }

  async #rewriteLog(): Promise<void> {
    const log = this.catalogue.encode();
    await this.#parts.files.replace(own.chunkLog, log, false);
    this.#logBytes = log.length;
    this.#isLogWhole = true;
  }

  /** One job at a time for each digest. */
  #withDigest<Result>(hex: string, job: () => Promise<Result>): Promise<Result> {
    return this.#withLock(hex, () => this.#account.track(job));
  }

  /** Decides, looking at what is there and setting it aside as needed, whether the new file is to be written. */
  async #settle(hex: string, chunk: CheckedChunk): Promise<Exclude<InsertPlan, 'check' | 'refuse'>> {
    const path = chunkPath(hex);
    for (let isChecked = false; ; isChecked = true) {
      const found = await this.#parts.files.peek(path, 8);
      const noted = this.catalogue.look(chunk.digest);
      const isTrusted = isChecked || (noted !== null && noted.verifiedAt > 0 && noted.sizeBytes === found?.sizeBytes);
      const stored = found === null ? null : { sizeBytes: found.sizeBytes, kind: kindOfHead(found.head), isTrusted };
      const plan = planInsert(stored, chunk.header, chunk.encoded.length);
      if (plan === 'refuse')
        throw new AppError('conflict', `chunk ${hex}: other content lies under this digest; it was not replaced`);
      if (plan === 'set-aside') await this.#setAside(hex, chunk.digest);
      if (plan !== 'check') return plan;
      const verdict = await this.#judge(hex, chunk.digest);
      if (verdict?.kind === 'bad') await this.#setAside(hex, chunk.digest);
    }
  }

  async #judge(hex: string, digest: Uint8Array): ReturnType<StoreParts['checkChunk']> {
    const verdict = await this.#parts.checkChunk(chunkPath(hex), digest);
    if (verdict === null) this.catalogue.remove(digest);
    if (verdict?.kind === 'right') {
      const verifiedAt = Math.floor(this.#parts.nowMs() / 1_000);
      this.catalogue.put(digest, { sizeBytes: verdict.encodedBytes, cryptClass: verdict.cryptClass, verifiedAt });
    }
    await this.#noteProgress();
    return verdict;
  }

  async #write(hex: string, { digest, encoded, header }: CheckedChunk): Promise<void> {
    await this.#parts.files.replace(chunkPath(hex), encoded, this.#parts.sync === 'file');
    const verifiedAt = Math.floor(this.#parts.nowMs() / 1_000);
    this.catalogue.put(digest, { sizeBytes: encoded.length, cryptClass: header.cryptClass, verifiedAt });
  }

  async #setAside(hex: string, digest: Uint8Array): Promise<void> {
    const { files } = this.#parts;
    let number = 0;
    while (number < badNumbers - 1 && (await files.peek(badPath(hex, number), 0)) !== null) number += 1;
    this.guards.loseEverywhere(digest);
    await files.rename(chunkPath(hex), badPath(hex, number));
    this.catalogue.remove(digest);
    this.catalogue.setBad(digest, true);
  }

  *#differences(seen: ReadonlySet<string>, untouched: ReadonlySet<string>): Generator<Uint8Array> {
    for (const hex of seen) {
      const digest = parseHex(hex, 32, 'chunk');
      if (this.catalogue.find(digest) < 0) yield digest;
    }
    for (let number = 0; number < this.catalogue.top; number += 1) {
      const digest = this.catalogue.digestOf(number);
      if (digest === null) continue;
      const hex = formatHex(digest);
      if (!seen.has(hex) && !untouched.has(hex.slice(0, 4))) yield Uint8Array.from(digest);
    }
  }

  /** True when the catalogue was wrong. */
  async #reconcile(digest: Uint8Array): Promise<boolean> {
    const hex = formatHex(digest);
    return this.#withDigest(hex, async () => {
      const found = await this.#parts.files.peek(chunkPath(hex), 0);
      const isKnown = this.catalogue.find(digest) >= 0;
      if (found === null) this.catalogue.remove(digest);
      else if (!isKnown) this.catalogue.put(digest, { sizeBytes: found.sizeBytes, cryptClass: null, verifiedAt: 0 });
      await this.#noteProgress();
      return (found !== null) !== isKnown;
    });
  }

  async #noteProgress(): Promise<void> {
    if (this.catalogue.journalLength >= journalRecords) await this.flush();
  }
}

function badPath(hex: string, number: number): string {
  return `${chunkPath(hex)}.${number}.bad`;
}
