import type { ByteFunctions } from '#core/backup/byte-functions.ts';
import { formatHex, joinBytes } from '#core/backup/bytes.ts';
import { computeIndexCsum, digestAt, encodeDynamicRecord, type ChunkIndex, type IndexKind } from '#core/backup/chunk-index.ts';
import { DigestTable } from '#core/backup/digest-table.ts';
import { fixedChunkBytes } from '#core/backup/index-writer.ts';
import type { CryptMode, ManifestEntry } from '#core/backup/manifest.ts';
import type { HeldChunk } from './chunk-pool.ts';
import { clientLimits } from './limits.ts';
import type { WireSession } from './wire-session.ts';

/** What a backup cost. `sent`: chunks the server did not have from the last backup or from this one, and their size on the wire. */
export type UploadFigures = {
  readBytes: number;
  chunks: number;
  sentChunks: number;
  sentDataBytes: number;
  sentWireBytes: number;
};

/** What every upload of a backup shares. `known`: chunks that this session may refer to. */
export type UploadContext = {
  session: WireSession;
  functions: ByteFunctions;
  cryptMode: CryptMode;
  known: DigestTable;
  figures: UploadFigures;
};

/** The chunks of an index of the last backup are known from now on. */
export function learnIndex(context: UploadContext, index: ChunkIndex): void {
  for (let at = 0; at < index.count; at += 1) context.known.add(digestAt(index, at));
}

type Started = { kind: IndexKind; name: string; wid: number; sizeBytes: number; base: ChunkIndex | null };

/**
 * One index being filled: chunks go up side by side, each once, and are entered in order, always after the server has them. The first
 * failure comes out of the next call.
 */
export class ArchiveUpload {
  readonly #context: UploadContext;
  readonly #kind: IndexKind;
  readonly #name: string;
  readonly #wid: number;
  readonly #underWay = new Map<string, Promise<void>>();
  readonly #records: Uint8Array[];
  readonly #sizeBytes: number;
  #entries: { hex: string; start: number }[] = [];
  #appends: Promise<void> = Promise.resolve();
  #failure: { error: unknown } | null = null;
  #position = 0;
  #entered = 0;

  private constructor(context: UploadContext, start: Started) {
    this.#context = context;
    this.#kind = start.kind;
    this.#name = start.name;
    this.#wid = start.wid;
    this.#sizeBytes = start.sizeBytes;
    const { base } = start;
    this.#records = base === null ? [] : Array.from({ length: base.count }, (_, at) => digestAt(base, at));
  }

  /**
   * Opens the index at the server; `sizeBytes`: of an image. `base`: its index in the last backup, if only what changed since is to be added.
   */
  static async start(
    context: UploadContext,
    kind: IndexKind,
    name: string,
    sizeBytes: number,
    base: ChunkIndex | null = null,
  ): Promise<ArchiveUpload> {
    const reuse = base === null ? {} : { 'reuse-csum': formatHex(computeIndexCsum(base.records, context.functions)) };
    const body = kind === 'fixed' ? { 'archive-name': name, size: sizeBytes, ...reuse } : { 'archive-name': name };
    const wid = await context.session.call({ method: 'POST', path: `${kind}_index`, body });
    return new ArchiveUpload(context, { kind, name, wid: Number(wid), sizeBytes, base });
  }

  /** The next chunk of the archive. Waits while enough are under way. */
  async add(held: HeldChunk): Promise<void> {
    const start = this.#position;
    await this.#enter(held, start);
    this.#position = start + held.sizeBytes;
    this.#records.push(this.#kind === 'fixed' ? held.digest : encodeDynamicRecord(this.#position, held.digest));
  }

  /** A chunk of an image in place of that of the last backup. */
  async replace(held: HeldChunk, start: number): Promise<void> {
    await this.#enter(held, start);
    this.#records[start / fixedChunkBytes] = held.digest;
  }

  async #enter(held: HeldChunk, start: number): Promise<void> {
    const { known, figures } = this.#context;
    const { digest, sizeBytes } = held;
    const hex = formatHex(digest);
    figures.chunks += 1;
    figures.readBytes += sizeBytes;
    if (known.has(digest)) {
      held.drop().catch((error: unknown) => this.#fail(error));
    } else {
      while (this.#underWay.size >= clientLimits.inFlight && this.#failure === null) await this.#settledOne();
      this.#throwFailure();
      known.add(digest);
      this.#send(held, hex);
    }
    this.#throwFailure();
    this.#entries.push({ hex, start });
    this.#entered += 1;
    if (this.#entries.length >= clientLimits.appendEntries) this.#append();
  }

  /** Closes the index and returns what the manifest says of it. */
  async close(): Promise<ManifestEntry> {
    const { functions, session, cryptMode } = this.#context;
    if (this.#entries.length > 0) this.#append();
    await this.#appends;
    this.#throwFailure();
    const csum = computeIndexCsum(joinBytes(this.#records), functions);
    const sizeBytes = this.#kind === 'fixed' ? this.#sizeBytes : this.#position;
    const body = { wid: this.#wid, 'chunk-count': this.#entered, size: sizeBytes, csum: formatHex(csum) };
    await session.call({ method: 'POST', path: `${this.#kind}_close`, body });
    return { name: this.#name, cryptMode, sizeBytes, csum };
  }

  #send(held: HeldChunk, hex: string): void {
    const job = this.#upload(held, hex)
      .catch((error: unknown) => this.#fail(error))
      .finally(() => this.#underWay.delete(hex));
    this.#underWay.set(hex, job);
  }

  async #upload(held: HeldChunk, hex: string): Promise<void> {
    const { session, figures } = this.#context;
    const encoded = await held.encode();
    figures.sentChunks += 1;
    figures.sentDataBytes += held.sizeBytes;
    figures.sentWireBytes += encoded.length;
    const query = { wid: this.#wid, digest: hex, size: held.sizeBytes, 'encoded-size': encoded.length };
    await session.call({ method: 'POST', path: `${this.#kind}_chunk`, query, body: encoded });
  }

  #append(): void {
    const entries = this.#entries;
    this.#entries = [];
    const awaited = entries.flatMap(({ hex }) => this.#underWay.get(hex) ?? []);
    this.#appends = this.#appends
      .then(async () => {
        await Promise.all(awaited);
        if (this.#failure !== null) return;
        const body = {
          wid: this.#wid,
          'digest-list': entries.map(({ hex }) => hex),
          'offset-list': entries.map(({ start }) => start),
        };
        await this.#context.session.call({ method: 'PUT', path: `${this.#kind}_index`, body });
      })
      .catch((error: unknown) => this.#fail(error));
  }

  async #settledOne(): Promise<void> {
    await Promise.race(this.#underWay.values());
  }

  #fail(error: unknown): void {
    this.#failure ??= { error };
  }

  #throwFailure(): void {
    if (this.#failure !== null) throw this.#failure.error;
  }
}
