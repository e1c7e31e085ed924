import { openSnapshot, restoreWidth, type SnapshotSource } from '#adapters/backup-client/snapshot-source.ts';
import { nodeBytes } from '#adapters/bytes/node-bytes.ts';
import { AppError } from '#base/error.ts';
import { formatHex } from '#core/backup/bytes.ts';
import { computeIndexCsum, type ChunkIndex } from '#core/backup/chunk-index.ts';
import { diskArchiveName } from '#core/guest-backup/guest-blob.ts';
import type { Arrival } from '#core/storage/arrival.ts';
import { clientWorkers } from '#programs/backup-client/workers.ts';
import { openGuestBackup } from '#programs/guest-backup/choose-snapshot.ts';
import type { LiveDisk } from '#programs/guest-backup/live-disks.ts';
import type { TargetAccess } from '#programs/guest-backup/upload-messages.ts';

/** How a disk's content is cut up in a backup; see Arrival. Raises AppError invalid for one that cannot be filled in at any place. */
export function describeDiskIndex(name: string, index: ChunkIndex): { chunkBytes: number; csum: string } {
  if (index.kind !== 'fixed') throw new AppError('invalid', `${name}: it is not cut into chunks of one size`);
  return { chunkBytes: index.chunkBytes, csum: formatHex(computeIndexCsum(index.records, nodeBytes)) };
}

/** A backup that content comes from. */
export type LiveSource = AsyncDisposable & {
  width: number;
  /** Chunk `at` of a disk; `fetch` writes it to its place. */
  piece(disk: LiveDisk, at: number): { isZero: boolean; fetch(): Promise<void> };
};

/** Opens the backup and makes sure that it is the very one that the disks began with. Raises AppError. `signal` cuts everything off. */
export async function openLiveSource(
  access: TargetAccess,
  { from, target }: Arrival,
  disks: readonly LiveDisk[],
  expected: Arrival['disks'],
  signal: AbortSignal,
): Promise<LiveSource> {
  const { session } = await openGuestBackup(access, from, signal);
  const pool = clientWorkers.startPool(access.key);
  const end = async (): Promise<void> => {
    session[Symbol.dispose]();
    await pool[Symbol.asyncDispose]();
  };
  try {
    const source = await openSnapshot(session, access.key, pool, nodeBytes);
    const pieces = new Map<string, ReturnType<SnapshotSource['pieces']>>();
    for (const { name, sizeBytes } of disks) {
      const archive = diskArchiveName(name);
      const index = await source.openIndex(archive);
      const { chunkBytes, csum } = describeDiskIndex(archive, index);
      const known = expected[name];
      if (index.sizeBytes !== sizeBytes || chunkBytes !== known?.chunkBytes || csum !== known.csum)
        throw new AppError('conflict', `${archive} on ${target}: this is another backup than the one that the disk began with`);
      pieces.set(name, source.pieces(archive, index));
    }
    return {
      width: restoreWidth(pool),
      piece(disk, at) {
        const piece = pieces.get(disk.name)?.at(at);
        if (piece === undefined) throw new RangeError(`there is no disk ${disk.name}`);
        return { isZero: piece.isZero, fetch: () => piece.fetchInto(disk.target) };
      },
      [Symbol.asyncDispose]: end,
    };
  } catch (error) {
    await end();
    throw error;
  }
}
