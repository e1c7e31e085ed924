import assert from 'node:assert/strict';
import { test } from 'node:test';
import { encodeText, formatHex } from './bytes.ts';
import { checkManifestFiles, fillManifest, type StoredFile } from './manifest-check.ts';
import { parseManifest } from './manifest.ts';

const csum = new Uint8Array(32).fill(7);
const stored = new Map<string, StoredFile>([
  ['a.blob', { kind: 'blob', sizeBytes: 20, csum }],
  ['d.didx', { kind: 'index', sizeBytes: 100, csum }],
]);
const entry = (filename: string, size: number, sum = formatHex(csum)) => ({ filename, size, csum: sum, 'crypt-mode': 'none' });
const text = (files: unknown, more = {}) =>
  encodeText(JSON.stringify({ 'backup-type': 'vm', 'backup-id': '1', 'backup-time': 5, files, ...more }));

test('an empty checksum of a blob is filled in, of an index or in a signed manifest it is not', () => {
  const [blob] = parseManifest(fillManifest(text([entry('a.blob', 3, ''), entry('d.didx', 100)]), stored)).files;
  assert.deepEqual([blob?.sizeBytes, blob?.csum], [20, csum]);
  for (const given of [
    text([entry('d.didx', 1, '')]),
    text([entry('a.blob', 3, '')], { signature: 'ab' }),
    text([entry('x.blob', 3, '')]),
    encodeText('{'),
  ])
    assert.equal(fillManifest(given, stored), given);
});

test('a manifest that lists what did not come is refused, naming the file', () => {
  checkManifestFiles(parseManifest(text([entry('a.blob', 20), entry('d.didx', 100)])), stored);
  for (const [file, pattern] of [
    [entry('b.blob', 20), /lists "b\.blob", which was not uploaded/],
    [entry('a.blob', 21), /a\.blob: its size/],
    [entry('d.didx', 100, 'ab'.repeat(32)), /d\.didx: its csum/],
  ] as const)
    assert.throws(() => checkManifestFiles(parseManifest(text([file])), stored), pattern);
});
