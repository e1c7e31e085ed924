import assert from 'node:assert/strict';
import { test } from 'node:test';
import { isAppError } from '#base/error.ts';
import { createChance } from '#core/ha/seeded-chance.ts';
import { encodeText, joinBytes, viewOf } from './bytes.ts';
import { checkPayloadHeader, checkPayloadStart, payloadSpan, PxarDecoder, type PxarEvent } from './pxar-decoder.ts';
import { encodeHeader, PxarEncoder, treeOrder } from './pxar-encoder.ts';
import { modeType, pxarType, type PxarStat } from './pxar-format.ts';
import { hashFileName } from './siphash.ts';

const stat = (mode: number): PxarStat => ({ mode, flags: 0n, uid: 1000, gid: 100, mtimeSeconds: -5, mtimeNanos: 7 });
const file = stat(modeType.file | 0o644);
const directory = stat(modeType.directory | 0o755);
const name = encodeText;

/** Everything the format knows, in one small tree. */
function sampleArchive(): Uint8Array {
  const encoder = new PxarEncoder();
  const out: Uint8Array[] = [encoder.startRoot(directory)];
  const xattr = { type: pxarType.xattr, content: encodeText('user.note\0hello') };
  const hello = encoder.startFile({ name: name('hello'), stat: file, metadata: [xattr] }, 5);
  encoder.addPayload(2);
  encoder.addPayload(3);
  out.push(hello.bytes, encodeText('world'));
  out.push(encoder.startFile({ name: name('empty'), stat: file }, 0).bytes);
  out.push(encoder.startDirectory({ name: name('inner'), stat: directory }));
  out.push(encoder.addHardlink(name('again'), hello.linkTarget, encodeText('hello')));
  out.push(encoder.addSymlink({ name: name('link'), stat: stat(modeType.symlink | 0o777) }, encodeText('../hello')));
  out.push(encoder.addDevice({ name: name('null'), stat: stat(modeType.charDevice | 0o666) }, 1, 3));
  out.push(encoder.addSpecial({ name: name('pipe'), stat: stat(modeType.fifo | 0o600) }));
  out.push(encoder.endDirectory(), encoder.endDirectory());
  const archive = joinBytes(out);
  assert.equal(archive.length, encoder.position);
  return archive;
}

function decode(archive: Uint8Array, pieceBytes = archive.length): PxarEvent[] {
  const decoder = new PxarDecoder();
  const events: PxarEvent[] = [];
  for (let at = 0; at < archive.length; at += pieceBytes) events.push(...decoder.push(archive.subarray(at, at + pieceBytes)));
  decoder.end();
  return events;
}

function outline(events: readonly PxarEvent[]): string[] {
  const text = (bytes: Uint8Array | null): string => (bytes === null ? '/' : new TextDecoder().decode(bytes));
  const lines: string[] = [];
  let content: Uint8Array[] = [];
  for (const event of events) {
    if (event.kind === 'data') content.push(event.bytes);
    else if (event.kind === 'file-end') {
      lines.push(`= ${text(joinBytes(content))}`);
      content = [];
    } else if (event.kind === 'symlink') lines.push(`symlink ${text(event.name)} -> ${text(event.target)}`);
    else if (event.kind === 'device') lines.push(`device ${text(event.name)} ${event.major}:${event.minor}`);
    else if (event.kind === 'hardlink') lines.push(`hardlink ${text(event.name)} -> ${text(event.path)}`);
    else if ('name' in event) lines.push(`${event.kind} ${text(event.name)}`);
    else lines.push(event.kind);
  }
  return lines;
}

const sampleOutline = [
  'directory /',
  'file hello',
  '= world',
  'file empty',
  '= ',
  'directory inner',
  'hardlink again -> hello',
  'symlink link -> ../hello',
  'device null 1:3',
  'special pipe',
  'leave',
  'leave',
];

test('an archive reads as it was written, in whatever pieces it comes', () => {
  const archive = sampleArchive();
  for (const pieceBytes of [archive.length, 1, 7, 16, 40, 97])
    assert.deepEqual(outline(decode(archive, pieceBytes)), sampleOutline);
  const hello = decode(archive).find((event) => event.kind === 'file');
  assert.ok(hello?.kind === 'file');
  assert.deepEqual(hello.stat, file);
  assert.deepEqual(hello.metadata, [{ type: pxarType.xattr, content: encodeText('user.note\0hello') }]);
  const link = decode(archive).find((event) => event.kind === 'hardlink');
  assert.ok(link?.kind === 'hardlink' && link.targetAt === hello.at);
});

test('the names of item types are the hash that goodbye tables use', () => {
  const labels: [string, bigint][] = [
    ['FILENAME', pxarType.fileName],
    ['SYMLINK', pxarType.symlink],
    ['XATTR', pxarType.xattr],
    ['HARDLINK', pxarType.hardlink],
    ['GOODBYE', pxarType.goodbye],
    ['ACL_USER', pxarType.aclUser],
    ['QUOTA_PROJID', pxarType.quotaProject],
  ];
  for (const [label, type] of labels) assert.equal(hashFileName(encodeText(`__PROXMOX_FORMAT_${label}__`)), type, label);
});

test('a goodbye table finds each entry by binary search', () => {
  assert.deepEqual(treeOrder(1), [0]);
  assert.deepEqual(treeOrder(6), [3, 1, 4, 0, 5, 2]);
  const encoder = new PxarEncoder();
  const out = [encoder.startRoot(directory)];
  const starts = new Map<string, number>();
  for (let number = 0; number < 100; number += 1) {
    starts.set(`f${number}`, encoder.position);
    out.push(encoder.addSpecial({ name: name(`f${number}`), stat: stat(modeType.socket) }));
  }
  const goodbyeAt = encoder.position;
  out.push(encoder.endDirectory());
  const view = viewOf(joinBytes(out).subarray(goodbyeAt + 16));
  for (const [wanted, start] of starts) {
    const hash = hashFileName(name(wanted));
    let slot = 0;
    while (slot < 100 && view.getBigUint64(slot * 24, true) !== hash) {
      slot = slot * 2 + (hash < view.getBigUint64(slot * 24, true) ? 1 : 2);
    }
    assert.ok(slot < 100, wanted);
    assert.equal(goodbyeAt - Number(view.getBigUint64(slot * 24 + 8, true)), start);
  }
});

test('a split archive names where its files lie in the second stream', () => {
  const item = (type: bigint, content: Uint8Array): Uint8Array => joinBytes([encodeHeader(type, content.length), content]);
  const words = (...values: number[]): Uint8Array => new Uint8Array(BigUint64Array.from(values, BigInt).buffer);
  const whole = sampleArchive();
  const rootEntry = whole.subarray(0, 56);
  const encoder = new PxarEncoder();
  encoder.startRoot(directory);
  const started = encoder.startFile({ name: name('hello'), stat: file }, 5);
  const fileHead = started.bytes.subarray(0, -16);
  const before = joinBytes([item(pxarType.formatVersion, words(2)), item(pxarType.prelude, encodeText('{}'))]);
  const body = joinBytes([rootEntry, fileHead, item(pxarType.payloadRef, words(16, 5))]);
  const goodbye = joinBytes([words(1, 1, 1), new Uint8Array(24)]);
  viewOf(goodbye).setBigUint64(24, pxarType.goodbyeTail, true);
  viewOf(goodbye).setBigUint64(32, BigInt(body.length), true);
  viewOf(goodbye).setBigUint64(40, 64n, true);
  const archive = joinBytes([before, body, item(pxarType.goodbye, goodbye)]);
  const events = decode(archive, 11);
  assert.deepEqual(
    events.map(({ kind }) => kind),
    ['version', 'prelude', 'directory', 'file-ref', 'leave'],
  );
  const ref = events.find((event) => event.kind === 'file-ref');
  assert.ok(ref?.kind === 'file-ref');
  const second = joinBytes([encodeHeader(pxarType.payloadStart, 0), encodeHeader(pxarType.payload, 5), encodeText('world')]);
  checkPayloadStart(second.subarray(0, 16));
  const span = payloadSpan(ref.ref);
  checkPayloadHeader(second.subarray(span.headerAt, span.dataAt), ref.ref);
  assert.equal(new TextDecoder().decode(second.subarray(span.dataAt, span.end)), 'world');
  assert.throws(() => checkPayloadHeader(second.subarray(0, 16), ref.ref), /no file of 5 bytes/);
  assert.throws(() => decode(archive.subarray(24)), /prelude|entry belongs/, 'a reference without the version');
});

test('names that reach outside their directory cannot be written', () => {
  const encoder = new PxarEncoder();
  encoder.startRoot(directory);
  for (const bad of ['', '.', '..', 'a/b', '/', 'a\0b', 'x'.repeat(256)]) {
    assert.throws(() => encoder.startFile({ name: name(bad), stat: file }, 0), /not the name of a file/, JSON.stringify(bad));
  }
});

test('names that reach outside their directory, or come twice, are refused when read', () => {
  const archive = sampleArchive();
  const at = new TextDecoder('latin1').decode(archive).indexOf('hello\0');
  const patch = (text: string): Uint8Array => {
    const patched = Uint8Array.from(archive);
    patched.set(encodeText(text), at);
    return patched;
  };
  assert.throws(() => decode(patch('he/lo')), /not the name of a file/);
  assert.throws(() => decode(patch('hel\0o')), /ended by one zero/);
  assert.throws(() => decode(patch('empty')), /a second time/);
  const dots = joinBytes([archive.subarray(0, 56), encodeHeader(pxarType.fileName, 3), encodeText('..\0')]);
  assert.throws(() => decode(dots), /not the name of a file/);
});

test('an item that claims gigabytes is refused before they are awaited', () => {
  const decoder = new PxarDecoder();
  decoder.push(sampleArchive().subarray(0, 56));
  assert.throws(() => decoder.push(encodeHeader(pxarType.fileName, 2 ** 40)), /at most 256/);
});

test('cut and flipped archives are refused or read to their end, and never crash the reader', () => {
  const archive = sampleArchive();
  const chance = createChance(20_261_122);
  let refused = 0;
  for (let length = 0; length < archive.length; length += 1) {
    assert.throws(() => decode(archive.subarray(0, length)), isAppErrorInvalid, `cut at ${length}`);
  }
  for (let round = 0; round < 4_000; round += 1) {
    const spoiled = Uint8Array.from(archive);
    spoiled[Math.floor(chance() * spoiled.length)]! ^= 1 << Math.floor(chance() * 8);
    try {
      decode(spoiled, 1 + Math.floor(chance() * 50));
    } catch (error) {
      assert.ok(isAppError(error), String(error));
      refused += 1;
    }
  }
  assert.ok(refused > 1_000, `${refused}`);
});

function isAppErrorInvalid(error: unknown): boolean {
  return isAppError(error, 'invalid');
}
