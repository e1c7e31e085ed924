import { joinBytes } from './bytes.ts';
import { createChunker } from './chunker.ts';

/** Cuts a stream into chunks; `push` returns those that are complete, `end` the last one. */
export type Cutter = { push(bytes: Uint8Array): Uint8Array[]; end(): Uint8Array | null };

/** Chunks where the content says so. What is pushed must not change afterwards. */
export function createDynamicCutter(averageBytes: number): Cutter {
  const chunker = createChunker(averageBytes);
  let parts: Uint8Array[] = [];
  const take = (): Uint8Array => {
    const chunk = parts.length === 1 ? parts[0]! : joinBytes(parts);
    parts = [];
    return chunk;
  };
  return {
    push(bytes) {
      const chunks: Uint8Array[] = [];
      let left = bytes;
      while (left.length > 0) {
        const cut = chunker.scan(left);
        parts.push(cut === 0 ? left : left.subarray(0, cut));
        if (cut === 0) break;
        chunks.push(take());
        left = left.subarray(cut);
      }
      return chunks;
    },
    end: () => (parts.length === 0 ? null : take()),
  };
}
