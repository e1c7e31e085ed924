import { AppError } from '#base/error.ts';
import { kindOfHead } from '#core/backup/blob.ts';
import { encodeText, formatHex, joinBytes, parseHex } from '#core/backup/bytes.ts';
import { ChunkCatalogue } from '#core/backup/chunk-catalogue.ts';
import { planInsert, type InsertPlan } from '#core/backup/chunk-check.ts';
import { chunkPath } from '#core/backup/names.ts';
import type { CheckedChunk } from '#ports/datastore.ts';
import { createGuards, type Guard, type Guards } from './guard.ts';
import { createKeyedLock, inParallel } from './parallel.ts';
import { own, type StoreParts } from './parts.ts';

/** Changes of the catalogue that are held before they are appended to its log. */
const journalRecords = 1_000;
/** Folders listed at once by a scan. */
const scanWidth = 32;
const badNumbers = 10;

/** The chunks of a store: one file each, one job at a time on each. */
export class ChunkStore {
  readonly catalogue: ChunkCatalogue;
  readonly guards: Guards;
  readonly #parts: StoreParts;
  readonly #withDigest = createKeyedLock();
  #flushing: Promise<void> = Promise.resolve();
  /** False: chunks may be there that the catalogue lacks. */
  #isComplete = false;

  constructor(parts: StoreParts) {
    const seed = new DataView(Uint8Array.from(parts.randomBytes(4)).buffer).getInt32(0);
    this.#parts = parts;
    this.catalogue = new ChunkCatalogue(seed);
    this.guards = createGuards(seed);
  }

  get isComplete(): boolean {
    return this.#isComplete;
  }

  /** Reads the log. It is complete only when the last process closed the store in order. */
  async load(): Promise<void> {
    const { files } = this.#parts;
    const wasClosed = (await files.read(own.clean)) !== null;
    await files.remove(own.clean);
    await files.syncFolder(own.root);
    const log = await files.read(own.chunkLog);
    if (log === null) {
      await files.replace(own.chunkLog, this.catalogue.encode(), false);
      return;
    }
    try {
      this.catalogue.replay(log, wasClosed);
      this.#isComplete = wasClosed;
    } catch {
      this.#isComplete = false; // a damaged log is no loss: a scan finds every chunk
      await files.replace(own.chunkLog, this.catalogue.encode(), false);
    }
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

  read(digest: Uint8Array): Promise<Uint8Array | null> {
    return this.#parts.files.read(chunkPath(formatHex(digest)));
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

  /** Brings the catalogue in line with the folders. Writers may go on meanwhile. */
  async scan(signal?: AbortSignal): Promise<void> {
    const folders = (await this.#parts.files.list('.chunks')) ?? [];
    const prefixes = folders.map(({ name }) => name).filter((name) => /^[0-9a-f]{4}$/.test(name));
    const seen = new Set<string>();
    await inParallel(prefixes, scanWidth, async (prefix) => {
      signal?.throwIfAborted();
      for (const { name } of (await this.#parts.files.list(`.chunks/${prefix}`)) ?? []) {
        if (/^[0-9a-f]{64}$/.test(name)) seen.add(name);
        else if (/^[0-9a-f]{64}\.[0-9]\.bad$/.test(name)) this.catalogue.setBad(parseHex(name.slice(0, 64), 32, 'chunk'), true);
      }
    });
    await inParallel(this.#differences(seen), scanWidth, (digest) => this.#reconcile(digest));
    await this.flush();
    this.#isComplete = true;
  }

  /** To be called when everything written before is on disk. */
  markSynced(): void {
    this.catalogue.markSynced();
  }

  /** Appends what changed to the log. */
  async flush(): Promise<void> {
    this.#flushing = this.#flushing.then(async () => {
      const records = this.catalogue.takeJournal();
      if (records.length === 0) return;
      try {
        await this.#parts.files.append(own.chunkLog, joinBytes(records));
      } catch {
        this.#isComplete = false; // a full disk: the next process scans; removing must go on
      }
    });
    await this.#flushing;
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

  *#differences(seen: ReadonlySet<string>): Generator<Uint8Array> {
    for (const hex of seen) {
      const digest = parseHex(hex, 32, 'chunk');
      if (this.catalogue.find(digest) < 0) yield digest;
    }
    for (let number = 0; number < this.catalogue.top; number += 1) {
      const digest = this.catalogue.digestOf(number);
      if (digest !== null && !seen.has(formatHex(digest))) yield Uint8Array.from(digest);
    }
  }

  async #reconcile(digest: Uint8Array): Promise<void> {
    const hex = formatHex(digest);
    await this.#withDigest(hex, async () => {
      const found = await this.#parts.files.peek(chunkPath(hex), 0);
      if (found === null) this.catalogue.remove(digest);
      else if (this.catalogue.find(digest) < 0)
        this.catalogue.put(digest, { sizeBytes: found.sizeBytes, cryptClass: null, verifiedAt: 0 });
      await this.#noteProgress();
    });
  }

  async #noteProgress(): Promise<void> {
    if (this.catalogue.journalLength >= journalRecords) await this.flush();
  }
}

function badPath(hex: string, number: number): string {
  return `${chunkPath(hex)}.${number}.bad`;
}
