import { AppError } from '#base/error.ts';
import { readU64, viewOf } from './bytes.ts';
import { checkFileName } from './pxar-encoder.ts';
import {
  entryContentBytes,
  goodbyeItemBytes,
  itemHeaderBytes,
  metadataTypes,
  modeType,
  pxarLimits,
  type PxarMetadata,
  type PxarStat,
  pxarType,
  readPxarStat,
} from './pxar-format.ts';

/**
 * A look into an archive (version 1) without reading it from the start: from the end to the root's table, from a table to its entries.
 *
 *     archive end ─► tail (24 bytes) ─► goodbye table ─► start of each child ─► its head ─► content, or its own table at its end
 */
export type PxarSpan = { start: number; end: number };
/** An entry, as far as its head tells. `name` null: the root. */
export type PxarHead = { name: Uint8Array | null; span: PxarSpan; stat: PxarStat; metadata: PxarMetadata[] } & (
  | { kind: 'directory'; entryAt: number }
  | { kind: 'file'; contentAt: number; sizeBytes: number }
  | { kind: 'symlink'; target: Uint8Array }
  | { kind: 'device'; major: number; minor: number }
  | { kind: 'special' }
);
/** A hard link stands for the file whose span begins at `targetAt`. */
export type PxarLink = { kind: 'hardlink'; name: Uint8Array; span: PxarSpan; targetAt: number };

/** Bytes of a tail, the last of every directory. */
export const tailBytes = goodbyeItemBytes;
/** Enough for nearly every head; `readHead` asks for more where it is not. */
export const usualHeadBytes = 4096;
const mostHeadBytes = pxarLimits.metadataItems * 1024 + pxarLimits.metadataBytes;
const mostTableBytes = 1024 * 1024 * goodbyeItemBytes;

/** Where the table of the directory that ends at `end` lies, from its last bytes. Raises AppError invalid. */
export function readTail(tail: Uint8Array, end: number): { tableAt: number; tableBytes: number; entryAt: number } {
  const view = viewOf(tail);
  if (tail.length !== tailBytes || view.getBigUint64(0, true) !== pxarType.goodbyeTail) {
    throw new AppError('invalid', `archive: no directory ends at byte ${end}`);
  }
  const tableBytes = readU64(view, 16, 'archive: tail');
  const tableAt = end - tableBytes;
  const entryAt = tableAt - readU64(view, 8, 'archive: tail');
  if (tableBytes < itemHeaderBytes + tailBytes || tableBytes > mostTableBytes || tableAt <= entryAt || entryAt < 0) {
    throw new AppError('invalid', `archive: the table that ends at byte ${end} does not fit`);
  }
  return { tableAt, tableBytes, entryAt };
}

/** The children of a directory, in the order of the archive, from its table. Raises AppError invalid. */
export function readTable(table: Uint8Array, tableAt: number, entryAt: number): PxarSpan[] {
  const view = viewOf(table);
  if (view.getBigUint64(0, true) !== pxarType.goodbye || (table.length - itemHeaderBytes) % goodbyeItemBytes !== 0) {
    throw new AppError('invalid', `archive: no table at byte ${tableAt}`);
  }
  const spans: PxarSpan[] = [];
  for (let at = itemHeaderBytes; at < table.length - tailBytes; at += goodbyeItemBytes) {
    const start = tableAt - readU64(view, at + 8, 'archive: table');
    const end = start + readU64(view, at + 16, 'archive: table');
    // Children lie inside their directory: so none can contain itself.
    if (start <= entryAt || end > tableAt || end <= start) throw new AppError('invalid', `archive: a child at byte ${start}`);
    spans.push({ start, end });
  }
  return spans.toSorted((a, b) => a.start - b.start);
}

/**
 * Reads the head of an entry from the first bytes of its span (of the root: from its ENTRY). null: more bytes are needed, as far as the span
 * goes. Raises AppError invalid.
 */
export function readHead(bytes: Uint8Array, span: PxarSpan, isRoot: boolean): PxarHead | PxarLink | null {
  const isWhole = bytes.length === span.end - span.start;
  const reader = new ItemReader(bytes, span.start);
  let name: Uint8Array | null = null;
  if (!isRoot) {
    const item = reader.next();
    if (item === null) return stop(isWhole, span);
    if (item.type !== pxarType.fileName) throw bad('a file name', span);
    name = readText(item.content, span);
    checkFileName(name);
  }
  const entryAt = reader.position;
  const entry = reader.next();
  if (entry === null) return stop(isWhole, span);
  if (entry.type === pxarType.hardlink && name !== null) return readLink(entry.content, name, span);
  if (entry.type !== pxarType.entry || entry.content.length !== entryContentBytes) throw bad('an entry', span);
  const common = { name, span, stat: readPxarStat(entry.content), metadata: [] as PxarMetadata[] };
  if ((common.stat.mode & modeType.mask) === modeType.socket || (common.stat.mode & modeType.mask) === modeType.fifo) {
    return readPlain(reader, common) ? { kind: 'special', ...common } : stop(isWhole, span);
  }
  if ((common.stat.mode & modeType.mask) === modeType.directory) {
    return readPlain(reader, common) ? { kind: 'directory', entryAt, ...common } : stop(isWhole, span);
  }
  for (;;) {
    const header = reader.peek();
    if (header?.type === pxarType.payload) {
      const contentAt = header.at + itemHeaderBytes;
      if (contentAt + header.contentBytes > span.end) throw bad('the content of a file', span);
      return { kind: 'file', contentAt, sizeBytes: header.contentBytes, ...common };
    }
    const item = reader.next();
    if (item === null) return stop(isWhole, span);
    if (item.type === pxarType.symlink) return { kind: 'symlink', target: readText(item.content, span), ...common };
    if (item.type === pxarType.device && item.content.length === 16) {
      const view = viewOf(item.content);
      return { kind: 'device', major: readU64(view, 0, 'archive'), minor: readU64(view, 8, 'archive'), ...common };
    }
    addMetadata(common.metadata, item, span);
  }
}

type Item = { type: bigint; content: Uint8Array };

class ItemReader {
  readonly #bytes: Uint8Array;
  readonly #start: number;
  #at = 0;

  constructor(bytes: Uint8Array, start: number) {
    this.#bytes = bytes;
    this.#start = start;
  }

  /** Where the next item begins in the archive. */
  get position(): number {
    return this.#start + this.#at;
  }

  peek(): { type: bigint; contentBytes: number; at: number } | null {
    if (this.#at + itemHeaderBytes > this.#bytes.length) return null;
    const view = viewOf(this.#bytes);
    const full = readU64(view, this.#at + 8, 'archive: size of an item');
    if (full < itemHeaderBytes) throw new AppError('invalid', `archive: an item of ${full} bytes at ${this.position}`);
    return { type: view.getBigUint64(this.#at, true), contentBytes: full - itemHeaderBytes, at: this.position };
  }

  next(): Item | null {
    const header = this.peek();
    if (header === null) return null;
    if (header.contentBytes > mostHeadBytes) throw new AppError('invalid', `archive: an item of ${header.contentBytes} bytes`);
    const from = this.#at + itemHeaderBytes;
    if (from + header.contentBytes > this.#bytes.length) return null;
    this.#at = from + header.contentBytes;
    return { type: header.type, content: this.#bytes.subarray(from, this.#at) };
  }
}

/** Takes the metadata before the first item that is none; false: more bytes are needed. */
function readPlain(reader: ItemReader, { metadata, span }: { metadata: PxarMetadata[]; span: PxarSpan }): boolean {
  for (;;) {
    const header = reader.peek();
    if (header === null) return reader.position === span.end;
    if (!metadataTypes.has(header.type)) return true;
    const item = reader.next();
    if (item === null) return false;
    addMetadata(metadata, item, span);
  }
}

function addMetadata(metadata: PxarMetadata[], { type, content }: Item, span: PxarSpan): void {
  if (!metadataTypes.has(type) || metadata.length >= pxarLimits.metadataItems) throw bad('metadata', span);
  metadata.push({ type, content: Uint8Array.from(content) });
}

function readLink(content: Uint8Array, name: Uint8Array, span: PxarSpan): PxarLink {
  const back = content.length < 10 ? 0 : readU64(viewOf(content), 0, 'archive: hard link');
  if (back < 1 || back > span.start) throw bad('a hard link', span);
  return { kind: 'hardlink', name, span, targetAt: span.start - back };
}

function readText(content: Uint8Array, span: PxarSpan): Uint8Array {
  const text = content.subarray(0, -1);
  if (text.length < 1 || content.at(-1) !== 0 || text.includes(0)) throw bad('text', span);
  return Uint8Array.from(text);
}

function stop(isWhole: boolean, span: PxarSpan): null {
  if (isWhole) throw bad('the end of an entry', span);
  return null;
}

function bad(what: string, { start }: PxarSpan): AppError {
  return new AppError('invalid', `archive: ${what} is not as it should be in the entry at byte ${start}`);
}
