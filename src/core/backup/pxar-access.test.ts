import assert from 'node:assert/strict';
import { test } from 'node:test';
import { isAppError } from '#base/error.ts';
import { createChance } from '#core/ha/seeded-chance.ts';
import { encodeText, joinBytes } from './bytes.ts';
import { readHead, readTable, readTail, tailBytes, type PxarHead, type PxarSpan } from './pxar-access.ts';
import { PxarEncoder } from './pxar-encoder.ts';
import { modeType, pxarType, type PxarStat } from './pxar-format.ts';

const stat = (mode: number): PxarStat => ({ mode, flags: 0n, uid: 1, gid: 2, mtimeSeconds: 3, mtimeNanos: 4 });
const text = (bytes: Uint8Array | null): string => (bytes === null ? '/' : new TextDecoder().decode(bytes));

function sampleArchive(): Uint8Array {
  const encoder = new PxarEncoder();
  const out: Uint8Array[] = [encoder.startRoot(stat(modeType.directory | 0o755))];
  const metadata = [{ type: pxarType.xattr, content: encodeText(`user.long\0${'x'.repeat(9_000)}`) }];
  const file = encoder.startFile({ name: encodeText('file'), stat: stat(modeType.file), metadata }, 5);
  encoder.addPayload(5);
  out.push(file.bytes, encodeText('world'));
  out.push(encoder.startDirectory({ name: encodeText('inner'), stat: stat(modeType.directory) }));
  out.push(encoder.addHardlink(encodeText('again'), file.linkTarget, encodeText('file')));
  out.push(encoder.addSymlink({ name: encodeText('link'), stat: stat(modeType.symlink) }, encodeText('../file')));
  out.push(encoder.addDevice({ name: encodeText('null'), stat: stat(modeType.charDevice) }, 1, 3));
  out.push(encoder.addSpecial({ name: encodeText('pipe'), stat: stat(modeType.fifo) }));
  out.push(encoder.startDirectory({ name: encodeText('empty'), stat: stat(modeType.directory) }), encoder.endDirectory());
  out.push(encoder.endDirectory(), encoder.endDirectory());
  return joinBytes(out);
}

function childrenOf(archive: Uint8Array, end: number): PxarSpan[] {
  const { tableAt, entryAt } = readTail(archive.subarray(end - tailBytes, end), end);
  return readTable(archive.subarray(tableAt, end), tableAt, entryAt);
}

/** Every line of the tree, heads read from as few bytes as they need. */
function walk(archive: Uint8Array, end: number): string[] {
  return childrenOf(archive, end).flatMap((span) => {
    let head = null;
    for (let bytes = 8; head === null; bytes *= 2) {
      head = readHead(archive.subarray(span.start, Math.min(span.end, span.start + bytes)), span, false);
    }
    if (head.kind === 'hardlink') return [`hardlink ${text(head.name)}: ${text(at(archive, head.targetAt).name)}`];
    if (head.kind === 'file') {
      const content = text(archive.subarray(head.contentAt, head.contentAt + head.sizeBytes));
      return [`file ${text(head.name)}: ${content}, ${head.metadata.map(({ content: { length } }) => length).join()}`];
    }
    if (head.kind === 'symlink') return [`symlink ${text(head.name)}: ${text(head.target)}`];
    if (head.kind === 'device') return [`device ${text(head.name)}: ${head.major}:${head.minor}`];
    return [`${head.kind} ${text(head.name)}`, ...(head.kind === 'directory' ? walk(archive, span.end) : [])];
  });
}

function at(archive: Uint8Array, start: number): PxarHead {
  const head = readHead(archive.subarray(start), { start, end: archive.length }, false);
  assert.ok(head !== null && head.kind !== 'hardlink');
  return head;
}

test('an archive can be looked into from its end', () => {
  const archive = sampleArchive();
  const { entryAt } = readTail(archive.subarray(-tailBytes), archive.length);
  const root = readHead(archive.subarray(entryAt), { start: entryAt, end: archive.length }, true);
  assert.deepEqual([root?.kind, root?.name], ['directory', null]);
  assert.deepEqual(walk(archive, archive.length), [
    'file file: world, 9010',
    'directory inner',
    'hardlink again: file',
    'symlink link: ../file',
    'device null: 1:3',
    'special pipe',
    'directory empty',
  ]);
});

test('a damaged archive is refused where it is looked into, and never leads in circles', () => {
  const archive = sampleArchive();
  const chance = createChance(11);
  for (let round = 0; round < 3_000; round += 1) {
    const spoiled = Uint8Array.from(archive);
    for (let flips = 0; flips < 3; flips += 1) spoiled[Math.floor(chance() * spoiled.length)]! ^= 1 << Math.floor(chance() * 8);
    try {
      walk(spoiled, spoiled.length);
    } catch (error) {
      assert.ok(isAppError(error) || error instanceof assert.AssertionError, String(error));
    }
  }
});
