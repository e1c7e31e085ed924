import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { chmodSync, chownSync, linkSync, mkdirSync, symlinkSync, utimesSync, writeFileSync } from 'node:fs';
import { resolve } from 'node:path';
import { readXattrs, writeXattr } from '#adapters/backup-client/native.ts';

/** Trees for tests, below the working directory. */
const at = (name: string): string => resolve(name);
const isRoot = process.geteuid?.() === 0;

/** Everything a tree can hold, names that are no UTF-8 included. */
export function writeTree(name: string): void {
  const root = Buffer.from(at(name));
  const below = (path: string | Buffer): Buffer => Buffer.concat([root, Buffer.from('/'), Buffer.from(path)]);
  mkdirSync(below('empty'), { recursive: true });
  mkdirSync(below('deep/er/still'), { recursive: true });
  writeFileSync(
    below('deep/er/large'),
    Buffer.concat([randomBytes(9 * 1024 * 1024), Buffer.from('text that repeats '.repeat(100_000))]),
  );
  writeFileSync(below('deep/er/still/small'), `a small file`);
  writeFileSync(below('nothing'), '');
  writeFileSync(below(Buffer.from('no-utf8-\xff\xfe', 'latin1')), 'bytes');
  symlinkSync('../nothing', below('deep/link'));
  symlinkSync('/nowhere/at/all', below('dangling'));
  linkSync(below('deep/er/large'), below('again'));
  for (let number = 0; number < 300; number += 1) writeFileSync(below(`many-${number}`), 'x'.repeat(number));
  chmodSync(below('many-7'), 0o4751);
  chmodSync(below('empty'), 0o1770);
  spawnSync('mkfifo', [below('pipe').toString()]);
  if (hasXattrs()) writeXattr(below('nothing'), Buffer.from('user.note'), Buffer.from('kept'));
  if (isRoot) {
    chownSync(below('many-8'), 12_345, 54_321);
    spawnSync('mknod', [below('null').toString(), 'c', '1', '3']);
  }
  utimesSync(below('many-9'), 1_000_000_000.5, 1_000_000_000.5);
  utimesSync(below('deep'), -86_400, -86_400);
}

/** Not every file system of a machine that runs tests has them. */
export function hasXattrs(): boolean {
  writeFileSync(at('probe'), '');
  try {
    writeXattr(Buffer.from(at('probe')), Buffer.from('user.probe'), Buffer.from('x'));
    return true;
  } catch {
    return false;
  }
}

export function noteOf(tree: string): string {
  return readXattrs(Buffer.from(at(`${tree}/nothing`)))
    .map(({ name, value }) => `${name.toString()}=${value.toString()}`)
    .join();
}

/** Names, kinds, modes, owners, sizes, times and links of a tree, and the digest of every content. */
export function describeTree(name: string): string {
  const list = spawnSync(
    'sh',
    ['-c', "find . -printf '%P %y %m %U %G %s %T@ %l %n\\n' | sort; find . -type f -exec sha256sum {} + | sort"],
    { cwd: at(name), encoding: 'latin1' },
  );
  assert.equal(list.status, 0, list.stderr);
  return list.stdout.replaceAll(/^(.*) d (\d+) (\d+) (\d+) \d+ /gm, '$1 d $2 $3 $4 - '); // sizes of directories are the file system's
}
