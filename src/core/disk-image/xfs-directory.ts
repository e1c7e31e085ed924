import type { FileEntry } from './file-system.ts';
import { damaged, fieldsOf } from './reading.ts';
import type { XfsShape } from './xfs-shape.ts';

const unusedTag = 0xffff;

/** A directory so small that it lies in its inode. */
export function readShortForm(fork: Uint8Array, { hasFtype }: Pick<XfsShape, 'hasFtype'>): FileEntry[] {
  const fields = fieldsOf(fork, true);
  const [count, wide] = [fields.u8(0), fields.u8(1)];
  const idBytes = wide > 0 ? 8 : 4;
  const entries: FileEntry[] = [];
  let at = 2 + idBytes;
  for (let index = 0; index < Math.max(count, wide); index += 1) {
    const nameBytes = fields.u8(at);
    const name = new TextDecoder().decode(fork.subarray(at + 3, at + 3 + nameBytes));
    at += 3 + nameBytes + (hasFtype ? 1 : 0);
    entries.push({ name, id: idBytes === 8 ? fields.u64(at) : fields.u32(at) });
    at += idBytes;
  }
  return entries;
}

/** One block of a directory's names: the only one, with its index at the end, or one of several. */
export function readDataBlock(block: Uint8Array, { hasFtype }: Pick<XfsShape, 'hasFtype'>): FileEntry[] {
  const fields = fieldsOf(block, true);
  const magic = fields.text(0, 4);
  const headerBytes = { XD2B: 16, XD2D: 16, XDB3: 64, XDD3: 64 }[magic];
  if (headerBytes === undefined) throw damaged('a block of a directory makes no sense');
  const isOnly = magic === 'XD2B' || magic === 'XDB3';
  const end = isOnly ? block.length - 8 - fields.u32(block.length - 8) * 8 : block.length;
  const entries: FileEntry[] = [];
  for (let at = headerBytes; at + 8 <= end;) {
    if (fields.u16(at) === unusedTag) {
      const length = fields.u16(at + 2);
      if (length < 8) throw damaged('an entry of a directory makes no sense');
      at += length;
      continue;
    }
    const nameBytes = fields.u8(at + 8);
    entries.push({ name: new TextDecoder().decode(block.subarray(at + 9, at + 9 + nameBytes)), id: fields.u64(at) });
    at += Math.ceil((8 + 1 + nameBytes + (hasFtype ? 1 : 0) + 2) / 8) * 8;
  }
  return entries;
}
