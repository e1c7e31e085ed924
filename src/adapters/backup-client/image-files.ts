import { lutimes, mkdir, open, symlink, utimes } from 'node:fs/promises';
import { join } from 'node:path';
import { AppError, formatErrorChain, isAppError } from '#base/error.ts';
import type { FileNode, FileSystem } from '#core/disk-image/file-system.ts';
import type { FoundFile } from '#core/disk-image/find-path.ts';
import type { ReadAsk, Reading } from '#core/disk-image/reading.ts';
import type { ArchiveReader } from './archive-reader.ts';

/** Performs a reading on a guest's disks. */
export type ReadImages = <T>(reading: Reading<T>) => Promise<T>;

export function readImages(archives: ReadonlyMap<string, ArchiveReader>): ReadImages {
  return async <T>(reading: Reading<T>): Promise<T> => {
    let step: IteratorResult<ReadAsk, T> = reading.next();
    while (step.done !== true) {
      const { disk, at, bytes } = step.value;
      const data = (await archives.get(disk)?.read(at, bytes)) ?? new Uint8Array();
      if (data.length !== bytes) throw new AppError('invalid', `read the image: ${disk} ends before ${at + bytes}`);
      step = reading.next(data);
    }
    return step.value;
  };
}

const pieceBytes = 4 << 20;
/** Deeper than any path a kernel takes. */
const deepest = 512;

export type Extracted = { files: number; bytes: number; notes: string[] };

/**
 * Writes a file, or a directory with all below it, to `to`, which must not exist. Owners, setuid bits and devices are left out; what cannot be read
 * is noted and passed over. Raises AppError when nothing can be written.
 */
export async function extractFile(
  images: ReadImages,
  { fileSystem, node }: FoundFile,
  to: string,
  onProgress: (path: string, bytes: number) => void,
): Promise<Extracted> {
  const done: Extracted = { files: 0, bytes: 0, notes: [] };

  async function write(file: FileNode, path: string, above: readonly number[]): Promise<void> {
    switch (file.kind) {
      case 'directory':
        return await writeDirectory(file, path, above);
      case 'file':
        return await writeFile(file, path);
      case 'link':
        await symlink(await images(fileSystem.readLink(file)), path);
        await lutimes(path, file.mtimeMs / 1_000, file.mtimeMs / 1_000);
        return;
      case 'other':
        done.notes.push(`${path}: it is no file, directory or link`);
    }
  }

  async function writeDirectory(directory: FileNode, path: string, above: readonly number[]): Promise<void> {
    if (above.includes(directory.id) || above.length > deepest) return void done.notes.push(`${path}: it lies in itself`);
    await mkdir(path, { mode: 0o700 });
    for (const { name, id } of await images(fileSystem.list(directory))) {
      const problem = whyUnsafe(name);
      if (problem !== null) done.notes.push(`${path}: ${JSON.stringify(name)} ${problem}`);
      else await tryWrite(id, join(path, name), [...above, directory.id]);
    }
    await utimes(path, directory.mtimeMs / 1_000, directory.mtimeMs / 1_000);
  }

  async function tryWrite(id: number, path: string, above: readonly number[]): Promise<void> {
    try {
      await write(await images(fileSystem.look(id)), path, above);
    } catch (error) {
      if (!isAppError(error, 'invalid', 'unsupported')) throw error;
      done.notes.push(`${path}: ${formatErrorChain(error)}`);
    }
  }

  async function writeFile(file: FileNode, path: string): Promise<void> {
    // Never through a link, and never over anything.
    await using handle = await open(path, 'wx', (file.mode ?? 0o600) & 0o777);
    for (let at = 0; at < file.sizeBytes; at += pieceBytes) {
      const data = await images(fileSystem.read(file, at, Math.min(pieceBytes, file.sizeBytes - at)));
      if (data.some((byte) => byte !== 0)) await handle.write(data, 0, data.length, at);
      done.bytes += data.length;
      onProgress(path, done.bytes);
    }
    await handle.truncate(file.sizeBytes);
    await handle.utimes(file.mtimeMs / 1_000, file.mtimeMs / 1_000);
    done.files += 1;
  }

  try {
    await write(node, to, []);
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code !== 'EEXIST') throw cause;
    throw new AppError('conflict', `to: ${to} exists already; nothing is written over`, { cause });
  }
  return done;
}

function whyUnsafe(name: string): string | null {
  if (name === '' || name === '.' || name === '..') return 'is no name of a file';
  return name.includes('/') || name.includes('\0') ? 'is no name of a file' : null;
}

/** A file as a line of a list tells it. */
export type ListedFile = { name: string; node: FileNode; link: string | null };

/** What a directory holds, or the file itself. One entry that cannot be read is left out and noted. */
export async function listFile(
  images: ReadImages,
  { fileSystem, node, name }: FoundFile,
): Promise<{ files: ListedFile[]; notes: string[] }> {
  if (node.kind !== 'directory') return { files: [await describe(images, fileSystem, name, node)], notes: [] };
  const [files, notes]: [ListedFile[], string[]] = [[], []];
  for (const entry of await images(fileSystem.list(node))) {
    try {
      files.push(await describe(images, fileSystem, entry.name, await images(fileSystem.look(entry.id))));
    } catch (error) {
      if (!isAppError(error, 'invalid', 'unsupported')) throw error;
      notes.push(`${entry.name}: ${formatErrorChain(error)}`);
    }
  }
  return { files: files.toSorted((a, b) => (a.name < b.name ? -1 : 1)), notes };
}

async function describe(images: ReadImages, fileSystem: FileSystem, name: string, node: FileNode): Promise<ListedFile> {
  return { name, node, link: node.kind === 'link' ? await images(fileSystem.readLink(node)) : null };
}
