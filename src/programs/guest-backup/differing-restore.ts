import type { ChunkPool } from '#adapters/backup-client/chunk-pool.ts';
import type { SnapshotSource } from '#adapters/backup-client/snapshot-source.ts';
import { connectNbd, type NbdClient } from '#adapters/nbd/nbd-client.ts';
import { limits } from '#base/limits.ts';
import { isSameBytes } from '#core/backup/bytes.ts';
import type { ChunkIndex } from '#core/backup/chunk-index.ts';
import type { NbdPlace } from '#ports/guest-storage.ts';

export type DifferingRestore = {
  source: Pick<SnapshotSource, 'pieces'>;
  /** With the key of the backup: digests are made with it. */
  pool: Pick<ChunkPool, 'take'>;
  name: string;
  index: ChunkIndex;
  width: number;
  onProgress: (doneBytes: number) => void;
};

/**
 * Makes the disk at `place` what the image is: what lies there is read and compared by digests, and only what differs is fetched and written. Returns
 * how many bytes that was, durably. Raises AppError; the disk is part old and part new then.
 */
export async function restoreDifferences(place: NbdPlace, order: DifferingRestore): Promise<number> {
  const { source, name, index, width, onProgress } = order;
  const nbd = await connectNbd(place.socketPath, place.exportName, { deadlineMs: limits.nbdRequestMs });
  try {
    const pieces = source.pieces(name, index);
    let [next, doneBytes, changedBytes, isFailed] = [0, 0, 0, false];
    const work = async (): Promise<void> => {
      while (next < pieces.count && !isFailed) {
        const piece = pieces.at(next);
        next += 1;
        if (await bring(nbd, piece, order.pool)) changedBytes += piece.sizeBytes;
        onProgress((doneBytes += piece.sizeBytes));
      }
    };
    const works = Array.from({ length: width }, () =>
      work().catch((error: unknown) => {
        isFailed = true;
        throw error;
      }),
    );
    for (const result of await Promise.allSettled(works)) if (result.status === 'rejected') throw result.reason;
    await nbd.flush();
    return changedBytes;
  } finally {
    nbd.close();
  }
}

type PieceRef = ReturnType<ReturnType<SnapshotSource['pieces']>['at']>;

/** True when the piece had to be written. */
async function bring(nbd: NbdClient, piece: PieceRef, pool: Pick<ChunkPool, 'take'>): Promise<boolean> {
  const { start, sizeBytes, isZero } = piece;
  if (await isThere(nbd, piece, pool)) return false;
  if (isZero) await nbd.writeZeroes(start, sizeBytes);
  else await nbd.write(start, await piece.fetch());
  return true;
}

async function isThere(nbd: NbdClient, piece: PieceRef, pool: Pick<ChunkPool, 'take'>): Promise<boolean> {
  const { start, sizeBytes, isZero, digest } = piece;
  const [extent] = await nbd.readExtents(start, sizeBytes);
  const isHole = extent !== undefined && extent.zero && extent.length >= sizeBytes;
  if (isHole) return isZero;
  // A buffer of its own: it changes hands.
  const room = new ArrayBuffer(sizeBytes);
  new Uint8Array(room).set(await nbd.read(start, sizeBytes));
  const held = await pool.take(room, sizeBytes, () => {});
  await held.drop();
  return isSameBytes(held.digest, digest);
}
