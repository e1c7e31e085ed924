import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { test } from 'node:test';
import { joinBytes } from './bytes.ts';
import { digestAt, encodeDynamicRecord, findChunk, parseIndex, spanAt } from './chunk-index.ts';
import { fixedChunkBytes, startDynamicIndex, startFixedIndex } from './index-writer.ts';
import { isOwnedBy, parseAuthId } from './owner.ts';

const functions = {
  sha256: (...parts: Uint8Array[]) => Uint8Array.from(createHash('sha256').update(joinBytes(parts)).digest()),
};
const birth = { uuid: new Uint8Array(16).fill(3), ctimeSeconds: 1_700_000_000 };
const digest = (value: number): Uint8Array => new Uint8Array(32).fill(value);
const whole = (value: number) => ({ digest: digest(value), sizeBytes: fixedChunkBytes });
const none = digest(0);

test('a fixed index takes its chunks in any order', () => {
  const sizeBytes = 2 * fixedChunkBytes + 10;
  const writer = startFixedIndex(sizeBytes, null, birth);
  writer.append({ digest: digest(3), sizeBytes: 10 }, 2 * fixedChunkBytes);
  writer.append(whole(1), 0);
  writer.append(whole(2), fixedChunkBytes);
  const csum = functions.sha256(digest(1), digest(2), digest(3));
  const closed = writer.close({ chunkCount: 3, sizeBytes, csum }, functions);
  const index = parseIndex('fixed', closed.file, 'a.fidx');
  assert.deepEqual(digestAt(index, 1), digest(2));
  assert.deepEqual(spanAt(index, 2), { start: 2 * fixedChunkBytes, end: sizeBytes });
  assert.deepEqual([findChunk(index, 0), findChunk(index, fixedChunkBytes), findChunk(index, sizeBytes)], [0, 1, -1]);
});

test('an incremental fixed index begins as its base', () => {
  const sizeBytes = 3 * fixedChunkBytes;
  const first = startFixedIndex(sizeBytes, null, birth);
  for (const at of [0, 1, 2]) first.append(whole(at + 1), at * fixedChunkBytes);
  const csum = functions.sha256(digest(1), digest(2), digest(3));
  const base = parseIndex('fixed', first.close({ chunkCount: 3, sizeBytes, csum }, functions).file, 'a.fidx');
  const second = startFixedIndex(sizeBytes, base, birth);
  second.append(whole(9), fixedChunkBytes);
  const changed = functions.sha256(digest(1), digest(9), digest(3));
  // Clients tell the bytes they appended, not the image's size.
  const closed = second.close({ chunkCount: 1, sizeBytes: fixedChunkBytes, csum: changed }, functions);
  assert.deepEqual(digestAt(parseIndex('fixed', closed.file, 'a.fidx'), 1), digest(9));
  assert.throws(() => startFixedIndex(sizeBytes + 1, base, birth), /reuse-csum/, 'one chunk more');
});

test('chunks that cannot lie where they are put are refused, naming the field', () => {
  const writer = startFixedIndex(fixedChunkBytes + 10, null, birth);
  assert.throws(() => writer.append(whole(1), 5), /offset: 5 is not a multiple/);
  assert.throws(() => writer.append(whole(1), fixedChunkBytes), /reaches past the image's end/);
  assert.throws(() => writer.append({ digest: none, sizeBytes: 5 }, 0), /only the last may be shorter/);
  assert.throws(() => writer.append(whole(1), -fixedChunkBytes), /offset/);
  writer.append(whole(1), 0);
  assert.throws(() => writer.close({ chunkCount: 2, sizeBytes: 0, csum: none }, functions), /chunk-count: 2, but 1/);
  assert.throws(() => writer.close({ chunkCount: 1, sizeBytes: 0, csum: none }, functions), /do not make the image/);
  writer.append(whole(1), 0);
  const claim = { chunkCount: 2, sizeBytes: fixedChunkBytes + 10, csum: none };
  assert.throws(() => writer.close(claim, functions), /nothing was appended at 4194304/);
  for (const size of [0, -1, 1.5, 2 ** 60, Number.NaN]) assert.throws(() => startFixedIndex(size, null, birth), /size/);
});

test('a dynamic index takes its chunks without gaps', () => {
  const writer = startDynamicIndex(birth);
  assert.throws(() => writer.close({ chunkCount: 0, sizeBytes: 0, csum: none }, functions), /at least one chunk/);
  const records: Uint8Array[] = [];
  for (let at = 0; at < 200; at += 1) {
    writer.append({ digest: digest(at), sizeBytes: 7 }, at * 7);
    records.push(encodeDynamicRecord((at + 1) * 7, digest(at)));
  }
  assert.throws(() => writer.append(whole(1), 0), /not where the chunk before ended \(1400\)/);
  const csum = functions.sha256(...records);
  assert.throws(() => writer.close({ chunkCount: 200, sizeBytes: 1, csum }, functions), /size: 1/);
  assert.throws(() => writer.close({ chunkCount: 200, sizeBytes: 1_400, csum: none }, functions), /csum/);
  const index = parseIndex('dynamic', writer.close({ chunkCount: 200, sizeBytes: 1_400, csum }, functions).file, 'a.didx');
  assert.equal(index.sizeBytes, 1_400);
  for (let offset = 0; offset < 1_400; offset += 13) assert.equal(findChunk(index, offset), Math.floor(offset / 7));
});

test('who may use whose groups', () => {
  assert.ok(isOwnedBy('a@pam', 'a@pam'));
  assert.ok(isOwnedBy('a@pam!t', 'a@pam'));
  assert.ok(isOwnedBy('a@pam!t', 'a@pam!t'));
  for (const [owner, caller] of [
    ['a@pam', 'a@pam!t'],
    ['a@pam!t', 'a@pam!u'],
    ['ab@pam!t', 'a@pam'],
    ['a@pam', 'b@pam'],
  ] as const) {
    assert.ok(!isOwnedBy(owner, caller), `${caller} on ${owner}`);
  }
  assert.equal(parseAuthId('a@pam!t', 'owner'), 'a@pam!t');
  for (const bad of ['a', 'a@', '@pam', 'a@pam!', 'a@pam!../x', 'a b@pam', 5])
    assert.throws(() => parseAuthId(bad, 'owner'), /owner/);
});
