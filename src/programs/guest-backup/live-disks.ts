import { open, readFile, rename, type FileHandle } from 'node:fs/promises';
import type { TargetFile } from '#adapters/backup-client/chunk-jobs.ts';
import { openDirect } from '#adapters/backup-client/image-restore.ts';
import { createChunkBook, encodeChunkMap, isInChunkMap, type ChunkBook } from '#core/guest-backup/chunk-book.ts';
import type { ArrivingDisk } from '#ports/guest-storage.ts';

/** A disk that is being filled. `first`: the number of its first chunk among all disks' chunks. */
export type LiveDisk = ArrivingDisk & { first: number; count: number; file: FileHandle; target: TargetFile };

export type LiveDisks = AsyncDisposable & {
  disks: LiveDisk[];
  book: ChunkBook;
  totalBytes: number;
  /** The disk of a chunk, and its number there. */
  find(chunk: number): { disk: LiveDisk; at: number };
  sizeOf(chunk: number): number;
  /** Makes durable what has arrived, and then writes down that it has. */
  save(): Promise<void>;
};

/** Opens the lowest layers, with what has arrived in them before. */
export async function openLiveDisks(arriving: readonly ArrivingDisk[]): Promise<LiveDisks> {
  const disks: LiveDisk[] = [];
  const handles: FileHandle[] = [];
  const maps: Uint8Array[] = [];
  let first = 0;
  for (const disk of arriving) {
    const file = await open(disk.path, 'r+');
    const direct = await openDirect(file);
    const count = Math.ceil(disk.sizeBytes / disk.chunkBytes);
    disks.push({ ...disk, first, count, file, target: { fd: file.fd, direct: direct?.fd ?? null } });
    handles.push(...(direct === null ? [] : [direct]), file);
    // Without a map nothing is believed to be there.
    maps.push(await readFile(disk.mapPath).catch(() => new Uint8Array()));
    first += count;
  }
  function find(chunk: number): { disk: LiveDisk; at: number } {
    const disk = disks.findLast((candidate) => candidate.first <= chunk);
    if (disk === undefined) throw new RangeError(`there is no chunk ${chunk}`);
    return { disk, at: chunk - disk.first };
  }
  const book = createChunkBook(first, (chunk) => {
    const { disk, at } = find(chunk);
    return isInChunkMap(maps[disks.indexOf(disk)] ?? new Uint8Array(), at);
  });
  let savedChunks = book.here;
  return {
    disks,
    book,
    totalBytes: disks.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0),
    find,
    sizeOf(chunk) {
      const { disk, at } = find(chunk);
      return Math.min(disk.chunkBytes, disk.sizeBytes - at * disk.chunkBytes);
    },
    async save() {
      const { here } = book;
      if (here === savedChunks) return;
      for (const disk of disks) {
        const map = encodeChunkMap(book, disk.first, disk.count);
        await disk.file.datasync();
        await replaceMap(disk.mapPath, map);
      }
      savedChunks = here;
    },
    async [Symbol.asyncDispose]() {
      for (const handle of handles) await handle.close();
    },
  };
}

async function replaceMap(path: string, map: Uint8Array): Promise<void> {
  const temporary = `${path}.tmp`;
  const file = await open(temporary, 'w', 0o600);
  try {
    await file.writeFile(map);
    await file.datasync();
  } finally {
    await file.close();
  }
  await rename(temporary, path);
}
