import { AppError } from '#base/error.ts';
import { blobLimits } from '#core/backup/blob.ts';
import type { ByteFunctions } from '#core/backup/byte-functions.ts';
import { formatHex } from '#core/backup/bytes.ts';
import { fixedChunkBytes, type IndexWriter } from '#core/backup/index-writer.ts';
import type { IndexKind } from '#core/backup/chunk-index.ts';
import { readAppends, readDigest, readInteger, readText, type WireParameters } from '#core/backup/wire-parameters.ts';
import { nameLimits } from '#core/backup/names.ts';
import type { BackupSession } from '#ports/datastore.ts';
import { checkIncoming, type CheckContent } from './incoming-chunk.ts';
import type { Reply } from './reply.ts';

export const protocolLimits = {
  /** A writer's number: 1 to this. */
  writers: 256,
  /** Entries of one append; JSON bodies are limited anyway. */
  appendEntries: 16_384,
  jsonBytes: 512 * 1024,
  bodyBytes: blobLimits.chunkBytes + blobLimits.headerBytes,
} as const;

/** One call inside a session; `body` of chunk and blob uploads, otherwise already part of `params`. */
export type Call = { method: string; path: string; params: WireParameters; body: Uint8Array };
/** Calls that carry raw bytes; the bodies of all others are parameters. */
export const rawCalls: ReadonlySet<string> = new Set(['POST fixed_chunk', 'POST dynamic_chunk', 'POST blob', 'POST speedtest']);
/** Raw calls whose body nobody needs once they are answered. */
export const passingCalls: ReadonlySet<string> = new Set(['POST fixed_chunk', 'POST dynamic_chunk', 'POST speedtest']);

type Writer = { name: string; kind: IndexKind; index: IndexWriter; smaller: number };

/** `isDiscarded`: a benchmark, of which nothing is kept. */
type ProtocolParts = {
  functions: Pick<ByteFunctions, 'sha256'>;
  checkContent: CheckContent;
  isDiscarded: boolean;
};

/** The calls of a backup session. After `finish` every call fails. */
export class BackupProtocol {
  readonly #session: BackupSession;
  readonly #parts: ProtocolParts;
  readonly #writers = new Map<number, Writer>();
  #lastWriter = 0;
  #isFinished = false;

  constructor(session: BackupSession, parts: ProtocolParts) {
    this.#session = session;
    this.#parts = parts;
  }

  get isFinished(): boolean {
    return this.#isFinished;
  }

  async answer(call: Call): Promise<Reply> {
    if (this.#isFinished) throw new AppError('conflict', 'the backup is finished already');
    const { params } = call;
    switch (`${call.method} ${call.path}`) {
      case 'GET ':
        return json(
          [
            'blob',
            'dynamic_chunk',
            'dynamic_close',
            'dynamic_index',
            'finish',
            'fixed_chunk',
            'fixed_close',
            'fixed_index',
            'previous',
            'previous_backup_time',
            'speedtest',
          ].map((subdir) => ({ subdir })),
        );
      case 'GET previous_backup_time':
        return json(this.#session.base?.snapshot.atSeconds ?? null);
      case 'GET previous':
        return this.#readPrevious(params);
      case 'POST fixed_index':
        return json(await this.#create(params, 'fixed'));
      case 'POST dynamic_index':
        return json(await this.#create(params, 'dynamic'));
      case 'POST fixed_chunk':
        return json(await this.#addChunk(call, 'fixed'));
      case 'POST dynamic_chunk':
        return json(await this.#addChunk(call, 'dynamic'));
      case 'PUT fixed_index':
        return json(this.#append(params, 'fixed'));
      case 'PUT dynamic_index':
        return json(this.#append(params, 'dynamic'));
      case 'POST fixed_close':
        return json(await this.#close(params, 'fixed'));
      case 'POST dynamic_close':
        return json(await this.#close(params, 'dynamic'));
      case 'POST blob':
        return json(await this.#addBlob(call));
      case 'POST finish':
        return json(await this.#finish());
      case 'POST speedtest':
        return json(null);
      default:
        throw new AppError('missing', `no call ${call.method} /${call.path} in a backup session`);
    }
  }

  async #readPrevious(params: WireParameters): Promise<Reply> {
    const name = readText(params, 'archive-name', nameLimits.fileChars);
    if (this.#session.base === null) throw new AppError('conflict', 'no valid previous backup');
    return { kind: 'bytes', bytes: await this.#session.readBase(name) };
  }

  async #create(params: WireParameters, kind: IndexKind): Promise<number> {
    const name = readText(params, 'archive-name', nameLimits.fileChars);
    const sizeBytes = kind === 'fixed' ? readInteger(params, 'size', 1, Number.MAX_SAFE_INTEGER) : 0;
    const reuseCsum = kind === 'fixed' && (params['reuse-csum'] ?? null) !== null ? readDigest(params, 'reuse-csum') : null;
    if (this.#lastWriter >= protocolLimits.writers)
      throw new AppError('invalid', `more than ${protocolLimits.writers} indexes in one backup`);
    const index = await this.#session.startIndex(name, kind, { sizeBytes, reuseCsum });
    const wid = (this.#lastWriter += 1); // only now: a refused archive takes no number
    this.#writers.set(wid, { name, kind, index, smaller: 0 });
    return wid;
  }

  async #addChunk({ params, body }: Call, kind: IndexKind): Promise<string> {
    const writer = this.#writer(params, kind);
    const digest = readDigest(params, 'digest');
    const sizeBytes = readInteger(params, 'size', 1, blobLimits.chunkBytes);
    const encodedBytes = readInteger(params, 'encoded-size', blobLimits.leastChunkBytes, protocolLimits.bodyBytes);
    if (kind === 'fixed' && sizeBytes > fixedChunkBytes)
      throw new AppError('invalid', `size: ${sizeBytes} is more than a chunk's ${fixedChunkBytes}`);
    const isSmaller = kind === 'fixed' && sizeBytes < fixedChunkBytes;
    if (isSmaller && writer.smaller > 0) {
      throw new AppError('invalid', `size: ${sizeBytes}, but an image has only one chunk smaller than ${fixedChunkBytes}`);
    }
    if (isSmaller) writer.smaller += 1; // before anything is waited for: the next one may come meanwhile
    try {
      const chunk = await checkIncoming({ digest, sizeBytes, encodedBytes }, body, this.#parts.checkContent);
      await this.#session.addChunk(chunk);
    } catch (error) {
      if (isSmaller) writer.smaller -= 1;
      throw error;
    }
    return formatHex(digest);
  }

  #append(params: WireParameters, kind: IndexKind): null {
    const { index } = this.#writer(params, kind);
    for (const { digest, start } of readAppends(params, protocolLimits.appendEntries)) {
      const sizeBytes = this.#session.knownSize(digest);
      if (sizeBytes === null) throw new AppError('conflict', `no such chunk ${formatHex(digest)} in this session`);
      index.append({ digest, sizeBytes }, start);
    }
    return null;
  }

  async #close(params: WireParameters, kind: IndexKind): Promise<null> {
    const wid = readInteger(params, 'wid', 1, protocolLimits.writers);
    const { name, index } = this.#writer(params, kind);
    const claim = {
      chunkCount: readInteger(params, 'chunk-count', kind === 'dynamic' ? 1 : 0, Number.MAX_SAFE_INTEGER),
      sizeBytes: readInteger(params, 'size', kind === 'dynamic' ? 1 : 0, Number.MAX_SAFE_INTEGER),
      csum: readDigest(params, 'csum'),
    };
    const closed = index.close(claim, this.#parts.functions);
    this.#writers.delete(wid);
    await this.#session.addIndex(name, closed);
    return null;
  }

  async #addBlob({ params, body }: Call): Promise<null> {
    const name = readText(params, 'file-name', nameLimits.fileChars);
    const encodedBytes = readInteger(params, 'encoded-size', blobLimits.leastChunkBytes - 1, protocolLimits.bodyBytes);
    if (body.length !== encodedBytes)
      throw new AppError('invalid', `encoded-size: ${name} came with ${body.length} bytes instead of ${encodedBytes}`);
    await this.#session.addBlob(name, body);
    return null;
  }

  async #finish(): Promise<null> {
    if (this.#parts.isDiscarded) throw new AppError('conflict', 'a benchmark is never kept');
    await this.#session.finish();
    this.#isFinished = true;
    return null;
  }

  #writer(params: WireParameters, kind: IndexKind): Writer {
    const wid = readInteger(params, 'wid', 1, protocolLimits.writers);
    const writer = this.#writers.get(wid);
    if (writer === undefined || writer.kind !== kind) throw new AppError('invalid', `wid: no open ${kind} index ${wid}`);
    return writer;
  }
}

function json(data: unknown): Reply {
  return { kind: 'json', data };
}
