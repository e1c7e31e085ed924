import { execFileSync } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import {
  closeSync,
  copyFileSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  readSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { lstatSync } from 'node:fs';
import { join } from 'node:path';
import type { GuestVolume } from '#core/disk-image/guest-volumes.ts';
import { findVolumes } from '#core/disk-image/guest-volumes.ts';
import { findFile } from '#core/disk-image/find-path.ts';
import type { Reading } from '#core/disk-image/reading.ts';

/** Disks as other programs make them, and the files in them as our readers see them. */
export const mib = 1 << 20;

/** A tree with what file systems treat each in its own way: many names, a large file, holes, long links. Returns its folder. */
export function makeTree(directory: string): string {
  const root = join(directory, 'tree');
  for (const folder of ['etc', 'deep/er/most', 'many']) mkdirSync(join(root, folder), { recursive: true });
  writeFileSync(join(root, 'etc/hostname'), 'hello\n');
  writeFileSync(join(root, 'deep/er/most/big'), randomBytes(5_000_000));
  for (let number = 0; number < 1_500; number += 1) writeFileSync(join(root, `many/a-rather-long-name-${number}`), `${number}`);
  symlinkSync('/etc/hostname', join(root, 'link'));
  symlinkSync('x'.repeat(200), join(root, 'long-link'));
  writeFileSync(join(root, 'holes'), '');
  truncateSync(join(root, 'holes'), 40 * mib);
  writeFileSync(join(root, 'holes'), 'end', { flag: 'a' });
  return root;
}

export function run(...command: [string, ...string[]]): string {
  const [program, ...args] = command;
  return execFileSync(program, args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] });
}

/** Which of these programs are not installed. */
export function lacking(...programs: string[]): string[] {
  return programs.filter((program) => {
    try {
      execFileSync('sh', ['-c', `PATH=$PATH:/sbin:/usr/sbin command -v ${program}`], { stdio: 'ignore' });
      return false;
    } catch {
      return true;
    }
  });
}

export function emptyDisk(path: string, sizeBytes: number): string {
  writeFileSync(path, '');
  truncateSync(path, sizeBytes);
  return path;
}

export function makeExt(path: string, sizeBytes: number, tree: string, ...options: string[]): string {
  run('mke2fs', '-q', ...options, '-d', tree, emptyDisk(path, sizeBytes));
  return path;
}

export function makeXfs(path: string, sizeBytes: number, tree: string, ...options: string[]): string {
  const lines = ['/', '0 0', 'd--755 0 0', ...describeFolder(tree), '$'];
  writeFileSync(`${path}.proto`, `${lines.join('\n')}\n`);
  run('mkfs.xfs', '-q', '-f', ...options, '-p', `${path}.proto`, emptyDisk(path, sizeBytes));
  return path;
}

function describeFolder(folder: string): string[] {
  return readdirSync(folder).flatMap((name) => {
    const path = join(folder, name);
    const stat = lstatSync(path);
    if (stat.isSymbolicLink()) return [`${name} l--777 0 0 ${readlinkSync(path)}`];
    return stat.isDirectory() ? [`${name} d--755 0 0`, ...describeFolder(path), '$'] : [`${name} ---644 0 0 ${path}`];
  });
}

/** Writes `part` into the disk at `at`. */
export function put(disk: string, part: string, at: number, from = 0, bytes = Infinity): void {
  const [target, source] = [openSync(disk, 'r+'), openSync(part, 'r')];
  const room = Buffer.alloc(mib);
  for (let done = 0; done < bytes;) {
    const count = readSync(source, room, 0, Math.min(room.length, bytes - done), from + done);
    if (count === 0) break;
    writeSync(target, room, 0, count, at + done);
    done += count;
  }
  closeSync(target);
  closeSync(source);
}

/** Performs readings on files that are disks. */
export function openDisks(files: Record<string, string>): { read: <T>(reading: Reading<T>) => T; volumes: GuestVolume[] } {
  const open = new Map(Object.entries(files).map(([name, path]) => [name, readFileSync(path)]));
  const read = <T>(reading: Reading<T>): T => readFrom(open, reading);
  return { read, volumes: read(findVolumes([...open].map(([name, { length }]) => ({ name, sizeBytes: length })))) };
}

export function readFrom<T>(disks: ReadonlyMap<string, Uint8Array>, reading: Reading<T>): T {
  let step = reading.next();
  while (step.done !== true) {
    const { disk, at, bytes } = step.value;
    step = reading.next(Uint8Array.from(disks.get(disk)?.subarray(at, at + bytes) ?? []));
  }
  return step.value;
}

/** Digest of a file's content, or its link's target, or a directory's names. */
export function digestOf({ read, volumes }: ReturnType<typeof openDisks>, path: string): string {
  const { fileSystem, node } = read(findFile(volumes, path));
  if (node.kind === 'link') return read(fileSystem.readLink(node));
  if (node.kind === 'directory') return namesDigest(read(fileSystem.list(node)).map(({ name }) => name));
  const hash = createHash('sha256');
  for (let at = 0; at < node.sizeBytes; at += mib) hash.update(read(fileSystem.read(node, at, mib)));
  return hash.digest('hex');
}

/** The same of what really lies there. */
export function digestOfReal(path: string): string {
  const stat = lstatSync(path);
  if (stat.isSymbolicLink()) return readlinkSync(path);
  if (stat.isDirectory()) return namesDigest(readdirSync(path));
  return createHash('sha256').update(readFileSync(path)).digest('hex');
}

function namesDigest(names: string[]): string {
  return names
    .filter((name) => name !== 'lost+found')
    .toSorted()
    .join('\n');
}

export function copyDisk(from: string, to: string): string {
  copyFileSync(from, to);
  return to;
}
