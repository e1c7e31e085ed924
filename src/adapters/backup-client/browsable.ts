import { AppError } from '#base/error.ts';
import {
  readHead,
  readTable,
  readTail,
  tailBytes,
  usualHeadBytes,
  type PxarHead,
  type PxarLink,
  type PxarSpan,
} from '#core/backup/pxar-access.ts';
import { modeType, type PxarStat } from '#core/backup/pxar-format.ts';
import { decodeXattr } from '#core/backup/tree-metadata.ts';
import type { ArchiveReader } from './archive-reader.ts';

/** A file of a tree that can only be read. `id`: the same for all names of one file. */
export type BrowsableNode = {
  id: number;
  stat: PxarStat;
  sizeBytes: number;
  target: Uint8Array | null;
  device: { major: number; minor: number };
  xattrs: { name: Uint8Array; value: Uint8Array }[];
};
export type BrowsableEntry = { name: Uint8Array; node: BrowsableNode };
export type BrowsableTree = {
  root: BrowsableNode;
  /** What a directory holds. */
  list(node: BrowsableNode): Promise<BrowsableEntry[]>;
  read(node: BrowsableNode, at: number, bytes: number): Promise<Uint8Array>;
};

const rootId = 1;
const noDevice = { major: 0, minor: 0 };

/** An image as one file in a directory. */
export function browseImage(archive: ArchiveReader, name: string, atSeconds: number): BrowsableTree {
  const stat = (mode: number): PxarStat => ({ mode, flags: 0n, uid: 0, gid: 0, mtimeSeconds: atSeconds, mtimeNanos: 0 });
  const common = { target: null, device: noDevice, xattrs: [] };
  const root = { id: rootId, stat: stat(modeType.directory | 0o500), sizeBytes: 0, ...common };
  const file = { id: rootId + 1, stat: stat(modeType.file | 0o400), sizeBytes: archive.sizeBytes, ...common };
  return {
    root,
    list: () => Promise.resolve([{ name: Buffer.from(name), node: file }]),
    read: (_node, at, bytes) => archive.read(at, bytes),
  };
}

/** The tree of a directory's archive (version 1). Raises AppError for another one, or when it cannot be read. */
export async function browseTree(archive: ArchiveReader): Promise<BrowsableTree> {
  const heads = new Map<number, PxarHead>(); // by the node's id
  const lists = new Map<number, Promise<BrowsableEntry[]>>();
  const end = archive.sizeBytes;
  const { entryAt } = readTail(await archive.read(end - tailBytes, tailBytes), end);
  const rootHead = await headAt(archive, { start: entryAt, end }, true);
  if (rootHead.kind !== 'directory') throw new AppError('invalid', 'archive: its root is no directory');

  // An entry's place in the archive is its identity; the root begins where no other entry can.
  function toNode(head: PxarHead): BrowsableNode {
    const id = head.name === null ? rootId : head.span.start + rootId + 1;
    heads.set(id, head);
    return {
      id,
      stat: head.stat,
      sizeBytes: head.kind === 'file' ? head.sizeBytes : head.kind === 'symlink' ? head.target.length : 0,
      target: head.kind === 'symlink' ? head.target : null,
      device: head.kind === 'device' ? { major: head.major, minor: head.minor } : noDevice,
      xattrs: head.metadata.flatMap((item) => decodeXattr(item) ?? []),
    };
  }

  async function readEntry(span: PxarSpan): Promise<BrowsableEntry> {
    const head = await headAt(archive, span, false);
    if (head.kind !== 'hardlink') return { name: head.name ?? new Uint8Array(), node: toNode(head) };
    const target = await headAt(archive, { start: head.targetAt, end }, false);
    if (target.kind === 'hardlink' || target.kind === 'directory')
      throw new AppError('invalid', 'archive: a hard link to no file');
    return { name: head.name, node: toNode(target) };
  }

  async function list(id: number): Promise<BrowsableEntry[]> {
    const head = heads.get(id);
    if (head?.kind !== 'directory') throw new AppError('invalid', 'archive: it is no directory');
    const tail = readTail(await archive.read(head.span.end - tailBytes, tailBytes), head.span.end);
    const table = await archive.read(tail.tableAt, tail.tableBytes);
    const entries: BrowsableEntry[] = [];
    for (const span of readTable(table, tail.tableAt, tail.entryAt)) entries.push(await readEntry(span));
    return entries;
  }

  return {
    root: toNode(rootHead),
    list({ id }) {
      const known = lists.get(id) ?? list(id);
      lists.set(id, known);
      known.catch(() => lists.delete(id)); // the next one asks again
      return known;
    },
    async read({ id }, at, bytes) {
      const head = heads.get(id);
      if (head?.kind !== 'file') throw new AppError('invalid', 'archive: it is no file');
      return archive.read(head.contentAt + at, Math.max(0, Math.min(bytes, head.sizeBytes - at)));
    },
  };
}

async function headAt(archive: ArchiveReader, span: PxarSpan, isRoot: boolean): Promise<PxarHead | PxarLink> {
  for (let bytes = usualHeadBytes; ; bytes *= 8) {
    const size = Math.min(bytes, span.end - span.start);
    const head = readHead(await archive.read(span.start, size), span, isRoot);
    if (head !== null) return head;
  }
}
