import { AppError } from '#base/error.ts';
import { digestAt, parseIndex } from '#core/backup/chunk-index.ts';
import { formatHex } from '#core/backup/bytes.ts';
import { createByteRooms } from '#core/backup/byte-rooms.ts';
import { DigestTable } from '#core/backup/digest-table.ts';
import { nameLimits, parseArchiveName } from '#core/backup/names.ts';
import { readDigest, readText } from '#core/backup/wire-parameters.ts';
import type { Datastore, SnapshotReader } from '#ports/datastore.ts';
import type { Call } from './backup-protocol.ts';
import type { Reply } from './reply.ts';

const speedtestBytes = new Uint8Array(1024 * 1024).fill(0x41);

/** The calls of a reader session. A chunk is given only after an index that names it was downloaded in the same session. */
export class ReaderProtocol {
  readonly #reader: SnapshotReader;
  readonly #store: Pick<Datastore, 'readChunk'>;
  readonly #allowed: DigestTable;
  readonly #rooms = createByteRooms();
  /** How many chunks were given. */
  chunksRead = 0;

  constructor(reader: SnapshotReader, store: Pick<Datastore, 'readChunk'>, seed: number) {
    this.#reader = reader;
    this.#store = store;
    this.#allowed = new DigestTable(seed);
  }

  async answer({ method, path, params }: Call): Promise<Reply> {
    switch (`${method} ${path}`) {
      case 'GET ':
        return { kind: 'json', data: ['chunk', 'download', 'speedtest'].map((subdir) => ({ subdir })) };
      case 'GET download':
        return { kind: 'bytes', bytes: await this.#download(readText(params, 'file-name', nameLimits.fileChars)) };
      case 'GET chunk':
        return this.#readChunk(readDigest(params, 'digest'));
      case 'GET speedtest':
        return { kind: 'bytes', bytes: speedtestBytes };
      default:
        throw new AppError('missing', `no call ${method} /${path} in a reader session`);
    }
  }

  async #download(name: string): Promise<Uint8Array> {
    const { kind } = parseArchiveName(name, 'file-name');
    const file = await this.#reader.read(name);
    if (kind === 'blob') return file;
    const index = parseIndex(kind, file, name);
    for (let at = 0; at < index.count; at += 1) this.#allowed.add(digestAt(index, at));
    return file;
  }

  async #readChunk(digest: Uint8Array): Promise<Reply> {
    if (!this.#allowed.has(digest)) {
      throw new AppError(
        'unauthenticated',
        `download chunk ${formatHex(digest)} is not allowed: no index downloaded here names it`,
      );
    }
    const bytes = await this.#store.readChunk(digest, this.#rooms);
    if (bytes === null) throw new AppError('missing', `chunk ${formatHex(digest)} is not there: the snapshot is damaged`);
    this.chunksRead += 1;
    return { kind: 'bytes', bytes, onSent: () => this.#rooms.give(bytes) };
  }
}
