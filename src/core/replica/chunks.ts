/**
 * Compare by chunk: each disk is cut into chunks of `chunkBytes`, each told by `digestBytes` bytes. A chunk of zeroes has the
 * digest of all zeroes, so that holes need not be read. Tables are the digests one after another.
 */
export const chunkBytes = 65_536;
export const digestBytes = 16;

/** What to do with one run of equal neighbours. Offsets in chunks. */
export type ChunkRun = { kind: 'data' | 'zero'; first: number; count: number };

/** How many chunks a disk of `sizeBytes` has; the last one may be short. */
export function countChunks(sizeBytes: number): number {
  return Math.ceil(sizeBytes / chunkBytes);
}

/**
 * Runs of chunks that must be written to make the `target` equal to the `source`. Where the target's table ends (a smaller disk
 * or no copy at all) it counts as zeroes.
 */
export function planChunks(source: Uint8Array, target: Uint8Array, longestRun: number): ChunkRun[] {
  const runs: ChunkRun[] = [];
  for (let chunk = 0; chunk * digestBytes < source.length; chunk += 1) {
    if (digestsEqual(source, target, chunk)) continue;
    const kind = isZeroDigest(source, chunk) ? 'zero' : 'data';
    const last = runs.at(-1);
    if (last !== undefined && last.kind === kind && last.first + last.count === chunk && last.count < longestRun) last.count += 1;
    else runs.push({ kind, first: chunk, count: 1 });
  }
  return runs;
}

/** How many chunks two tables differ in; a shorter table counts as zeroes where it ends. */
export function countDiffering(a: Uint8Array, b: Uint8Array): number {
  let differing = 0;
  for (let chunk = 0; chunk * digestBytes < Math.max(a.length, b.length); chunk += 1) {
    if (!digestsEqual(a, b, chunk)) differing += 1;
  }
  return differing;
}

function digestsEqual(a: Uint8Array, b: Uint8Array, chunk: number): boolean {
  const from = chunk * digestBytes;
  for (let index = from; index < from + digestBytes; index += 1) {
    if ((a[index] ?? 0) !== (b[index] ?? 0)) return false;
  }
  return true;
}

function isZeroDigest(table: Uint8Array, chunk: number): boolean {
  const from = chunk * digestBytes;
  for (let index = from; index < from + digestBytes; index += 1) {
    if (table[index] !== 0) return false;
  }
  return true;
}
