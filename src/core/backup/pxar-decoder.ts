import { AppError } from '#base/error.ts';
import { readU64, viewOf } from './bytes.ts';
import { ByteQueue } from './byte-queue.ts';
import { checkFileName } from './pxar-encoder.ts';
import {
  entryContentBytes,
  goodbyeItemBytes,
  itemHeaderBytes,
  metadataTypes,
  modeType,
  type PayloadRef,
  pxarLimits,
  type PxarMetadata,
  type PxarStat,
  pxarType,
  readPxarStat,
} from './pxar-format.ts';

/** `name` null: the root. `at`: where its FILENAME begins, which is what hard links name. */
type Node = { name: Uint8Array | null; at: number; stat: PxarStat; metadata: PxarMetadata[] };

export type PxarEvent =
  | { kind: 'version'; version: number }
  | { kind: 'prelude'; content: Uint8Array }
  | ({ kind: 'directory' } & Node)
  /** `data` events with exactly `sizeBytes` follow, then `file-end`. */
  | ({ kind: 'file'; sizeBytes: number } & Node)
  /** The content lies in the second stream of a split archive. */
  | ({ kind: 'file-ref'; ref: PayloadRef } & Node)
  | { kind: 'data'; bytes: Uint8Array }
  | { kind: 'file-end' }
  | ({ kind: 'symlink'; target: Uint8Array } & Node)
  | ({ kind: 'device'; major: number; minor: number } & Node)
  /** A named pipe or a socket. */
  | ({ kind: 'special' } & Node)
  | { kind: 'hardlink'; name: Uint8Array; targetAt: number; path: Uint8Array }
  /** The newest directory is complete. */
  | { kind: 'leave' };

type Header = { type: bigint; contentBytes: number; at: number };
type Named = { name: Uint8Array; at: number };
type OpenDirectory = { entryAt: number; names: Set<string> };
type State =
  | { kind: 'begin' }
  /** In a directory: FILENAME or GOODBYE. */
  | { kind: 'child' }
  /** After a FILENAME: ENTRY or HARDLINK. */
  | { kind: 'named'; named: Named }
  /** After an ENTRY: metadata, then what its mode asks for. */
  | { kind: 'node'; node: Node; entryAt: number }
  | { kind: 'payload'; left: number }
  | { kind: 'end' };

/**
 * Reads an archive, version 1 or the first stream of a split one, as its bytes come. It never holds more than one item, and refuses
 * names that reach outside their directory, names that come twice in one (a link, then a directory over it, is a known trick), and
 * items where they do not belong. Raises AppError invalid with the place in the archive.
 */
export class PxarDecoder {
  #queue = new ByteQueue();
  #state: State = { kind: 'begin' };
  #open: OpenDirectory[] = [];
  #isSplit = false;
  /** The header of the item whose content is awaited. */
  #header: Header | null = null;

  /** The next bytes of the archive; returns what they complete. */
  push(bytes: Uint8Array): PxarEvent[] {
    this.#queue.push(bytes);
    const events: PxarEvent[] = [];
    while (this.#step(events)) continue;
    return events;
  }

  /** To be called after the last byte. Raises AppError invalid when the archive is cut off. */
  end(): void {
    if (this.#state.kind !== 'end') throw new AppError('invalid', `archive: cut off at byte ${this.#queue.position}`);
  }

  /** False: more bytes are needed. */
  #step(events: PxarEvent[]): boolean {
    if (this.#state.kind === 'payload') return this.#passPayload(this.#state.left, events);
    if (this.#state.kind === 'end') {
      if (this.#queue.length > 0) throw this.#bad('bytes after the end of the root');
      return false;
    }
    this.#header ??= this.#readHeader();
    if (this.#header === null) return false;
    const header = this.#header;
    if (this.#isWithoutContent(header)) {
      this.#header = null;
      this.#startPayload(header, events);
      return true;
    }
    this.#checkLength(header);
    const content = this.#queue.take(header.contentBytes);
    if (content === null) return false;
    this.#header = null;
    this.#readItem(header, content, events);
    return true;
  }

  #readHeader(): Header | null {
    const at = this.#queue.position;
    const bytes = this.#queue.take(itemHeaderBytes);
    if (bytes === null) return null;
    const fullBytes = readU64(viewOf(bytes), 8, `archive: size of the item at ${at}`);
    if (fullBytes < itemHeaderBytes) throw new AppError('invalid', `archive: an item of ${fullBytes} bytes at ${at}`);
    return { type: viewOf(bytes).getBigUint64(0, true), contentBytes: fullBytes - itemHeaderBytes, at };
  }

  #isWithoutContent(header: Header): boolean {
    return header.type === pxarType.payload;
  }

  /** Before waiting for an item's content: nobody shall make us hold gigabytes. */
  #checkLength({ type, contentBytes }: Header): void {
    const children = this.#open.at(-1)?.names.size ?? 0;
    const most = contentLimit(type, children);
    if (contentBytes > most) throw this.#bad(`an item of type ${type.toString(16)} with ${contentBytes} bytes (at most ${most})`);
  }

  #readItem(header: Header, content: Uint8Array, events: PxarEvent[]): void {
    const state = this.#state;
    switch (state.kind) {
      case 'begin':
        return this.#readBegin(header, content, events);
      case 'child':
        return this.#readChild(header, content, events);
      case 'named':
        if (header.type === pxarType.hardlink) return this.#readHardlink(state.named, content, events);
        return this.#readEntry(state.named, header, content);
      case 'node':
        return this.#readNode(state, header, content, events);
      default:
        throw this.#bad('an item after the end');
    }
  }

  #readBegin(header: Header, content: Uint8Array, events: PxarEvent[]): void {
    if (header.type === pxarType.formatVersion && !this.#isSplit) {
      const version = content.length === 8 ? readU64(viewOf(content), 0, 'archive: version') : 0;
      if (version !== 2) throw new AppError('unsupported', `archive: version ${version}; versions 1 and 2 can be read`);
      this.#isSplit = true;
      events.push({ kind: 'version', version });
      return;
    }
    if (header.type === pxarType.prelude && this.#isSplit) {
      events.push({ kind: 'prelude', content });
      return;
    }
    this.#readEntry({ name: new Uint8Array(), at: header.at }, header, content, true);
  }

  #readEntry(named: Named, header: Header, content: Uint8Array, isRoot = false): void {
    if (header.type !== pxarType.entry || content.length !== entryContentBytes) {
      throw this.#bad(`an item of type ${header.type.toString(16)} where an entry belongs`);
    }
    const stat = readPxarStat(content);
    if (isRoot && (stat.mode & modeType.mask) !== modeType.directory) throw this.#bad('a root that is no directory');
    const node: Node = { name: isRoot ? null : named.name, at: named.at, stat, metadata: [] };
    this.#state = { kind: 'node', node, entryAt: header.at };
  }

  #readNode(state: State & { kind: 'node' }, header: Header, content: Uint8Array, events: PxarEvent[]): void {
    const { node, entryAt } = state;
    if (metadataTypes.has(header.type)) {
      node.metadata.push({ type: header.type, content });
      if (node.metadata.length > pxarLimits.metadataItems) throw this.#bad('too many extended attributes');
      return;
    }
    switch (node.stat.mode & modeType.mask) {
      case modeType.directory:
        if (this.#open.length >= pxarLimits.depth) throw this.#bad(`nested deeper than ${pxarLimits.depth}`);
        this.#open.push({ entryAt, names: new Set() });
        events.push({ kind: 'directory', ...node });
        return this.#readChild(header, content, events);
      case modeType.fifo:
      case modeType.socket:
        events.push({ kind: 'special', ...node });
        return this.#readChild(header, content, events);
      case modeType.symlink:
        this.#expect(header, pxarType.symlink, 'the target of a symlink');
        events.push({ kind: 'symlink', target: this.#readText(content, 'the target of a symlink'), ...node });
        break;
      case modeType.file:
        this.#expect(header, pxarType.payloadRef, 'the content of a file');
        if (!this.#isSplit || content.length !== 16) throw this.#bad('a file whose content cannot be found');
        events.push({ kind: 'file-ref', ref: readRef(content), ...node });
        break;
      case modeType.blockDevice:
      case modeType.charDevice:
        this.#expect(header, pxarType.device, 'the numbers of a device');
        if (content.length !== 16) throw this.#bad('device numbers of the wrong length');
        events.push({ kind: 'device', ...readDevice(content), ...node });
        break;
      default:
        throw this.#bad(`mode ${node.stat.mode.toString(8)}, which is no kind of file`);
    }
    this.#state = { kind: 'child' };
  }

  #readChild(header: Header, content: Uint8Array, events: PxarEvent[]): void {
    if (header.type === pxarType.fileName) {
      const name = this.#readText(content, 'a file name');
      checkFileName(name);
      const key = String.fromCharCode(...name);
      const names = this.#open.at(-1)?.names;
      if (names === undefined || names.has(key))
        throw this.#bad(`the name ${JSON.stringify(key)} a second time in its directory`);
      names.add(key);
      this.#state = { kind: 'named', named: { name, at: header.at } };
      return;
    }
    this.#expect(header, pxarType.goodbye, 'a file name or the end of a directory');
    const directory = this.#open.pop();
    if (directory === undefined) throw this.#bad('the end of a directory that was not begun');
    this.#checkGoodbye(directory, header, content);
    events.push({ kind: 'leave' });
    this.#state = this.#open.length === 0 ? { kind: 'end' } : { kind: 'child' };
  }

  #checkGoodbye(directory: OpenDirectory, header: Header, content: Uint8Array): void {
    const tailAt = content.length - goodbyeItemBytes;
    if (tailAt < 0 || content.length !== (directory.names.size + 1) * goodbyeItemBytes) {
      throw this.#bad(`a directory of ${directory.names.size} entries whose table has ${content.length} bytes`);
    }
    const view = viewOf(content);
    const back = readU64(view, tailAt + 8, 'archive: tail');
    const bytes = readU64(view, tailAt + 16, 'archive: tail');
    const fits = view.getBigUint64(tailAt, true) === pxarType.goodbyeTail && back === header.at - directory.entryAt;
    if (!fits || bytes !== content.length + itemHeaderBytes) throw this.#bad('the tail of a directory that does not fit');
  }

  #readHardlink(named: Named, content: Uint8Array, events: PxarEvent[]): void {
    if (content.length < 10) throw this.#bad('a hard link that is too short');
    const back = readU64(viewOf(content), 0, 'archive: hard link');
    if (back < 1 || back > named.at) throw this.#bad('a hard link to something that did not come before');
    const path = this.#readText(content.subarray(8), 'the target of a hard link');
    checkLinkPath(path);
    events.push({ kind: 'hardlink', name: named.name, targetAt: named.at - back, path });
    this.#state = { kind: 'child' };
  }

  #startPayload(header: Header, events: PxarEvent[]): void {
    const state = this.#state;
    if (state.kind !== 'node' || (state.node.stat.mode & modeType.mask) !== modeType.file) {
      throw this.#bad('the content of a file where none belongs');
    }
    events.push({ kind: 'file', sizeBytes: header.contentBytes, ...state.node });
    this.#state = { kind: 'payload', left: header.contentBytes };
  }

  #passPayload(left: number, events: PxarEvent[]): boolean {
    if (left > 0) {
      const bytes = this.#queue.takeUpTo(left);
      if (bytes.length === 0) return false;
      events.push({ kind: 'data', bytes });
      if (bytes.length < left) {
        this.#state = { kind: 'payload', left: left - bytes.length };
        return true;
      }
    }
    events.push({ kind: 'file-end' });
    this.#state = { kind: 'child' };
    return true;
  }

  #expect(header: Header, type: bigint, what: string): void {
    if (header.type !== type) throw this.#bad(`an item of type ${header.type.toString(16)} where ${what} belongs`);
  }

  #readText(content: Uint8Array, what: string): Uint8Array {
    const text = content.subarray(0, -1);
    if (text.length < 1 || content.at(-1) !== 0 || text.includes(0))
      throw this.#bad(`${what} that is empty or not ended by one zero`);
    return text;
  }

  #bad(what: string): AppError {
    return new AppError('invalid', `archive: ${what}, before byte ${this.#queue.position}`);
  }
}

/** Where a referenced file lies in the second stream: its own item header, then its content. */
export function payloadSpan(ref: PayloadRef): { headerAt: number; dataAt: number; end: number } {
  const dataAt = ref.offset + itemHeaderBytes;
  return { headerAt: ref.offset, dataAt, end: dataAt + ref.sizeBytes };
}

/** Checks the item header found at `headerAt` in the second stream. Raises AppError invalid. */
export function checkPayloadHeader(header: Uint8Array, ref: PayloadRef): void {
  const fits =
    header.length === itemHeaderBytes &&
    viewOf(header).getBigUint64(0, true) === pxarType.payload &&
    viewOf(header).getBigUint64(8, true) === BigInt(ref.sizeBytes + itemHeaderBytes);
  if (!fits)
    throw new AppError('invalid', `archive: no file of ${ref.sizeBytes} bytes begins at ${ref.offset} of the second stream`);
}

/** Checks the first item of the second stream. Raises AppError invalid. */
export function checkPayloadStart(header: Uint8Array): void {
  const fits =
    header.length === itemHeaderBytes &&
    viewOf(header).getBigUint64(0, true) === pxarType.payloadStart &&
    viewOf(header).getBigUint64(8, true) === BigInt(itemHeaderBytes);
  if (!fits) throw new AppError('invalid', 'archive: the second stream does not begin as one');
}

function contentLimit(type: bigint, children: number): number {
  if (type === pxarType.goodbye) return (children + 1) * goodbyeItemBytes;
  if (type === pxarType.prelude) return pxarLimits.preludeBytes;
  if (type === pxarType.fileName) return pxarLimits.nameBytes + 1;
  if (metadataTypes.has(type)) return pxarLimits.metadataBytes;
  return pxarLimits.pathBytes + 8; // a link's target is the longest of what is left
}

function readRef(content: Uint8Array): PayloadRef {
  const view = viewOf(content);
  return { offset: readU64(view, 0, 'archive: payload offset'), sizeBytes: readU64(view, 8, 'archive: payload size') };
}

function readDevice(content: Uint8Array): { major: number; minor: number } {
  const view = viewOf(content);
  return { major: readU64(view, 0, 'archive: device'), minor: readU64(view, 8, 'archive: device') };
}

function checkLinkPath(path: Uint8Array): void {
  const parts = String.fromCharCode(...path).split('/');
  if (parts.some((part) => part === '' || part === '.' || part === '..')) {
    throw new AppError(
      'invalid',
      `archive: a hard link to ${JSON.stringify(parts.join('/'))}, which is no path inside the archive`,
    );
  }
}
