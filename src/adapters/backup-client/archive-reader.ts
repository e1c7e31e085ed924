import { findChunk, spanAt, type ChunkIndex } from '#core/backup/chunk-index.ts';
import type { SnapshotSource } from './snapshot-source.ts';

/** Chunks that are kept, and how many are fetched ahead of somebody who reads on. */
const keptChunks = 24;
const aheadChunks = 4;

/** Any bytes of an archive. */
export type ArchiveReader = { sizeBytes: number; read(at: number, bytes: number): Promise<Uint8Array> };

/** Reads an archive at any place, with what was read last at hand. Raises AppError; what failed is asked for again the next time. */
export function openArchive(source: Pick<SnapshotSource, 'pieces'>, name: string, index: ChunkIndex): ArchiveReader {
  const pieces = source.pieces(name, index);
  const kept = new Map<number, Promise<Uint8Array>>(); // the newest last
  let newest = -1;

  function chunk(number: number): Promise<Uint8Array> {
    const known = kept.get(number);
    kept.delete(number);
    const piece = pieces.at(number);
    const data = known ?? (piece.isZero ? Promise.resolve(new Uint8Array(piece.sizeBytes)) : piece.fetch());
    kept.set(number, data);
    if (known === undefined) data.catch(() => kept.delete(number));
    for (const oldest of kept.keys()) {
      if (kept.size <= keptChunks) break;
      kept.delete(oldest);
    }
    return data;
  }

  function readAhead(number: number): void {
    if (number === newest + 1) {
      const last = Math.min(index.count - 1, number + aheadChunks);
      for (let next = number + 1; next <= last; next += 1) if (!kept.has(next)) chunk(next).catch(() => {});
    }
    newest = number;
  }

  return {
    sizeBytes: index.sizeBytes,
    async read(at, bytes) {
      const end = Math.min(at + bytes, index.sizeBytes);
      const result = new Uint8Array(Math.max(0, end - at));
      for (let place = at; place < end;) {
        const number = findChunk(index, place);
        const span = spanAt(index, number);
        const wanted = chunk(number);
        if (number !== newest) readAhead(number);
        const data = await wanted;
        const part = data.subarray(place - span.start, Math.min(span.end, end) - span.start);
        result.set(part, place - at);
        place += part.length;
      }
      return result;
    },
  };
}
