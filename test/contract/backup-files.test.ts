import assert from 'node:assert/strict';
import { existsSync, mkdirSync, readFileSync, readlinkSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { startBackupPlace, type BackupPlace } from './backup-command-parts.ts';
import { digestOfReal, makeExt, makeTree, mib } from './checker/disk-images.ts';

/** Single files out of an image that lies encrypted on a backup server. */
let place: BackupPlace;
let tree: string;
before(async () => {
  place = await startBackupPlace();
  tree = makeTree(place.folder);
  makeExt(join(place.folder, 'work/disk.raw'), 100 * mib, tree, '-t', 'ext4', '-L', 'system');
  assert.equal((await place.run(['key', 'create', 'key.json', '--kdf', 'none'])).code, 0);
  const made = await place.run(['create', 'drive-disk0.img:disk.raw', '--backup-id', '101', '--keyfile', 'key.json']);
  assert.equal(made.code, 0, made.err);
});
after(async () => {
  await place[Symbol.asyncDispose]();
});

test('volumes and directories are listed, files and trees fetched, and nothing is written over', async () => {
  const files = (...args: string[]) => place.run(['files', 'host/101', '--keyfile', 'key.json', ...args]);
  const volumes = await files('--list', '--json');
  assert.equal(volumes.code, 0, volumes.err);
  const [volume] = JSON.parse(volumes.out) as { name: string; fileSystem: string; label: string }[];
  assert.deepEqual([volume?.name, volume?.fileSystem, volume?.label], ['disk0', 'ext4', 'system']);
  const list = await files('--list', 'disk0/etc');
  assert.match(list.out, /hostname +6 B? *0644/);

  const out = join(place.folder, 'work/out');
  const fetched = await files('--get', 'disk0/deep', 'disk0/holes', 'disk0/long-link', '--to', 'out');
  assert.equal(fetched.code, 0, fetched.err);
  assert.equal(digestOfReal(join(out, 'deep/er/most/big')), digestOfReal(join(tree, 'deep/er/most/big')));
  assert.equal(digestOfReal(join(out, 'holes')), digestOfReal(join(tree, 'holes')));
  assert.ok(statSync(join(out, 'holes')).blocks * 512 < 8 * mib, 'holes stay holes');
  assert.equal(readlinkSync(join(out, 'long-link')), 'x'.repeat(200));

  mkdirSync(join(out, 'etc'));
  const again = await files('--get', 'disk0/etc', '--to', 'out');
  assert.notEqual(again.code, 0);
  assert.match(again.err, /exists already; nothing is written over/);
  assert.equal(existsSync(join(out, 'etc/hostname')), false);
  const wrong = await files('--list', 'disk0/etc/none');
  assert.match(wrong.err, /disk0\/etc has no "none"/);
  const none = await files('--list', 'disk9/etc');
  assert.match(none.err, /there are: disk0/);
  const bare = await files();
  assert.match(bare.err, /say --list/);
  const keyless = await place.run(['files', 'host/101', '--list']);
  assert.notEqual(keyless.code, 0);
  assert.equal(readFileSync(join(tree, 'etc/hostname'), 'utf8'), 'hello\n');
});
