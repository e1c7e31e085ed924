import { AppError } from '#base/error.ts';
import { makeBuzhashTable } from './buzhash-table.ts';

const windowBytes = 64;
/** What clients use for archives. */
export const defaultChunkBytes = 4 * 1024 * 1024;
const averageRange = { min: 4096, max: defaultChunkBytes } as const;

/** Cuts a stream where its content says so, so that an insertion moves only the cuts near it. */
export type Chunker = {
  /**
   * Looks at the next bytes of the stream. Returns how many of them belong to the current chunk, which then is complete and the next
   * begins; 0: all of them do and it goes on.
   */
  scan(data: Uint8Array): number;
};

/**
 * The chunker of casync and its heirs: chunks of a quarter of the average to four times the average. Raises AppError invalid unless the
 * average is a power of two in range.
 */
export function createChunker(averageBytes: number): Chunker {
  if (averageBytes < averageRange.min || averageBytes > averageRange.max || !Number.isInteger(Math.log2(averageBytes))) {
    throw new AppError(
      'invalid',
      `chunk average: ${averageBytes} is not a power of two from ${averageRange.min} to ${averageRange.max}`,
    );
  }
  const table = makeBuzhashTable();
  const min = averageBytes / 4;
  const max = averageBytes * 4;
  const mask = averageBytes * 2 - 1;
  const least = averageBytes * 2 - 3;
  // The hash depends on the last 64 bytes only, so hashing may begin that much before the first place where a cut is allowed.
  const skip = min - windowBytes;
  const window = new Uint8Array(windowBytes);
  let hash = 0;
  let used = 0; // bytes of the current chunk seen so far

  function fill(data: Uint8Array, from: number): number {
    let at = from + Math.min(Math.max(0, skip - used), data.length - from);
    used += at - from;
    for (; used >= skip && used < min && at < data.length; at += 1, used += 1) {
      const byte = data[at] ?? 0;
      window[used % windowBytes] = byte;
      hash = ((hash << 1) | (hash >>> 31)) ^ (table[byte] ?? 0);
    }
    return at;
  }

  function cut(at: number): number {
    hash = 0;
    used = 0;
    return at;
  }

  return {
    scan(data) {
      let at = fill(data, 0);
      if (used < min) return 0;
      if (used === min && at > 0 && (hash & mask) >= least) return cut(at);
      const found = roll(data, at, Math.min(data.length, at + max - used), {
        table,
        window,
        hash,
        slot: used % windowBytes,
        mask,
        least,
      });
      used += found.at - at;
      hash = found.hash;
      at = found.at;
      return found.isCut || used === max ? cut(at) : 0;
    },
  };
}

type Roll = { table: Int32Array; window: Uint8Array; hash: number; slot: number; mask: number; least: number };

/** The hot loop, over locals only. */
function roll(data: Uint8Array, from: number, to: number, state: Roll): { at: number; hash: number; isCut: boolean } {
  const { table, window, mask, least } = state;
  let { hash, slot } = state;
  for (let at = from; at < to; at += 1) {
    const byte = data[at]!;
    hash = ((hash << 1) | (hash >>> 31)) ^ table[window[slot]!]! ^ table[byte]!;
    window[slot] = byte;
    slot = (slot + 1) & 63;
    if ((hash & mask) >= least) return { at: at + 1, hash, isCut: true };
  }
  return { at: to, hash, isCut: false };
}
