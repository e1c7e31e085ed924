import { ext4Journal, type BlockPatch } from './ext4-journal.ts';
import { mostDirectoryBytes, mostEntries, type FileEntry, type FileNode, type FileSystem } from './file-system.ts';
import { damaged, fieldsOf, gather, notReadHere, type Fields, type FileRun, type Reading, type Volume } from './reading.ts';

/** Numbers of the on-disk format: Linux, Documentation/filesystems/ext4. */
const magic = 0xef53;
const incompat = { recover: 0x4, journalDevice: 0x8, metaGroups: 0x10, is64Bit: 0x80, dirData: 0x1000 } as const;
const inodeFlags = { encrypted: 0x800, extents: 0x80000, inlineData: 0x10000000 } as const;
const rootInode = 2;
const extentMagic = 0xf30a;
const fastLinkBytes = 60;
const deepestExtents = 5;

type Super = {
  blockBytes: number;
  inodes: number;
  inodesPerGroup: number;
  inodeBytes: number;
  tableAt: number;
  descriptorBytes: number;
  features: number;
  journalInode: number;
  label: string;
};
type Inode = { node: FileNode; flags: number; block: Uint8Array };

/** Reads ext2, ext3 and ext4. What lies in a journal that was not replayed is seen as if it had been. */
export function* openExt4(volume: Volume): Reading<FileSystem | null> {
  const first = yield* readSuper(volume);
  if (first === null) return null;
  const notes: string[] = [];
  let patched = volume;
  if ((first.features & incompat.recover) !== 0) {
    const plain = createReader(volume, first);
    const journal = (yield* plain.inode(first.journalInode)).node;
    const read = (at: number, bytes: number): Reading<Uint8Array> => plain.read(journal, at, bytes);
    const { patches, notes: told } = yield* ext4Journal(read, journal.sizeBytes, first.blockBytes);
    patched = patchBlocks(volume, patches, first.blockBytes, read);
    notes.push(`its journal was not empty: ${patches.size} blocks are read from there`, ...told);
  }
  const about = (yield* readSuper(patched)) ?? first;
  const reader = createReader(patched, about);
  return { kind: 'ext4', label: about.label, notes, rootId: rootInode, ...reader };
}

function* readSuper(volume: Volume): Reading<Super | null> {
  if (volume.sizeBytes < 4096) return null;
  const fields = fieldsOf(yield* volume.read(1024, 1024));
  if (fields.u16(0x38) !== magic) return null;
  const features = fields.u32(0x60);
  const [logBlock, inodesPerGroup] = [fields.u32(0x18), fields.u32(0x28)];
  const isOld = fields.u32(0x4c) === 0;
  const inodeBytes = isOld ? 128 : fields.u16(0x58);
  if (logBlock > 6 || inodesPerGroup === 0 || inodeBytes < 128) throw damaged('the superblock of an ext4 makes no sense');
  if ((features & (incompat.journalDevice | incompat.metaGroups | incompat.dirData)) !== 0)
    throw notReadHere(`an ext4 with the features 0x${features.toString(16)}`);
  const blockBytes = 1024 << logBlock;
  const is64Bit = (features & incompat.is64Bit) !== 0;
  return {
    blockBytes,
    inodes: fields.u32(0),
    inodesPerGroup,
    inodeBytes,
    tableAt: (fields.u32(0x14) + 1) * blockBytes,
    descriptorBytes: is64Bit ? Math.max(32, fields.u16(0xfe)) : 32,
    features,
    journalInode: fields.u32(0xe0),
    label: fields.text(0x78, 16),
  };
}

/** The volume with blocks as the journal has them. */
function patchBlocks(
  volume: Volume,
  patches: Map<number, BlockPatch>,
  blockBytes: number,
  readJournal: (at: number, bytes: number) => Reading<Uint8Array>,
): Volume {
  return {
    sizeBytes: volume.sizeBytes,
    *read(at, bytes) {
      const data = Uint8Array.from(yield* volume.read(at, bytes));
      const last = Math.floor((at + bytes - 1) / blockBytes);
      for (let block = Math.floor(at / blockBytes); block <= last; block += 1) {
        const patch = patches.get(block);
        if (patch === undefined) continue;
        const content = Uint8Array.from(yield* readJournal(patch.at, blockBytes));
        if (patch.isEscaped) content.set([0xc0, 0x3b, 0x39, 0x98]);
        const [from, to] = [Math.max(at, block * blockBytes), Math.min(at + bytes, (block + 1) * blockBytes)];
        data.set(content.subarray(from - block * blockBytes, to - block * blockBytes), from - at);
      }
      return data;
    },
  };
}

function createReader(volume: Volume, about: Super) {
  const { blockBytes } = about;

  function* inode(id: number): Reading<Inode> {
    if (id < 1 || id > about.inodes) throw damaged(`there is no inode ${id}`);
    const group = Math.floor((id - 1) / about.inodesPerGroup);
    const descriptor = fieldsOf(yield* volume.read(about.tableAt + group * about.descriptorBytes, about.descriptorBytes));
    const high = about.descriptorBytes >= 64 ? descriptor.u32(0x28) : 0;
    const table = (high * 2 ** 32 + descriptor.u32(8)) * blockBytes;
    const raw = yield* volume.read(table + ((id - 1) % about.inodesPerGroup) * about.inodeBytes, about.inodeBytes);
    return readInode(id, raw);
  }

  function* findRun({ flags, block }: Inode, at: number): Reading<FileRun> {
    const logical = Math.floor(at / blockBytes);
    const inside = at - logical * blockBytes;
    const run =
      (flags & inodeFlags.extents) !== 0
        ? yield* findExtent(block, logical, deepestExtents)
        : yield* findMapped(fieldsOf(block), logical);
    return {
      at: run.block === null ? null : run.block * blockBytes + inside,
      bytes: run.count * blockBytes - inside,
    };
  }

  function* findExtent(raw: Uint8Array, logical: number, depth: number): Reading<{ block: number | null; count: number }> {
    const fields = fieldsOf(raw);
    if (fields.u16(0) !== extentMagic || depth < 0) throw damaged('the extents of a file make no sense');
    const [entries, levels] = [fields.u16(2), fields.u16(6)];
    let [below, next]: [number | null, number] = [null, 2 ** 32];
    for (let at = 12; at < 12 + entries * 12; at += 12) {
      if (fields.u32(at) <= logical) below = at;
      else {
        next = fields.u32(at);
        break;
      }
    }
    if (below === null) return { block: null, count: next - logical };
    if (levels > 0) {
      const child = fields.u16(below + 8) * 2 ** 32 + fields.u32(below + 4);
      const found = yield* findExtent(yield* volume.read(child * blockBytes, blockBytes), logical, Math.min(depth, levels) - 1);
      return { ...found, count: Math.min(found.count, next - logical) };
    }
    const length = fields.u16(below + 4);
    const isUnwritten = length > 32_768;
    const count = isUnwritten ? length - 32_768 : length;
    const into = logical - fields.u32(below);
    if (into >= count) return { block: null, count: next - logical };
    const start = fields.u16(below + 6) * 2 ** 32 + fields.u32(below + 8);
    return { block: isUnwritten ? null : start + into, count: count - into };
  }

  /** The block map of ext2 and ext3: twelve blocks, then blocks of blocks. */
  function* findMapped(block: Fields, logical: number): Reading<{ block: number | null; count: number }> {
    const perBlock = blockBytes / 4;
    let rest = logical;
    if (rest < 12) return { block: block.u32(rest * 4) || null, count: 1 };
    rest -= 12;
    for (let level = 1; level <= 3; level += 1) {
      const spans = perBlock ** level;
      if (rest >= spans) {
        rest -= spans;
        continue;
      }
      let pointer = block.u32((11 + level) * 4);
      for (let step = level; step >= 1 && pointer !== 0; step -= 1) {
        const table = fieldsOf(yield* volume.read(pointer * blockBytes, blockBytes));
        const unit = perBlock ** (step - 1);
        pointer = table.u32(Math.floor(rest / unit) * 4);
        rest %= unit;
      }
      return { block: pointer || null, count: 1 };
    }
    throw damaged('a file is longer than its map');
  }

  function* readAll(id: number, at: number, bytes: number): Reading<Uint8Array> {
    const found = yield* inode(id);
    refuseSpecial(found);
    const length = Math.max(0, Math.min(bytes, found.node.sizeBytes - at));
    return yield* gather(volume, at, length, (place) => findRun(found, place));
  }

  return {
    inode,
    *look(id: number): Reading<FileNode> {
      return (yield* inode(id)).node;
    },
    read: (node: FileNode, at: number, bytes: number): Reading<Uint8Array> => readAll(node.id, at, bytes),
    *readLink(node: FileNode): Reading<string> {
      const found = yield* inode(node.id);
      const isFast = node.sizeBytes < fastLinkBytes && (found.flags & inodeFlags.extents) === 0;
      const raw = isFast ? found.block.subarray(0, node.sizeBytes) : yield* readAll(node.id, 0, Math.min(node.sizeBytes, 4096));
      return new TextDecoder().decode(raw);
    },
    *list(node: FileNode): Reading<FileEntry[]> {
      if (node.kind !== 'directory') throw damaged(`inode ${node.id} is no directory`);
      const entries: FileEntry[] = [];
      for (let at = 0; at < Math.min(node.sizeBytes, mostDirectoryBytes); at += blockBytes) {
        // The blocks of a directory's index look like one entry that is not in use.
        entries.push(...readDirectoryBlock(yield* readAll(node.id, at, blockBytes)));
        if (entries.length > mostEntries) throw damaged('a directory has too many entries');
      }
      return entries;
    },
  };
}

function refuseSpecial({ flags }: Inode): void {
  if ((flags & inodeFlags.encrypted) !== 0) throw notReadHere('a file that the guest encrypted');
  if ((flags & inodeFlags.inlineData) !== 0) throw notReadHere('a file whose content lies in its inode');
}

function readDirectoryBlock(block: Uint8Array): FileEntry[] {
  const fields = fieldsOf(block);
  const entries: FileEntry[] = [];
  for (let at = 0; at + 8 <= block.length;) {
    const length = fields.u16(at + 4);
    // In blocks of 64 KiB the whole block does not fit into the number.
    const span = length === 0 || length === 65_535 ? block.length - at : length;
    if (span < 8 || at + span > block.length) throw damaged('an entry of a directory makes no sense');
    const [id, nameBytes] = [fields.u32(at), fields.u8(at + 6)];
    const name = new TextDecoder().decode(block.subarray(at + 8, at + 8 + Math.min(nameBytes, span - 8)));
    if (id !== 0 && name !== '.' && name !== '..') entries.push({ name, id });
    at += span;
  }
  return entries;
}

function readInode(id: number, raw: Uint8Array): Inode {
  const fields = fieldsOf(raw);
  const mode = fields.u16(0);
  const kind = kindOf(mode);
  const extra = raw.length > 0x8c && fields.u16(0x80) >= 12 ? fields.u32(0x88) : 0;
  return {
    node: {
      id,
      kind,
      sizeBytes: fields.u32(0x6c) * 2 ** 32 + fields.u32(4),
      mode: mode & 0o7777,
      uid: fields.u16(0x78) * 65_536 + fields.u16(2),
      gid: fields.u16(0x7a) * 65_536 + fields.u16(0x18),
      // Two bits of `extra` are the epoch past 2038.
      mtimeMs: (fields.i32(0x10) + (extra & 3) * 2 ** 32) * 1_000 + Math.floor((extra >>> 2) / 1_000_000),
    },
    flags: fields.u32(0x20),
    block: raw.subarray(0x28, 0x28 + 60),
  };
}

/** Of the type bits of a mode, as every Unix has them. */
export function kindOf(mode: number): FileNode['kind'] {
  const type = mode & 0o170000;
  return type === 0o100000 ? 'file' : type === 0o040000 ? 'directory' : type === 0o120000 ? 'link' : 'other';
}
