import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { isAppError } from '#base/error.ts';
import type { FileNode, FileSystem } from '#core/disk-image/file-system.ts';
import { findFile } from '#core/disk-image/find-path.ts';
import { findVolumes } from '#core/disk-image/guest-volumes.ts';
import { createChance } from '#core/ha/seeded-chance.ts';
import * as images from './checker/disk-images.ts';
import { lvmHead } from './checker/lvm-head.ts';

const { mib } = images;
const paths = ['', 'etc/hostname', 'deep/er/most/big', 'many', 'many/a-rather-long-name-1499', 'holes'];
const links = ['link', 'long-link'];
let folder: string;
let tree: string;
before(() => {
  folder = mkdtempSync(join(tmpdir(), 'holdfast-images-'));
  tree = images.makeTree(folder);
});
after(() => rmSync(folder, { recursive: true, force: true }));

function mustBeTree(disks: Record<string, string>, volume: string, more = links): void {
  const seen = images.openDisks(disks);
  for (const path of [...paths, ...more]) {
    assert.equal(images.digestOf(seen, `${volume}/${path}`), images.digestOfReal(join(tree, path)), `${volume}/${path}`);
  }
}

test('ext4, ext2 with small blocks and xfs of both versions give every file as it is', (t) => {
  mustBeTree({ disk0: images.makeExt(join(folder, 'ext4'), 100 * mib, tree, '-t', 'ext4') }, 'disk0');
  mustBeTree({ disk0: images.makeExt(join(folder, 'ext2'), 60 * mib, tree, '-t', 'ext2', '-b', '1024') }, 'disk0');
  const lacks = images.lacking('mkfs.xfs');
  if (lacks.length > 0) return t.skip(`${lacks.join(', ')} is not installed: xfs was not tried`);
  mustBeTree({ disk0: images.makeXfs(join(folder, 'xfs5'), 400 * mib, tree) }, 'disk0');
  mustBeTree({ disk0: images.makeXfs(join(folder, 'xfs4'), 400 * mib, tree, '-m', 'crc=0') }, 'disk0');
});

test('ntfs gives its files, also when their runs are many', (t) => {
  const lacks = images.lacking('mkntfs', 'ntfscp');
  if (lacks.length > 0) return t.skip(`${lacks.join(', ')} is not installed`);
  const disk = images.emptyDisk(join(folder, 'ntfs'), 60 * mib);
  images.run('mkntfs', '-q', '-F', '-f', '-L', 'Daten', disk);
  images.run('ntfscp', '-f', disk, join(tree, 'etc/hostname'), 'hostname');
  images.run('ntfscp', '-f', disk, join(tree, 'deep/er/most/big'), 'big');
  const seen = images.openDisks({ disk0: disk });
  assert.equal(seen.volumes[0]?.fileSystem?.label, 'Daten');
  assert.equal(images.digestOf(seen, 'disk0/big'), images.digestOfReal(join(tree, 'deep/er/most/big')));
  assert.equal(images.digestOf(seen, 'disk0/hostname'), images.digestOfReal(join(tree, 'etc/hostname')));
});

test('partitions of both tables are found, and a logical volume over two runs', (t) => {
  const lacks = images.lacking('sfdisk');
  if (lacks.length > 0) return t.skip(`${lacks.join(', ')} is not installed`);
  const ext4 = images.makeExt(join(folder, 'part'), 100 * mib, tree, '-t', 'ext4');
  const gpt = images.emptyDisk(join(folder, 'gpt'), 200 * mib);
  images.run(
    'sh',
    '-c',
    `printf 'label: gpt\\nstart=1MiB,size=20MiB\\nstart=40MiB,size=100MiB,name="root"\\n' | sfdisk -q ${gpt}`,
  );
  images.put(gpt, ext4, 40 * mib);
  const mbr = images.emptyDisk(join(folder, 'mbr'), 200 * mib);
  const table =
    'label: dos\\n1: start=1MiB,size=9MiB\\n2: start=10MiB,size=180MiB,type=5\\n5: start=11MiB,size=20MiB\\n6: start=40MiB,size=100MiB\\n';
  images.run('sh', '-c', `printf '${table}' | sfdisk -q ${mbr}`);
  images.put(mbr, ext4, 40 * mib);
  mustBeTree({ disk0: gpt, disk1: mbr }, 'disk0/2');
  mustBeTree({ disk0: gpt, disk1: mbr }, 'disk1/6');

  const lvm = images.emptyDisk(join(folder, 'lvm'), 150 * mib);
  writeFileSync(`${lvm}.head`, lvmHead);
  images.put(lvm, `${lvm}.head`, 0);
  images.put(lvm, ext4, 41 * mib, 0, 20 * mib);
  images.put(lvm, ext4, 65 * mib, 20 * mib);
  mustBeTree({ disk0: lvm }, 'lvm/vg0/root');
  const names = images.openDisks({ disk0: lvm, disk1: gpt }).volumes.map(({ name, because }) => `${name} ${because}`);
  assert.deepEqual(names, [
    'disk0 a physical volume of LVM',
    'disk1/1 nothing that is known here',
    'disk1/2 ext4',
    'lvm/vg0/root ext4',
  ]);
});

test('what only the journal of an ext4 holds is read from there', () => {
  const disk = images.makeExt(join(folder, 'dirty'), 64 * mib, tree, '-t', 'ext4', '-b', '4096');
  const block = images.run('debugfs', '-R', 'bmap /etc/hostname 0', disk).trim();
  writeFileSync(`${disk}.new`, Buffer.concat([Buffer.from('HELLO\n'), Buffer.alloc(4090)]));
  writeFileSync(`${disk}.commands`, `jo\njw -b ${block} ${disk}.new\njc\n`);
  images.run('debugfs', '-w', '-f', `${disk}.commands`, disk);
  const seen = images.openDisks({ disk0: disk });
  const { fileSystem, node } = seen.read(findFile(seen.volumes, 'disk0/etc/hostname'));
  assert.equal(new TextDecoder().decode(seen.read(fileSystem.read(node, 0, 6))), 'HELLO\n');
  assert.match(fileSystem.notes.join(), /1 blocks are read from there/);
  assert.equal(readFileSync(disk).indexOf('hello\n') > 0, true, 'the old content still lies in its place');
});

/** Reads everything that is there, as far as it lets itself be read. */
function walk(disks: Map<string, Uint8Array>): number {
  let seen = 0;
  const read = (fileSystem: FileSystem, node: FileNode, depth: number): void => {
    seen += 1;
    if (seen > 4_000 || depth > 8) return;
    if (node.kind === 'file') images.readFrom(disks, fileSystem.read(node, Math.max(0, node.sizeBytes - 5_000), 5_000));
    if (node.kind === 'link') images.readFrom(disks, fileSystem.readLink(node));
    if (node.kind !== 'directory') return;
    for (const { id } of images.readFrom(disks, fileSystem.list(node)).slice(0, 200)) {
      tolerate(() => read(fileSystem, images.readFrom(disks, fileSystem.look(id)), depth + 1));
    }
  };
  tolerate(() => {
    const list = [...disks].map(([name, { length }]) => ({ name, sizeBytes: length }));
    for (const { fileSystem } of images.readFrom(disks, findVolumes(list))) {
      if (fileSystem === null) continue;
      tolerate(() => read(fileSystem, images.readFrom(disks, fileSystem.look(fileSystem.rootId)), 0));
    }
  });
  return seen;
}

function tolerate(work: () => void): void {
  try {
    work();
  } catch (error) {
    if (!isAppError(error, 'invalid', 'unsupported')) throw error;
  }
}

test('bytes that were changed on purpose end in words or in content, never in anything else', (t) => {
  const small = join(folder, 'small');
  images.run(
    'sh',
    '-c',
    `mkdir -p ${small} && cp -a ${tree}/etc ${tree}/link ${tree}/long-link ${small}/ && mkdir ${small}/many && cp ${tree}/many/*-1?? ${small}/many/`,
  );
  const disks = [
    images.makeExt(join(folder, 'fuzz4'), 8 * mib, small, '-t', 'ext4'),
    images.makeExt(join(folder, 'fuzz2'), 4 * mib, small, '-t', 'ext2'),
  ];
  if (images.lacking('mkfs.xfs', 'mkntfs').length === 0) {
    disks.push(images.makeXfs(join(folder, 'fuzzx'), 320 * mib, small));
    const ntfs = images.emptyDisk(join(folder, 'fuzzn'), 8 * mib);
    images.run('mkntfs', '-q', '-F', '-f', ntfs);
    images.run('ntfscp', '-f', ntfs, join(tree, 'etc/hostname'), 'hostname');
    disks.push(ntfs);
  } else t.diagnostic('xfsprogs or ntfs-3g is not installed: those were not changed');
  for (const path of disks) {
    const whole = readFileSync(path);
    const used = listUsed(whole);
    for (let seed = 1; seed <= 60; seed += 1) {
      const chance = createChance(seed);
      const before: [number, number][] = [];
      for (let count = 0; count < 12; count += 1) {
        const at = (used[Math.floor(chance() * used.length)] ?? 0) + Math.floor(chance() * 512);
        before.push([at, whole[at] ?? 0]);
        whole[at] = chance() < 0.3 ? 0xff : Math.floor(chance() * 256);
      }
      const began = process.cpuUsage();
      walk(new Map([['disk0', whole]]));
      assert.ok(process.cpuUsage(began).user < 20e6, `${path}, seed ${seed}: it takes too long`);
      for (const [at, byte] of before.toReversed()) whole[at] = byte;
    }
  }
});

/** Places of sectors that are not empty: tables and names, for the files are small. */
function listUsed(whole: Uint8Array): number[] {
  const used: number[] = [];
  for (let at = 0; at + 512 <= whole.length; at += 512) {
    if (whole.subarray(at, at + 512).some((byte) => byte !== 0)) used.push(at);
  }
  return used;
}
