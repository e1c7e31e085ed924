import { AppError } from '#base/error.ts';
import { encodeU64, isSameBytes, joinBytes, parseHex, readU64, viewOf } from './bytes.ts';
import { decodeVarint, encodeVarint } from './varint.ts';

/**
 * The catalog of a snapshot: which files its archives hold, so that they can be browsed without reading them.
 *
 *     magic 8 │ tables, children before parents │ position of the root's table u64
 *     table: byte length │ count │ entries           entry: type letter │ name length │ name │ what the type needs
 */
export type CatalogEntry =
  | { kind: 'directory'; name: Uint8Array; tableAt: number }
  | { kind: 'file'; name: Uint8Array; sizeBytes: number; mtimeSeconds: number }
  | { kind: 'symlink' | 'hardlink' | 'block-device' | 'char-device' | 'fifo' | 'socket'; name: Uint8Array };

const magic = parseHex('91fd60f9c46758d5', 8, 'magic');
const letters: Record<CatalogEntry['kind'], number> = {
  directory: 0x64,
  file: 0x66,
  symlink: 0x6c,
  hardlink: 0x68,
  'block-device': 0x62,
  'char-device': 0x63,
  fifo: 0x70,
  socket: 0x73,
};
const kindOfLetter = new Map((Object.keys(letters) as CatalogEntry['kind'][]).map((kind) => [letters[kind], kind]));

/** Builds a catalog while a tree is walked; what it returns is to be stored in order. */
export type CatalogWriter = {
  begin(name: Uint8Array): void;
  add(entry: Exclude<CatalogEntry, { kind: 'directory' }>): void;
  /** Closes the newest open directory. */
  end(): Uint8Array;
  /** Closes the root. */
  finish(): Uint8Array;
};

/** Starts a catalog; `header` comes first in the file. Each archive is one directory below the root. */
export function createCatalogWriter(): CatalogWriter & { header: Uint8Array } {
  type Child = Exclude<CatalogEntry, { kind: 'directory' }> | { kind: 'child'; name: Uint8Array; at: number };
  const open: { name: Uint8Array; children: Child[] }[] = [{ name: new Uint8Array(), children: [] }];
  let position = magic.length;

  function close(): Uint8Array {
    const directory = open.pop();
    if (directory === undefined) throw new AppError('conflict', 'catalog: it is closed already');
    const start = position;
    const entries = directory.children.map((child) =>
      child.kind === 'child'
        ? joinBytes([encodeName(letters.directory, child.name), encodeVarint(start - child.at)])
        : encodeLeaf(child),
    );
    const body = joinBytes([encodeVarint(entries.length), ...entries]);
    const table = joinBytes([encodeVarint(body.length), body]);
    position += table.length;
    open.at(-1)?.children.push({ kind: 'child', name: directory.name, at: start });
    return table;
  }

  return {
    header: magic,
    begin: (name) => void open.push({ name, children: [] }),
    add: (entry) => void open.at(-1)?.children.push(entry),
    end() {
      if (open.length < 2) throw new AppError('conflict', 'catalog: no directory is open');
      return close();
    },
    finish() {
      if (open.length !== 1) throw new AppError('conflict', `catalog: ${open.length - 1} directories are still open`);
      const rootAt = position;
      return joinBytes([close(), encodeU64(rootAt)]);
    },
  };
}

/** One archive's part of a catalog. `tables`: what its writer returned; `lastBytes`: the length of the last of them, the archive's own. */
export type CatalogPart = { name: Uint8Array; tables: Uint8Array; lastBytes: number };

/** Puts the archives of a snapshot into one catalog: tables know each other by distance, so each part can stand anywhere. */
export function joinCatalogs(parts: readonly CatalogPart[]): Uint8Array {
  let position = magic.length;
  const starts = parts.map(({ tables, lastBytes }) => {
    position += tables.length;
    return position - lastBytes;
  });
  const rootAt = position;
  const entries = parts.map(({ name }, index) =>
    joinBytes([encodeName(letters.directory, name), encodeVarint(rootAt - (starts[index] ?? 0))]),
  );
  const body = joinBytes([encodeVarint(entries.length), ...entries]);
  return joinBytes([magic, ...parts.map(({ tables }) => tables), encodeVarint(body.length), body, encodeU64(rootAt)]);
}

/** Where the root's table begins. Raises AppError invalid. */
export function readCatalogRoot(file: Uint8Array): number {
  if (file.length < magic.length + 8 || !isSameBytes(file.subarray(0, 8), magic)) {
    throw new AppError('invalid', 'catalog: it does not begin as a catalog does');
  }
  const at = readU64(viewOf(file), file.length - 8, 'catalog: position of the root');
  if (at < magic.length || at >= file.length - 8) throw new AppError('invalid', `catalog: the root's table cannot be at ${at}`);
  return at;
}

/** The entries of one directory, by its `tableAt`. Raises AppError invalid. */
export function readCatalogTable(file: Uint8Array, tableAt: number): CatalogEntry[] {
  const what = `catalog: table at ${tableAt}`;
  const length = decodeVarint(file, tableAt, what);
  const end = length.next + length.value;
  if (length.value < 1 || end > file.length - 8)
    throw new AppError('invalid', `${what}: its length ${length.value} does not fit`);
  const body = file.subarray(0, end);
  const count = decodeVarint(body, length.next, what);
  if (count.value < 0 || count.value > length.value) throw new AppError('invalid', `${what}: ${count.value} entries cannot be`);
  const entries: CatalogEntry[] = [];
  let at = count.next;
  for (let number = 0; number < count.value; number += 1) {
    const read = readEntry(body, at, tableAt, what);
    entries.push(read.entry);
    at = read.next;
  }
  if (at !== end) throw new AppError('invalid', `${what}: ${end - at} bytes are left over`);
  return entries;
}

function readEntry(body: Uint8Array, at: number, tableAt: number, what: string): { entry: CatalogEntry; next: number } {
  const kind = kindOfLetter.get(body[at] ?? 0);
  if (kind === undefined) throw new AppError('invalid', `${what}: unknown entry type ${body[at]} at ${at}`);
  const length = decodeVarint(body, at + 1, what);
  const nameEnd = length.next + length.value;
  if (length.value < 1 || nameEnd > body.length) throw new AppError('invalid', `${what}: a name of ${length.value} bytes`);
  const name = body.subarray(length.next, nameEnd);
  if (name.includes(0) || name.includes(0x2f)) throw new AppError('invalid', `${what}: a name with a slash or a zero byte`);
  if (kind === 'directory') {
    const back = decodeVarint(body, nameEnd, what);
    const childAt = tableAt - back.value;
    // Children lie before their parents: so no table can contain itself.
    if (back.value < 1 || childAt < magic.length) throw new AppError('invalid', `${what}: a directory at ${childAt}`);
    return { entry: { kind, name, tableAt: childAt }, next: back.next };
  }
  if (kind !== 'file') return { entry: { kind, name }, next: nameEnd };
  const size = decodeVarint(body, nameEnd, what);
  if (size.value < 0) throw new AppError('invalid', `${what}: a file of ${size.value} bytes`);
  const mtime = decodeVarint(body, size.next, what);
  return { entry: { kind, name, sizeBytes: size.value, mtimeSeconds: mtime.value }, next: mtime.next };
}

function encodeLeaf(entry: Exclude<CatalogEntry, { kind: 'directory' }>): Uint8Array {
  const head = encodeName(letters[entry.kind], entry.name);
  if (entry.kind !== 'file') return head;
  return joinBytes([head, encodeVarint(entry.sizeBytes), encodeVarint(entry.mtimeSeconds)]);
}

function encodeName(letter: number, name: Uint8Array): Uint8Array {
  return joinBytes([Uint8Array.of(letter), encodeVarint(name.length), name]);
}
