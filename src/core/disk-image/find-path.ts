import { AppError } from '#base/error.ts';
import type { FileNode, FileSystem } from './file-system.ts';
import type { GuestVolume } from './guest-volumes.ts';
import type { Reading } from './reading.ts';

/** A file, and the volume that it lies in. */
export type FoundFile = { volume: GuestVolume; fileSystem: FileSystem; node: FileNode; name: string };

/** The volume that a path begins with, and what follows of it. Raises AppError missing, naming those that there are. */
export function splitPath(volumes: readonly GuestVolume[], path: string): { volume: GuestVolume; inside: string[] } {
  const clean = path.split('/').filter((part) => part !== '' && part !== '.');
  for (const volume of volumes.toSorted((a, b) => b.name.length - a.name.length)) {
    const own = volume.name.split('/');
    if (own.every((part, index) => part === clean[index])) return { volume, inside: clean.slice(own.length) };
  }
  const known = volumes.map(({ name }) => name).join(', ');
  throw new AppError('missing', `path: ${JSON.stringify(path)} begins with no volume of the backup; there are: ${known}`);
}

/** Goes down the path; a symbolic link is not followed. Raises AppError missing or invalid, naming how far it came. */
export function* findFile(volumes: readonly GuestVolume[], path: string): Reading<FoundFile> {
  const { volume, inside } = splitPath(volumes, path);
  const { fileSystem } = volume;
  if (fileSystem === null) throw new AppError('unsupported', `path: ${volume.name} has no files to read: ${volume.because}`);
  let node = yield* fileSystem.look(fileSystem.rootId);
  let name = volume.name.replaceAll('/', '-');
  for (const [index, part] of inside.entries()) {
    const here = [volume.name, ...inside.slice(0, index)].join('/');
    if (node.kind !== 'directory') throw new AppError('invalid', `path: ${here} is a ${node.kind}, not a directory`);
    const entry = (yield* fileSystem.list(node)).find((candidate) => candidate.name === part);
    if (entry === undefined) throw new AppError('missing', `path: ${here} has no ${JSON.stringify(part)}`);
    node = yield* fileSystem.look(entry.id);
    name = part;
  }
  return { volume, fileSystem, node, name };
}
