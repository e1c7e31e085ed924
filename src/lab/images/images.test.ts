import assert from 'node:assert/strict';
import { existsSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test, { type TestContext } from 'node:test';
import { isAppError } from '#base/error.ts';
import { chooseSourceLines, chooseSourceParagraphs, findMirror } from '#lab/images/apt-sources.ts';
import { cutKernelPayload } from '#lab/images/bzimage.ts';
import { contentKey, ensureCached } from '#lab/images/cache.ts';
import { orderModules, readModuleDepends } from '#lab/images/kernel-module.ts';
import { checkProbeDisks, makeProbeBlock, probeSlot, probeSlots } from '#lab/images/probe-disks.ts';

function makeFolder(t: TestContext): string {
  const folder = mkdtempSync(join(tmpdir(), 'holdfast-images-'));
  t.after(() => rmSync(folder, { recursive: true, force: true }));
  return folder;
}

function makeBzImage(payload: number[]): Buffer {
  const image = Buffer.alloc(0x600 + 16 + payload.length + 4);
  image[0x1f1] = 2; // setup sectors: the protected-mode part begins at 0x600
  image.writeUInt32LE(0x53726448, 0x202);
  image.writeUInt16LE(0x20f, 0x206);
  image.writeUInt32LE(16, 0x248);
  image.writeUInt32LE(payload.length + 4, 0x24c);
  image.set(payload, 0x600 + 16);
  image.writeUInt32LE(1_234, 0x600 + 16 + payload.length);
  return image;
}

test('the kernel is cut out of its image by the setup header', () => {
  const payload = [0x02, 0x21, 0x4c, 0x18, 9, 8, 7];
  const cut = cutKernelPayload(makeBzImage(payload));
  assert.deepEqual([[...cut.compressed], cut.uncompressedBytes, cut.command], [payload, 1_234, 'lz4']);
});

test('what is no kernel image, or compressed in an unknown way, is refused', () => {
  const refused = (image: Buffer) =>
    assert.throws(
      () => cutKernelPayload(image),
      (error) => isAppError(error, 'unsupported'),
    );
  refused(Buffer.alloc(4_096));
  refused(makeBzImage([1, 2, 3, 4, 5]));
  refused(makeBzImage([0x02, 0x21, 0x4c, 0x18, 9]).subarray(0, 0x612));
});

test('drivers come after what they depend on, once each', () => {
  const depends: Record<string, string[]> = {
    virtio_blk: ['virtio', 'virtio_ring'],
    virtio: ['virtio_ring'],
    virtio_ring: [],
    virtio_net: ['virtio'],
  };
  const known = (name: string) => ({ name: `${name}.ko`, depends: depends[name] ?? [] });
  assert.deepEqual(orderModules(['virtio_blk', 'virtio_net'], known), [
    'virtio_ring.ko',
    'virtio.ko',
    'virtio_blk.ko',
    'virtio_net.ko',
  ]);
  assert.deepEqual(readModuleDepends(Buffer.from('license=GPL\0depends=virtio,virtio_ring\0name=x\0')), [
    'virtio',
    'virtio_ring',
  ]);
  assert.deepEqual(readModuleDepends(Buffer.from('license=GPL\0depends=\0name=x\0')), []);
});

test('the key of a recipe changes with each input and with the border between two', () => {
  assert.notEqual(contentKey(['a', 'b']), contentKey(['a', 'c']));
  assert.notEqual(contentKey(['ab', '']), contentKey(['a', 'b']));
});

test('a recipe is built once, also by two at a time; a build that fails leaves nothing', async (t) => {
  const cacheRoot = makeFolder(t);
  let builds = 0;
  const build = async (directory: string) => {
    builds += 1;
    writeFileSync(join(directory, 'part'), 'x');
  };
  const [first, second] = await Promise.all(
    [1, 2].map(() => ensureCached({ kind: 'thing', inputs: ['a'], build }, { cacheRoot })),
  );
  assert.deepEqual([builds, first === second, existsSync(join(first ?? '', 'part'))], [1, true, true]);
  const broken = async (directory: string) => {
    await build(directory);
    throw new Error('no package');
  };
  await assert.rejects(ensureCached({ kind: 'other', inputs: ['b'], build: broken }, { cacheRoot }), /no package/);
  assert.deepEqual(readdirSync(join(cacheRoot, 'other')), []);
});

test('a lock left by a dead process is taken over', async (t) => {
  const cacheRoot = makeFolder(t);
  const recipe = { kind: 'thing', inputs: ['a'], build: async () => {} };
  const target = await ensureCached(recipe, { cacheRoot });
  rmSync(target, { recursive: true });
  writeFileSync(`${target}.lock`, '4194305'); // one above the largest pid Linux gives out
  assert.equal(await ensureCached(recipe, { cacheRoot }), target);
});

test('blocks of the sequence have distinct slots until it wraps, and content of their own', () => {
  const slots = probeSlots(64 << 20);
  assert.equal(slots, 16_384);
  assert.equal(new Set(Array.from({ length: slots }, (_, i) => probeSlot(i + 1, slots))).size, slots);
  assert.equal(probeSlot(slots + 1, slots), probeSlot(1, slots));
  assert.notDeepEqual(makeProbeBlock(1), makeProbeBlock(2));
});

test('disks on which nothing was written are consistent; a block that no number stands for is not', (t) => {
  const folder = makeFolder(t);
  const [data, counter] = [join(folder, 'a'), join(folder, 'b')];
  const blocks = Buffer.alloc(16 * 4_096);
  writeFileSync(counter, Buffer.alloc(8_192));
  writeFileSync(data, blocks);
  assert.deepEqual([checkProbeDisks(data, counter).consistent, checkProbeDisks(data, counter).counter], [true, 0]);
  blocks.set(makeProbeBlock(1), probeSlot(1, 16) * 4_096); // in flight: the next one may be there
  writeFileSync(data, blocks);
  assert.equal(checkProbeDisks(data, counter).consistent, true);
  blocks.set(makeProbeBlock(2), probeSlot(2, 16) * 4_096);
  writeFileSync(data, blocks);
  assert.match(checkProbeDisks(data, counter).detail, /1 wrong: slot \d+ should hold nothing but holds block 2/);
});

test('only Debian itself is taken from the package sources of a machine', () => {
  const lines = [
    'deb http://mirror.test/debian bookworm main contrib',
    'deb [signed-by=/k.gpg arch=amd64] http://mirror.test/security bookworm-security main',
    '# deb http://mirror.test/debian bookworm main',
    'deb-src http://mirror.test/debian bookworm main',
    'deb http://docker.test/debian bookworm stable',
    'deb http://pgdg.test/apt bookworm-pgdg main',
  ];
  assert.deepEqual(chooseSourceLines(lines.join('\n'), 'bookworm'), lines.slice(0, 2));
  const debian = 'Types: deb\nURIs: http://mirror.test/debian\nSuites: bookworm bookworm-updates\nComponents: main';
  const other = debian.replace('Suites: bookworm bookworm-updates', 'Suites: nodistro');
  const paragraphs = [`# note\n${debian}`, other, `${debian}\nEnabled: no`];
  assert.deepEqual(chooseSourceParagraphs(paragraphs.join('\n\n'), 'bookworm'), [debian]);
});

test('another release comes from where this host’s own comes from, not from where its security updates do', () => {
  const security = 'Types: deb\nURIs: http://mirror.example/debian-security\nSuites: bookworm-security\nComponents: main';
  const own = 'Types: deb\nURIs: http://mirror.example/debian\nSuites: bookworm bookworm-updates\nComponents: main';
  const found = (lines: string[], paragraphs: string[]) => findMirror({ suite: 'bookworm', lines, paragraphs });
  assert.equal(found([], [security, own]), 'http://mirror.example/debian');
  assert.equal(found(['deb [arch=amd64] http://other.example/debian bookworm main'], []), 'http://other.example/debian');
  assert.equal(found([], [security]), null);
});
