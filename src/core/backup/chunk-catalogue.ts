import { AppError } from '#base/error.ts';
import type { CryptClass } from './blob.ts';
import { encodeText, isSameBytes, viewOf } from './bytes.ts';
import { DigestTable } from './digest-table.ts';

/**
 * What we know of each chunk file, in memory and as a log on disk, so that garbage collection and verification need not look at
 * 65,536 folders. It is knowledge, not truth: a chunk that it lists may be gone, and one that it lacks is found by the next scan.
 */
export type ChunkFacts = {
  /** Encoded size. */
  sizeBytes: number;
  /** null: stored by somebody else and not looked at yet. */
  cryptClass: CryptClass | null;
  /** Seconds since 1970 of the last time its content was found right; 0: never. */
  verifiedAt: number;
};

const header = encodeText('HOLDFASTCHUNKS1\n');
const recordBytes = 44;
const classes: readonly (CryptClass | null)[] = [null, 'plain', 'encrypted'];
/** `torn`: what a crash left of a record, filled up. */
const operation = { torn: 0, present: 1, gone: 2, badPresent: 3, badGone: 4 } as const;

export class ChunkCatalogue {
  readonly #table: DigestTable;
  /** Digests of which a `.bad` file lies aside. */
  readonly #bad: DigestTable;
  #sizes = new Uint32Array(64);
  #verified = new Uint32Array(64);
  #classes = new Uint8Array(64);
  #bytes = 0;
  #journal: Uint8Array[] = [];

  constructor(seed: number) {
    this.#table = new DigestTable(seed);
    this.#bad = new DigestTable(seed);
  }

  /** How many chunks, and their encoded bytes. */
  get count(): number {
    return this.#table.size;
  }
  get bytes(): number {
    return this.#bytes;
  }
  /** Numbers are below this. */
  get top(): number {
    return this.#table.top;
  }

  find(digest: Uint8Array): number {
    return this.#table.find(digest);
  }
  digestOf(number: number): Uint8Array | null {
    return this.#table.at(number);
  }
  factsOf(number: number): ChunkFacts {
    const cryptClass = classes[this.#classes[number] ?? 0] ?? null;
    return { sizeBytes: this.#sizes[number] ?? 0, cryptClass, verifiedAt: this.#verified[number] ?? 0 };
  }
  look(digest: Uint8Array): ChunkFacts | null {
    const number = this.find(digest);
    return number < 0 ? null : this.factsOf(number);
  }

  put(digest: Uint8Array, facts: ChunkFacts): void {
    const isKnown = this.#table.has(digest);
    const number = this.#table.add(digest);
    if (number >= this.#sizes.length) this.#grow();
    this.#bytes += facts.sizeBytes - (isKnown ? (this.#sizes[number] ?? 0) : 0);
    this.#sizes[number] = facts.sizeBytes;
    this.#verified[number] = facts.verifiedAt;
    this.#classes[number] = classes.indexOf(facts.cryptClass);
    this.#log(operation.present, digest, facts);
  }

  remove(digest: Uint8Array): void {
    const number = this.#table.remove(digest);
    if (number < 0) return;
    this.#bytes -= this.#sizes[number] ?? 0;
    this.#log(operation.gone, digest);
  }

  setBad(digest: Uint8Array, isBad: boolean): void {
    if (isBad === this.#bad.has(digest)) return;
    if (isBad) this.#bad.add(digest);
    else this.#bad.remove(digest);
    this.#log(isBad ? operation.badPresent : operation.badGone, digest);
  }

  /** True when it was set aside and has not come again. */
  isLost(digest: Uint8Array): boolean {
    return this.#bad.has(digest) && !this.#table.has(digest);
  }
  get badCount(): number {
    return this.#bad.size;
  }

  listBad(): Uint8Array[] {
    const found: Uint8Array[] = [];
    for (let number = 0; number < this.#bad.top; number += 1) {
      const digest = this.#bad.at(number);
      if (digest !== null) found.push(Uint8Array.from(digest));
    }
    return found;
  }

  /** How many changes `takeJournal` would give. */
  get journalLength(): number {
    return this.#journal.length;
  }

  /** The changes since the last call, to be appended to the log. */
  takeJournal(): Uint8Array[] {
    const taken = this.#journal;
    this.#journal = [];
    return taken;
  }

  /** The whole as a fresh log. */
  encode(): Uint8Array {
    const bad = this.listBad();
    const file = new Uint8Array(header.length + (this.count + bad.length) * recordBytes);
    file.set(header);
    let at = header.length;
    for (let number = 0; number < this.top; number += 1) {
      const digest = this.#table.at(number);
      if (digest === null) continue;
      file.set(encodeRecord(operation.present, digest, this.factsOf(number)), at);
      at += recordBytes;
    }
    for (const digest of bad) {
      file.set(encodeRecord(operation.badPresent, digest), at);
      at += recordBytes;
    }
    return file;
  }

  /**
   * Plays a log back, of which the first `syncedBytes` were on disk, with all the chunks they tell of, before a crash; Infinity: it was
   * closed in order. What later records tell of is kept but not believed: a power cut can leave files without their content, or undo what was
   * noted. Answers the folders (first two bytes of a digest) of those, and how many bytes of the last record are missing: to be filled with
   * zeros before more is appended. Raises AppError invalid when it is no log; the caller then scans.
   */
  replay(file: Uint8Array, syncedBytes: number): { doubtful: Set<number>; tornBytes: number } {
    if (!isSameBytes(file.subarray(0, header.length), header))
      throw new AppError('invalid', 'chunk log: it does not begin as one');
    const view = viewOf(file);
    const doubtful = new Set<number>();
    for (let at = header.length; at + recordBytes <= file.length; at += recordBytes) {
      const digest = file.subarray(at, at + 32);
      const what = file[at + 41];
      if (what === operation.present) {
        const cryptClass = classes[file[at + 40] ?? 0] ?? null;
        this.put(digest, { sizeBytes: view.getUint32(at + 32, true), verifiedAt: view.getUint32(at + 36, true), cryptClass });
      } else if (what === operation.gone) this.remove(digest);
      else if (what === operation.badPresent || what === operation.badGone) this.setBad(digest, what === operation.badPresent);
      else if (what !== operation.torn) throw new AppError('invalid', `chunk log: unknown record at ${at}`);
      if (at + recordBytes <= syncedBytes) continue;
      doubtful.add(view.getUint16(at));
      this.#distrust(digest);
    }
    this.#journal = [];
    const rest = (file.length - header.length) % recordBytes;
    return { doubtful, tornBytes: rest === 0 ? 0 : recordBytes - rest };
  }

  #distrust(digest: Uint8Array): void {
    const facts = this.look(digest);
    if (facts !== null && facts.verifiedAt !== 0) this.put(digest, { ...facts, verifiedAt: 0 });
  }

  #log(what: number, digest: Uint8Array, facts?: ChunkFacts): void {
    this.#journal.push(encodeRecord(what, digest, facts));
  }

  #grow(): void {
    const length = this.#sizes.length * 2;
    const larger = <Side extends Uint32Array | Uint8Array>(made: Side, old: Side): Side => {
      made.set(old);
      return made;
    };
    this.#sizes = larger(new Uint32Array(length), this.#sizes);
    this.#verified = larger(new Uint32Array(length), this.#verified);
    this.#classes = larger(new Uint8Array(length), this.#classes);
  }
}

function encodeRecord(what: number, digest: Uint8Array, facts?: ChunkFacts): Uint8Array {
  const record = new Uint8Array(recordBytes);
  record.set(digest);
  record[41] = what;
  if (facts !== undefined) {
    viewOf(record).setUint32(32, facts.sizeBytes, true);
    viewOf(record).setUint32(36, facts.verifiedAt, true);
    record[40] = classes.indexOf(facts.cryptClass);
  }
  return record;
}
