import { execFileSync } from 'node:child_process';
import { closeSync, existsSync, mkdirSync, openSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { open } from 'node:fs/promises';
import { join } from 'node:path';
import { createChance } from '#core/ha/seeded-chance.ts';

const mebibyte = 1024 * 1024;
const kernelPackage = 'linux-source-6.1';
/** Part of an image that is filled; the rest is free space of its file system, as in a guest that has room. */
const filledShare = 0.55;

/** Installs what the comparison needs and says so. */
export function installPackages(names: readonly string[]): void {
  const missing = names.filter((name) => {
    try {
      return !execFileSync('dpkg-query', ['-W', '-f', '${db:Status-Status}', name], {
        encoding: 'utf8',
        stdio: 'pipe',
      }).startsWith('inst');
    } catch {
      return true;
    }
  });
  if (missing.length === 0) return;
  process.stdout.write(`installing ${missing.join(' ')}\n`);
  const env = { ...process.env, DEBIAN_FRONTEND: 'noninteractive' };
  execFileSync('apt-get', ['install', '-y', '-q', '--no-install-recommends', ...missing], {
    env,
    stdio: ['ignore', 'ignore', 'inherit'],
  });
}

/** Packages that the source tree comes from. */
export const dataPackages: readonly string[] = [kernelPackage, 'e2fsprogs', 'xz-utils'];

/** The sources of Debian's kernel, `parts` of them or all. */
export function makeSourceTree(folder: string, parts: readonly string[]): string {
  const tree = join(folder, 'tree');
  if (existsSync(tree)) return tree;
  mkdirSync(tree);
  const wanted = parts.map((part) => `${kernelPackage}/${part}`);
  execFileSync('tar', ['-xJf', `/usr/src/${kernelPackage}.tar.xz`, '-C', tree, '--strip-components=1', ...wanted]);
  return tree;
}

/** An ext4 file system of `mib` MiB with programs, libraries and documents of this machine's /usr, in the order of their names. */
export function makeGuestImage(folder: string, mib: number): string {
  const image = join(folder, 'guest.raw');
  if (existsSync(image)) return image;
  const staging = join(folder, 'staging');
  const list = join(folder, 'staging.list');
  mkdirSync(staging);
  const lines = execFileSync('find', ['/usr', '-xdev', '-type', 'f', '-size', '-64M', '-printf', '%s %P\n'], {
    encoding: 'utf8',
    maxBuffer: 512 * mebibyte,
  });
  let left = mib * mebibyte * filledShare;
  const chosen = lines
    .trimEnd()
    .split('\n')
    .map((line) => ({ bytes: Number(line.slice(0, line.indexOf(' '))), path: line.slice(line.indexOf(' ') + 1) }))
    .toSorted((a, b) => (a.path < b.path ? -1 : 1))
    .filter(({ bytes }) => (left -= bytes + 4_096) > 0);
  writeFileSync(list, chosen.map(({ path }) => `${path}\n`).join(''));
  execFileSync('sh', ['-c', 'tar -C /usr -cf - -T "$1" | tar -C "$2" -xf -', 'sh', list, staging]);
  truncateSync(openedEmpty(image), mib * mebibyte);
  execFileSync('mke2fs', ['-q', '-t', 'ext4', '-d', staging, image], { stdio: ['ignore', 'ignore', 'inherit'] });
  rmSync(staging, { recursive: true });
  rmSync(list);
  return image;
}

/** Writes to an image. */
export type WriteAt = (at: number, data: Uint8Array) => Promise<void>;

/** Overwrites `percent` of an image of `mib` MiB in runs of `runBytes` with seeded bytes, half of them random, at seeded places. */
export async function changeImage(
  write: WriteAt,
  { mib, percent, runBytes, seed }: { mib: number; percent: number; runBytes: number; seed: number },
): Promise<void> {
  const chance = createChance(seed);
  const runs = Math.round((mib * mebibyte * percent) / 100 / runBytes);
  for (let run = 0; run < runs; run += 1) {
    const bytes = Buffer.alloc(runBytes, `row ${run} of change ${seed};`);
    for (let at = 0; at < runBytes / 2; at += 1) bytes[at] = Math.floor(chance() * 256);
    await write(Math.floor((chance() * (mib * mebibyte - runBytes)) / 4_096) * 4_096, bytes);
  }
}

/** Writes to a file itself. */
export function writeTo(image: string): WriteAt {
  return async (at, data) => {
    const file = await open(image, 'r+');
    await file.write(data, 0, data.length, at);
    await file.close();
  };
}

function openedEmpty(path: string): string {
  closeSync(openSync(path, 'wx'));
  return path;
}
