import { kindOf } from './ext4.ts';
import { mostDirectoryBytes, mostEntries, type FileEntry, type FileNode, type FileSystem } from './file-system.ts';
import { damaged, fieldsOf, gather, notReadHere, type Fields, type FileRun, type Reading, type Volume } from './reading.ts';
import { findInTree, readExtents, type XfsExtent } from './xfs-extents.ts';
import { placeOf, type XfsShape } from './xfs-shape.ts';
import { readDataBlock, readShortForm } from './xfs-directory.ts';

/** Numbers of the on-disk format: XFS Algorithms & Data Structures. Everything is big-endian. */
const superMagic = 'XFSB';
const inodeMagic = 0x494e;
const formats = { local: 1, extents: 2, tree: 3 } as const;
const features = { ftype: 1, bigTime: 8, needsRepair: 0x10 } as const;
const flags2 = { bigTime: 8, bigCounts: 0x10 } as const;
const oldFtype = 0x200;
const linkHeaderBytes = 56;

type Inode = { node: FileNode; format: number; fork: Uint8Array; extents: number };

const note = 'changes that were in its log only when the backup was taken are not seen';

/** Reads XFS, versions 4 and 5. The log is not replayed. */
export function* openXfs(volume: Volume): Reading<FileSystem | null> {
  if (volume.sizeBytes < 4096) return null;
  const raw = yield* volume.read(0, 512);
  const fields = fieldsOf(raw, true);
  if (fields.text(0, 4) !== superMagic) return null;
  const shape = readShape(fields);
  return { kind: 'xfs', label: fields.text(108, 12), notes: [note], rootId: fields.u64(56), ...createReader(volume, shape) };
}

function readShape(fields: Fields): XfsShape {
  const version = fields.u16(100) & 0xf;
  if (version !== 4 && version !== 5) throw notReadHere(`an xfs of version ${version}`);
  const isV5 = version === 5;
  const incompat = isV5 ? fields.u32(216) : 0;
  if ((incompat & features.needsRepair) !== 0) throw damaged('this xfs says that it needs repair');
  const [blockBytes, inodeBytes, agBlockBits, inodeBits] = [fields.u32(4), fields.u16(104), fields.u8(124), fields.u8(123)];
  const directoryBits = fields.u8(192);
  const isSane = blockBytes >= 512 && blockBytes <= 65_536 && inodeBytes >= 256 && inodeBytes <= 2048;
  if (!isSane || agBlockBits + inodeBits > 40 || directoryBits > 7) throw damaged('the superblock of an xfs makes no sense');
  return {
    blockBytes,
    directoryBytes: blockBytes << directoryBits,
    inodeBytes,
    agBlocks: fields.u32(84),
    agBlockBits,
    inodeBits,
    isV5,
    hasFtype: isV5 ? (incompat & features.ftype) !== 0 : (fields.u32(200) & oldFtype) !== 0,
  };
}

function createReader(volume: Volume, shape: XfsShape) {
  const { blockBytes } = shape;

  function* inode(id: number): Reading<Inode> {
    const block = Math.floor(id / 2 ** shape.inodeBits);
    const at = placeOf(block, shape) + (id % 2 ** shape.inodeBits) * shape.inodeBytes;
    return readInode(id, yield* volume.read(at, shape.inodeBytes));
  }

  function* findRun({ format, fork, extents }: Inode, at: number): Reading<FileRun> {
    const logical = Math.floor(at / blockBytes);
    const inside = at - logical * blockBytes;
    const list: XfsExtent[] =
      format === formats.extents ? readExtents(fork, 0, extents) : yield* findInTree(volume, shape, fork, logical);
    const extent = list.find(({ from, count }) => logical >= from && logical < from + count);
    if (extent === undefined) {
      // A hole goes on to the next extent; without one in sight, a block at a time.
      const next = list.reduce((least, { from }) => (from > logical ? Math.min(least, from) : least), Number.MAX_SAFE_INTEGER);
      const count = format === formats.extents ? Math.min(next - logical, 2 ** 30) : 1;
      return { at: null, bytes: count * blockBytes - inside };
    }
    const into = logical - extent.from;
    const place = extent.isUnwritten ? null : placeOf(extent.block + into, shape) + inside;
    return { at: place, bytes: (extent.count - into) * blockBytes - inside };
  }

  function* readContent(found: Inode, at: number, bytes: number): Reading<Uint8Array> {
    if (found.format === formats.local) return found.fork.slice(at, at + bytes);
    return yield* gather(volume, at, bytes, (place) => findRun(found, place));
  }

  function* listBlocks(found: Inode): Reading<FileEntry[]> {
    const entries: FileEntry[] = [];
    const end = Math.min(found.node.sizeBytes, mostDirectoryBytes);
    for (let at = 0; at < end; at += shape.directoryBytes) {
      const run = yield* findRun(found, at);
      if (run.at === null) continue;
      entries.push(...readDataBlock(yield* readContent(found, at, shape.directoryBytes), shape));
      if (entries.length > mostEntries) throw damaged('a directory has too many entries');
    }
    return entries;
  }

  return {
    *look(id: number): Reading<FileNode> {
      return (yield* inode(id)).node;
    },
    *list(node: FileNode): Reading<FileEntry[]> {
      if (node.kind !== 'directory') throw damaged(`inode ${node.id} is no directory`);
      const found = yield* inode(node.id);
      const entries = found.format === formats.local ? readShortForm(found.fork, shape) : yield* listBlocks(found);
      return entries.filter(({ name }) => name !== '.' && name !== '..');
    },
    *read(node: FileNode, at: number, bytes: number): Reading<Uint8Array> {
      const found = yield* inode(node.id);
      return yield* readContent(found, at, Math.max(0, Math.min(bytes, found.node.sizeBytes - at)));
    },
    *readLink(node: FileNode): Reading<string> {
      const found = yield* inode(node.id);
      const length = Math.min(node.sizeBytes, 4096);
      if (found.format === formats.local) return new TextDecoder().decode(found.fork.subarray(0, length));
      const parts: Uint8Array[] = [];
      const skip = shape.isV5 ? linkHeaderBytes : 0;
      let left = length;
      for (let at = 0; left > 0; at += blockBytes) {
        const part = (yield* readContent(found, at, blockBytes)).slice(skip, skip + left);
        parts.push(part);
        left -= part.length;
      }
      return parts.map((part) => new TextDecoder().decode(part)).join('');
    },
  };

  function readInode(id: number, raw: Uint8Array): Inode {
    const fields = fieldsOf(raw, true);
    if (fields.u16(0) !== inodeMagic) throw damaged(`there is no inode ${id}`);
    const coreBytes = fields.u8(4) >= 3 ? 176 : 100;
    const second = coreBytes === 176 ? fields.u64(120) : 0;
    const forkBytes = fields.u8(82) === 0 ? raw.length - coreBytes : fields.u8(82) * 8;
    const mode = fields.u16(2);
    return {
      node: {
        id,
        kind: kindOf(mode),
        sizeBytes: fields.u64(56),
        mode: mode & 0o7777,
        uid: fields.u32(8),
        gid: fields.u32(12),
        mtimeMs:
          (second & flags2.bigTime) !== 0 ? readBigTime(fields) : fields.i32(40) * 1_000 + Math.floor(fields.u32(44) / 1e6),
      },
      format: fields.u8(5),
      fork: raw.subarray(coreBytes, coreBytes + forkBytes),
      extents: (second & flags2.bigCounts) !== 0 ? fields.u64(24) : fields.u32(76),
    };
  }
}

/** Nanoseconds since 1901: 2^31 seconds before the epoch. */
function readBigTime(fields: Fields): number {
  return Number(fields.raw64(40) / 1_000_000n) - 2 ** 31 * 1_000;
}
