import { AppError } from '#base/error.ts';
import { joinBytes, quote, viewOf } from './bytes.ts';
import {
  entryContentBytes,
  goodbyeItemBytes,
  itemHeaderBytes,
  modeType,
  pxarLimits,
  pxarType,
  type PxarMetadata,
  type PxarStat,
} from './pxar-format.ts';
import { hashFileName } from './siphash.ts';

type GoodbyeItem = { hash: bigint; start: number; sizeBytes: number };
type OpenDirectory = { start: number; entryAt: number; hash: bigint; items: GoodbyeItem[] };

/** What every entry has. */
export type PxarNode = { name: Uint8Array; stat: PxarStat; metadata?: readonly PxarMetadata[] };

/**
 * Writes an archive (version 1) in the order of a walk. Each call returns the bytes to store next. Raises AppError invalid for names,
 * modes and orders that no reader would accept.
 */
export class PxarEncoder {
  #position = 0;
  #open: OpenDirectory[] = [];
  #isFinished = false;
  /** The file whose payload is being written. */
  #file: (GoodbyeItem & { left: number }) | null = null;

  /** Bytes written so far. */
  get position(): number {
    return this.#position;
  }

  startRoot(stat: PxarStat, metadata: readonly PxarMetadata[] = []): Uint8Array {
    if (this.#open.length > 0 || this.#isFinished) throw new AppError('conflict', 'archive: it has a root already');
    checkType(stat, [modeType.directory]);
    this.#open.push({ start: 0, entryAt: 0, hash: 0n, items: [] });
    return this.#emit([encodeEntry(stat), ...encodeMetadata(metadata)]);
  }

  startDirectory({ name, stat, metadata = [] }: PxarNode): Uint8Array {
    checkType(stat, [modeType.directory]);
    this.#parent(name);
    if (this.#open.length >= pxarLimits.depth) throw new AppError('invalid', `archive: nested deeper than ${pxarLimits.depth}`);
    const start = this.#position;
    const head = encodeFileName(name);
    this.#open.push({ start, entryAt: start + head.length, hash: hashFileName(name), items: [] });
    return this.#emit([head, encodeEntry(stat), ...encodeMetadata(metadata)]);
  }

  /** Closes the newest open directory; closing the root ends the archive. */
  endDirectory(): Uint8Array {
    if (this.#file !== null) throw new AppError('conflict', 'archive: a file is not complete');
    const directory = this.#open.pop();
    if (directory === undefined) throw new AppError('conflict', 'archive: no directory is open');
    const bytes = this.#emit([encodeGoodbye(directory, this.#position)]);
    const { hash, start } = directory;
    const parent = this.#open.at(-1);
    if (parent === undefined) this.#isFinished = true;
    else parent.items.push({ hash, start, sizeBytes: this.#position - start });
    return bytes;
  }

  /** Begins a file of exactly `sizeBytes`; `addPayload` gives them. Returns also the place that hard links name. */
  startFile({ name, stat, metadata = [] }: PxarNode, sizeBytes: number): { bytes: Uint8Array; linkTarget: number } {
    checkType(stat, [modeType.file]);
    this.#parent(name);
    const start = this.#position;
    const head = [encodeFileName(name), encodeEntry(stat), ...encodeMetadata(metadata)];
    const bytes = this.#emit([...head, encodeHeader(pxarType.payload, sizeBytes)]);
    this.#file = { hash: hashFileName(name), start, sizeBytes: 0, left: sizeBytes };
    if (sizeBytes === 0) this.#endFile();
    return { bytes, linkTarget: start };
  }

  /** Counts the next bytes of the file, which the caller stores itself. */
  addPayload(bytes: number): void {
    if (this.#file === null || bytes > this.#file.left) {
      throw new AppError(
        'conflict',
        `archive: ${bytes} bytes are more than the ${this.#file?.left ?? 0} that are left of the file`,
      );
    }
    this.#position += bytes;
    this.#file.left -= bytes;
    if (this.#file.left === 0) this.#endFile();
  }

  addSymlink(node: PxarNode, target: Uint8Array): Uint8Array {
    checkType(node.stat, [modeType.symlink]);
    checkPath(target, 'symlink');
    return this.#addWhole(node, [encodeHeader(pxarType.symlink, target.length + 1), target, Uint8Array.of(0)]);
  }

  addDevice(node: PxarNode, major: number, minor: number): Uint8Array {
    checkType(node.stat, [modeType.blockDevice, modeType.charDevice]);
    const content = new Uint8Array(16);
    viewOf(content).setBigUint64(0, BigInt(major), true);
    viewOf(content).setBigUint64(8, BigInt(minor), true);
    return this.#addWhole(node, [encodeHeader(pxarType.device, content.length), content]);
  }

  /** A named pipe or a socket. */
  addSpecial(node: PxarNode): Uint8Array {
    checkType(node.stat, [modeType.fifo, modeType.socket]);
    return this.#addWhole(node, []);
  }

  /** Another name of a file that came before: its `linkTarget`, and its path from the root. */
  addHardlink(name: Uint8Array, linkTarget: number, path: Uint8Array): Uint8Array {
    checkPath(path, 'hard link');
    const parent = this.#parent(name);
    const start = this.#position;
    if (linkTarget >= start) throw new AppError('invalid', 'archive: a hard link can only name a file that came before');
    const content = new Uint8Array(8 + path.length + 1);
    viewOf(content).setBigUint64(0, BigInt(start - linkTarget), true);
    content.set(path, 8);
    const bytes = this.#emit([encodeFileName(name), encodeHeader(pxarType.hardlink, content.length), content]);
    parent.items.push({ hash: hashFileName(name), start, sizeBytes: this.#position - start });
    return bytes;
  }

  #addWhole({ name, stat, metadata = [] }: PxarNode, content: Uint8Array[]): Uint8Array {
    const parent = this.#parent(name);
    const start = this.#position;
    const bytes = this.#emit([encodeFileName(name), encodeEntry(stat), ...encodeMetadata(metadata), ...content]);
    parent.items.push({ hash: hashFileName(name), start, sizeBytes: this.#position - start });
    return bytes;
  }

  #parent(name: Uint8Array): OpenDirectory {
    checkFileName(name);
    if (this.#file !== null) throw new AppError('conflict', 'archive: a file is not complete');
    const parent = this.#open.at(-1);
    if (parent === undefined) throw new AppError('conflict', 'archive: no directory is open');
    return parent;
  }

  #endFile(): void {
    const file = this.#file;
    if (file === null) return;
    this.#open.at(-1)?.items.push({ hash: file.hash, start: file.start, sizeBytes: this.#position - file.start });
    this.#file = null;
  }

  #emit(parts: Uint8Array[]): Uint8Array {
    const bytes = joinBytes(parts);
    this.#position += bytes.length;
    return bytes;
  }
}

/** Refuses names that could reach outside their directory. Raises AppError invalid. */
export function checkFileName(name: Uint8Array): void {
  const isDots = name.length <= 2 && name.every((byte) => byte === 0x2e); // also the empty name
  if (isDots || name.length > pxarLimits.nameBytes || name.includes(0) || name.includes(0x2f)) {
    throw new AppError('invalid', `archive: ${quote(String.fromCharCode(...name.subarray(0, 40)))} is not the name of a file`);
  }
}

/** The header of an item whose content has `contentBytes`. */
export function encodeHeader(type: bigint, contentBytes: number): Uint8Array {
  const header = new Uint8Array(itemHeaderBytes);
  viewOf(header).setBigUint64(0, type, true);
  viewOf(header).setBigUint64(8, BigInt(contentBytes + itemHeaderBytes), true);
  return header;
}

function encodeFileName(name: Uint8Array): Uint8Array {
  return joinBytes([encodeHeader(pxarType.fileName, name.length + 1), name, Uint8Array.of(0)]);
}

function encodeEntry(stat: PxarStat): Uint8Array {
  const content = new Uint8Array(entryContentBytes);
  const view = viewOf(content);
  view.setBigUint64(0, BigInt(stat.mode), true);
  view.setBigUint64(8, stat.flags, true);
  view.setUint32(16, stat.uid, true);
  view.setUint32(20, stat.gid, true);
  view.setBigInt64(24, BigInt(stat.mtimeSeconds), true);
  view.setUint32(32, stat.mtimeNanos, true);
  return joinBytes([encodeHeader(pxarType.entry, entryContentBytes), content]);
}

function encodeMetadata(metadata: readonly PxarMetadata[]): Uint8Array[] {
  return metadata.flatMap(({ type, content }) => [encodeHeader(type, content.length), content]);
}

function encodeGoodbye({ entryAt, items }: OpenDirectory, goodbyeAt: number): Uint8Array {
  const contentBytes = (items.length + 1) * goodbyeItemBytes;
  const content = new Uint8Array(contentBytes);
  const view = viewOf(content);
  const put = (slot: number, hash: bigint, offset: number, size: number): void => {
    view.setBigUint64(slot * goodbyeItemBytes, hash, true);
    view.setBigUint64(slot * goodbyeItemBytes + 8, BigInt(offset), true);
    view.setBigUint64(slot * goodbyeItemBytes + 16, BigInt(size), true);
  };
  const sorted = items.toSorted((a, b) => (a.hash < b.hash ? -1 : a.hash > b.hash ? 1 : a.start - b.start));
  for (const [rank, slot] of treeOrder(sorted.length).entries()) {
    const item = sorted[rank]!;
    put(slot, item.hash, goodbyeAt - item.start, item.sizeBytes);
  }
  put(items.length, pxarType.goodbyeTail, goodbyeAt - entryAt, contentBytes + itemHeaderBytes);
  return joinBytes([encodeHeader(pxarType.goodbye, contentBytes), content]);
}

/** For each rank of a sorted list its slot in the array form of a complete search tree (children of i: 2i+1 and 2i+2). */
export function treeOrder(count: number): number[] {
  const slots: number[] = [];
  const path: number[] = [];
  let slot = 0;
  while (path.length > 0 || slot < count) {
    while (slot < count) {
      path.push(slot);
      slot = slot * 2 + 1;
    }
    const next = path.pop()!;
    slots.push(next);
    slot = next * 2 + 2;
  }
  return slots;
}

function checkType(stat: PxarStat, types: readonly number[]): void {
  if (!types.includes(stat.mode & modeType.mask)) {
    throw new AppError('invalid', `archive: mode ${stat.mode.toString(8)} is not that of such an entry`);
  }
}

function checkPath(path: Uint8Array, what: string): void {
  if (path.length < 1 || path.length >= pxarLimits.pathBytes || path.includes(0)) {
    throw new AppError('invalid', `archive: the target of a ${what} has ${path.length} bytes or a zero byte in it`);
  }
}
