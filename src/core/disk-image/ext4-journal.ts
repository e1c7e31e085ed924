import { damaged, fieldsOf, type Reading } from './reading.ts';

/** Where the journal holds a block's newest content. `isEscaped`: its first four bytes were taken for the journal's own mark. */
export type BlockPatch = { at: number; isEscaped: boolean };

/** Numbers of jbd2: Linux, Documentation/filesystems/ext4/journal.rst. All of it is big-endian. */
const magic = 0xc03b3998;
const kinds = { descriptor: 1, commit: 2, revoke: 5 } as const;
const features = { is64Bit: 2, checksumsV2: 8, checksumsV3: 16, fastCommits: 32 } as const;
const tagFlags = { escaped: 1, sameUuid: 2, last: 8 } as const;
const usualFastBlocks = 256;

type Transaction = { sequence: number; writes: { block: number; patch: BlockPatch }[]; revoked: number[] };
type Shape = { blockBytes: number; is64Bit: boolean; isV3: boolean; tailBytes: number };

/** What a replay of the journal would write: committed transactions only, without what later ones revoke. */
export function* ext4Journal(
  read: (at: number, bytes: number) => Reading<Uint8Array>,
  sizeBytes: number,
  blockBytes: number,
): Reading<{ patches: Map<number, BlockPatch>; notes: string[] }> {
  const head = fieldsOf(yield* read(0, 1024), true);
  if (head.u32(0) !== magic || head.u32(12) !== blockBytes) throw damaged('the journal of an ext4 makes no sense');
  const incompat = head.u32(4) === 3 ? 0 : head.u32(0x28);
  const shape = {
    blockBytes,
    is64Bit: (incompat & features.is64Bit) !== 0,
    isV3: (incompat & features.checksumsV3) !== 0,
    tailBytes: (incompat & (features.checksumsV2 | features.checksumsV3)) !== 0 ? 4 : 0,
  };
  const hasFast = (incompat & features.fastCommits) !== 0;
  const blocks = Math.min(head.u32(16), Math.floor(sizeBytes / blockBytes));
  const end = blocks - (hasFast ? head.u32(0x54) || usualFastBlocks : 0);
  const [first, start] = [head.u32(20), head.u32(28)];
  const notes = hasFast ? ['the newest changes may lie in fast commits, which are not read'] : [];
  if (start === 0) return { patches: new Map(), notes };
  if (first < 1 || start >= end || first >= end) throw damaged('the journal of an ext4 makes no sense');
  return { patches: replay(yield* readTransactions(read, shape, { first, start, end, sequence: head.u32(24) })), notes };
}

function* readTransactions(
  read: (at: number, bytes: number) => Reading<Uint8Array>,
  shape: Shape,
  { first, start, end, sequence: firstSequence }: { first: number; start: number; end: number; sequence: number },
): Reading<Transaction[]> {
  const done: Transaction[] = [];
  let sequence = firstSequence;
  let open: Transaction = { sequence, writes: [], revoked: [] };
  let at = start;
  const next = (): number => {
    const block = at;
    at = at + 1 >= end ? first : at + 1;
    return block;
  };
  // No journal has more to say than it has blocks.
  for (let seen = 0; seen < end; seen += 1) {
    const raw = yield* read(next() * shape.blockBytes, shape.blockBytes);
    const fields = fieldsOf(raw, true);
    if (fields.u32(0) !== magic || fields.u32(8) !== sequence) break;
    const kind = fields.u32(4);
    if (kind === kinds.descriptor) {
      for (const { block, isEscaped } of readTags(raw, shape)) {
        open.writes.push({ block, patch: { at: next() * shape.blockBytes, isEscaped } });
        seen += 1;
      }
    } else if (kind === kinds.revoke) {
      open.revoked.push(...readRevoked(raw, shape));
    } else if (kind === kinds.commit) {
      done.push(open);
      sequence = (sequence + 1) % 2 ** 32;
      open = { sequence, writes: [], revoked: [] };
    } else break;
  }
  return done;
}

function readTags(raw: Uint8Array, { is64Bit, isV3, tailBytes }: Shape): { block: number; isEscaped: boolean }[] {
  const fields = fieldsOf(raw, true);
  const tags: { block: number; isEscaped: boolean }[] = [];
  const tagBytes = isV3 ? 16 : is64Bit ? 12 : 8;
  for (let at = 12; at + tagBytes <= raw.length - tailBytes;) {
    const flags = isV3 ? fields.u32(at + 4) : fields.u16(at + 6);
    const high = is64Bit ? fields.u32(at + 8) : 0;
    tags.push({ block: high * 2 ** 32 + fields.u32(at), isEscaped: (flags & tagFlags.escaped) !== 0 });
    at += tagBytes + ((flags & tagFlags.sameUuid) === 0 ? 16 : 0);
    if ((flags & tagFlags.last) !== 0) break;
  }
  return tags;
}

function readRevoked(raw: Uint8Array, { is64Bit }: Shape): number[] {
  const fields = fieldsOf(raw, true);
  const used = Math.min(fields.u32(12), raw.length);
  const blocks: number[] = [];
  const entryBytes = is64Bit ? 8 : 4;
  for (let at = 16; at + entryBytes <= used; at += entryBytes) blocks.push(is64Bit ? fields.u64(at) : fields.u32(at));
  return blocks;
}

function replay(transactions: Transaction[]): Map<number, BlockPatch> {
  const revokedIn = new Map<number, number>();
  for (const [index, { revoked }] of transactions.entries()) for (const block of revoked) revokedIn.set(block, index);
  const patches = new Map<number, BlockPatch>();
  for (const [index, { writes }] of transactions.entries()) {
    for (const { block, patch } of writes) if ((revokedIn.get(block) ?? -1) < index) patches.set(block, patch);
  }
  return patches;
}
