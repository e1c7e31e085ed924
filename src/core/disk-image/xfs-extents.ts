import { damaged, fieldsOf, type Reading, type Volume } from './reading.ts';
import { placeOf, type XfsShape } from './xfs-shape.ts';

/** A run of a file: blocks of the file from `from`, blocks of the file system from `block`. */
export type XfsExtent = { from: number; block: number; count: number; isUnwritten: boolean };

const recordBytes = 16;
const deepestTree = 9;

/** `count` extents as they are packed: 1 + 54 + 52 + 21 bits. */
export function readExtents(raw: Uint8Array, at: number, count: number): XfsExtent[] {
  const fields = fieldsOf(raw, true);
  if (count * recordBytes > raw.length - at) throw damaged('a file has more extents than room for them');
  return Array.from({ length: count }, (_, index) => {
    const [high, low] = [fields.raw64(at + index * recordBytes), fields.raw64(at + index * recordBytes + 8)];
    return {
      from: Number((high >> 9n) & ((1n << 54n) - 1n)),
      block: Number(((high & 0x1ffn) << 43n) | (low >> 21n)),
      count: Number(low & 0x1fffffn),
      isUnwritten: high >> 63n === 1n,
    };
  });
}

/** The extents of the leaf in which a block of the file must be, from the root that lies in the inode's fork. */
export function* findInTree(volume: Volume, shape: XfsShape, fork: Uint8Array, logical: number): Reading<XfsExtent[]> {
  const root = fieldsOf(fork, true);
  const most = Math.floor((fork.length - 4) / recordBytes);
  let level = root.u16(0);
  let next = choose(fork, { count: root.u16(2), keysAt: 4, pointersAt: 4 + most * 8 }, logical);
  const headerBytes = shape.isV5 ? 72 : 24;
  if (level < 1 || level > deepestTree) throw damaged('the tree of a file makes no sense');
  for (;;) {
    const raw: Uint8Array = yield* volume.read(placeOf(next, shape), shape.blockBytes);
    const fields = fieldsOf(raw, true);
    const magic = fields.text(0, 4);
    level -= 1;
    if ((magic !== 'BMAP' && magic !== 'BMA3') || fields.u16(4) !== level) throw damaged('the tree of a file makes no sense');
    const count = fields.u16(6);
    if (level === 0) return readExtents(raw, headerBytes, count);
    const room = Math.floor((shape.blockBytes - headerBytes) / recordBytes);
    next = choose(raw, { count, keysAt: headerBytes, pointersAt: headerBytes + room * 8 }, logical);
  }
}

function choose(
  raw: Uint8Array,
  { count, keysAt, pointersAt }: { count: number; keysAt: number; pointersAt: number },
  logical: number,
): number {
  const fields = fieldsOf(raw, true);
  let chosen = 0;
  for (let index = 1; index < count && fields.u64(keysAt + index * 8) <= logical; index += 1) chosen = index;
  return fields.u64(pointersAt + chosen * 8);
}
