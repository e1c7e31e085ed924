import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { existsSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as wait } from 'node:timers/promises';
import { after, before, test } from 'node:test';
import { crc32, zstdDecompressSync } from 'node:zlib';
import { startTestServer, type RunningServer } from './backup-server-parts.ts';
import {
  chunkBytes,
  dynamicIndexFile,
  dynamicRecords,
  encryptedBlob,
  fixedCsum,
  fixedIndexFile,
  manifestBlob,
  open,
  plainBlob,
  plainChunk,
  Session,
  sha256,
  tryOpen,
  type Where,
} from './backup-wire-parts.ts';

/** The wire, call by call, as clients written by others speak it. */
let running: RunningServer;
let port: number;
let second = 1_710_000_000;

before(async () => {
  running = await startTestServer();
  ({ port } = running);
});
after(() => running.end());

const next = (id: string, more: Partial<Where> = {}): Where => ({ id, at: (second += 1), ...more });
const folderOf = ({ type = 'vm', id, at }: Where): string =>
  join(running.made.root, type, id, `${new Date(at * 1_000).toISOString().slice(0, 19)}Z`);
const stored = (where: Where, name: string): Buffer => readFileSync(join(folderOf(where), name));
const chunkFile = (digest: string): string => join(running.made.root, '.chunks', digest.slice(0, 4), digest);

async function gone(where: Where): Promise<void> {
  for (const deadline = Date.now() + 10_000; existsSync(folderOf(where)) && Date.now() < deadline;) await wait(10);
  assert.ok(!existsSync(folderOf(where)), 'what was not finished is gone');
}

const zero = plainChunk(new Uint8Array(chunkBytes), { compress: true });
const noise = plainChunk(randomBytes(chunkBytes));
const tail = plainChunk(randomBytes(1_000), { crc: false });
const size = 2 * chunkBytes + 1_000;

test('an image, an archive and a blob lie on disk byte for byte as their formats say', async () => {
  const where = next('100');
  const session = await open(port, 'backup', where);
  assert.equal(await session.ok('GET', 'previous_backup_time'), null);
  await session.refuse(/previous/, 'GET', 'previous', { 'archive-name': 'index.json.blob' });
  const image = await session.image('drive-scsi0.img.fidx', size, [zero, noise, tail]);
  const wid = Number(await session.ok('POST', 'dynamic_index', {}, { 'archive-name': 'root.pxar.didx' }));
  assert.equal(wid, 2, 'numbers are shared by both kinds');
  const pieces = [
    plainChunk(randomBytes(300)),
    plainChunk(Buffer.from('x')),
    plainChunk(randomBytes(70_000), { compress: true }),
  ];
  for (const piece of pieces)
    assert.deepEqual(JSON.parse((await session.send(wid, 'dynamic', piece)).text), { data: piece.digest });
  await session.ok(
    'PUT',
    'dynamic_index',
    {},
    { wid, 'digest-list': pieces.map(({ digest }) => digest), 'offset-list': [0, 300, 301] },
  );
  const csum = sha256(dynamicRecords(pieces)).toString('hex');
  await session.ok('POST', 'dynamic_close', {}, { wid, 'chunk-count': 3, size: 70_301, csum });
  const empty = await session.blob('fw.conf.blob', plainBlob(new Uint8Array()));
  await session.finish(where, [image, { filename: 'root.pxar.didx', size: 70_301, csum }, empty]);
  await session.end();

  const fidx = stored(where, 'drive-scsi0.img.fidx');
  assert.ok(fidx.equals(fixedIndexFile([zero.digest, noise.digest, tail.digest], size, fidx)));
  const didx = stored(where, 'root.pxar.didx');
  assert.ok(didx.equals(dynamicIndexFile(pieces, didx)));
  assert.ok(Math.abs(Number(didx.readBigInt64LE(24)) - Date.now() / 1_000) < 600, 'ctime, seconds');
  assert.ok(stored(where, 'fw.conf.blob').equals(plainBlob(new Uint8Array())));
  assert.ok(readFileSync(chunkFile(noise.digest)).equals(noise.encoded));
  const sealed = Buffer.from(tail.encoded);
  sealed.writeUInt32LE(crc32(tail.encoded.subarray(12)), 8);
  assert.ok(readFileSync(chunkFile(tail.digest)).equals(sealed), 'an unset CRC is computed by the server');
  const manifest = stored(where, 'index.json.blob');
  assert.equal(manifest.toString('hex', 0, 8), '31b958426fb6a37f');
  const text = zstdDecompressSync(manifest.subarray(12)).toString();
  assert.match(text, /\n {2}"/, 'pretty');
  const { unprotected } = JSON.parse(text) as { unprotected: Record<string, Record<string, number>> };
  assert.deepEqual(Object.keys(unprotected['chunk_upload_stats'] ?? {}).toSorted(), [
    'compressed_size',
    'count',
    'duplicates',
    'size',
  ]);
  assert.equal(readFileSync(join(running.made.root, 'vm/100/owner'), 'utf8'), 'u@pbs!t\n');
});

test('what the last backup holds is known once its index was fetched, and reuse begins from it', async () => {
  const where = next('100');
  const session = await open(port, 'backup', where);
  assert.equal(await session.ok('GET', 'previous_backup_time'), where.at - 1);
  const plain = Number(await session.ok('POST', 'fixed_index', { 'archive-name': 'a.fidx', size: chunkBytes }));
  const append = { wid: plain, 'digest-list': [zero.digest], 'offset-list': [0] };
  await session.refuse(/no such chunk/, 'PUT', 'fixed_index', {}, append);
  const csum = fixedCsum([zero.digest, noise.digest, tail.digest]);
  const reuse = { 'archive-name': 'drive-scsi0.img.fidx', size, 'reuse-csum': csum };
  await session.refuse(/reuse-csum/, 'POST', 'fixed_index', { ...reuse, 'reuse-csum': 'ab'.repeat(32) });
  await session.refuse(/reuse-csum/, 'POST', 'fixed_index', { ...reuse, 'archive-name': 'none.fidx' });
  await session.refuse(/reuse-csum/, 'POST', 'fixed_index', { ...reuse, size: size + chunkBytes });
  const wid = Number(await session.ok('POST', 'fixed_index', {}, reuse));
  assert.equal(wid, plain + 1, 'a refused index takes no number');
  await session.ok('PUT', 'fixed_index', {}, append);
  await session.ok('POST', 'fixed_close', { wid: plain, 'chunk-count': 1, size: chunkBytes, csum: fixedCsum([zero.digest]) });
  assert.equal((await session.call('GET', 'previous', { 'archive-name': 'none.fidx' })).status, 404);
  assert.ok((await session.call('GET', 'previous', { 'archive-name': 'index.json.blob' })).bytes.length > 12);
  await session.ok('PUT', 'fixed_index', {}, { wid, 'digest-list': [zero.digest], 'offset-list': [chunkBytes] });
  const changed = fixedCsum([zero.digest, zero.digest, tail.digest]);
  await session.refuse(/chunk-count/, 'POST', 'fixed_close', {}, { wid, 'chunk-count': 3, size, csum: changed });
  await session.ok('POST', 'fixed_close', {}, { wid, 'chunk-count': 1, size: chunkBytes, csum: changed }); // the size is that of what was sent
  const files = [
    { filename: 'a.fidx', size: chunkBytes, csum: fixedCsum([zero.digest]) },
    { filename: 'drive-scsi0.img.fidx', size, csum: changed },
  ];
  await session.finish(where, files);
  await session.end();
  const file = stored(where, 'drive-scsi0.img.fidx');
  assert.ok(file.equals(fixedIndexFile([zero.digest, zero.digest, tail.digest], size, file)));
});

test('reuse with nothing changed, and with a last chunk of another size', async () => {
  const where = next('100');
  const session = await open(port, 'backup', where);
  const before = [zero.digest, zero.digest, tail.digest];
  const reuse = { 'archive-name': 'drive-scsi0.img.fidx', size, 'reuse-csum': fixedCsum(before) };
  const wid = Number(await session.ok('POST', 'fixed_index', reuse));
  await session.ok('POST', 'fixed_close', { wid, 'chunk-count': 0, size: 0, csum: fixedCsum(before) });
  await session.finish(where, [{ filename: 'drive-scsi0.img.fidx', size, csum: fixedCsum(before) }]);
  await session.end();
  const later = next('100');
  const grown = await open(port, 'backup', later);
  const more = Number(await grown.ok('POST', 'fixed_index', { ...reuse, size: size + 500 }));
  const last = plainChunk(randomBytes(1_500));
  const after_ = [zero.digest, zero.digest, last.digest];
  await grown.refuse(/nothing was appended/, 'POST', 'fixed_close', {
    wid: more,
    'chunk-count': 0,
    size: 0,
    csum: fixedCsum(before),
  });
  assert.equal((await grown.send(more, 'fixed', last)).status, 200);
  await grown.ok('PUT', 'fixed_index', {}, { wid: more, 'digest-list': [last.digest], 'offset-list': [2 * chunkBytes] });
  await grown.ok('POST', 'fixed_close', { wid: more, 'chunk-count': 1, size: 1_500, csum: fixedCsum(after_) });
  await grown.finish(later, [{ filename: 'drive-scsi0.img.fidx', size: size + 500, csum: fixedCsum(after_) }]);
  await grown.end();
});

test('an image smaller than a chunk takes the full zero chunk that some clients always send first', async () => {
  const where = next('101');
  const session = await open(port, 'backup', where);
  const small = plainChunk(Buffer.alloc(5_000, 7));
  const wid = Number(await session.ok('POST', 'fixed_index', { 'archive-name': 'd.fidx', size: 5_000 }));
  assert.equal((await session.send(wid, 'fixed', zero)).status, 200);
  assert.equal((await session.send(wid, 'fixed', small)).status, 200);
  await session.refuse(
    /size/,
    'POST',
    'fixed_chunk',
    { wid, digest: tail.digest, size: tail.size, 'encoded-size': tail.encoded.length },
    tail.encoded,
  );
  await session.refuse(/offset/, 'PUT', 'fixed_index', {}, { wid, 'digest-list': [zero.digest], 'offset-list': [0] });
  await session.ok('PUT', 'fixed_index', {}, { wid, 'digest-list': [small.digest], 'offset-list': [0] });
  await session.ok('POST', 'fixed_close', { wid, 'chunk-count': 1, size: 5_000, csum: fixedCsum([small.digest]) });
  await session.finish(where, [{ filename: 'd.fidx', size: 5_000, csum: fixedCsum([small.digest]) }]);
  await session.end();
});

test('sizes and numbers at and past their limits', async () => {
  const session = await open(port, 'backup', next('102'));
  await session.refuse(/^size/, 'POST', 'fixed_index', { 'archive-name': 'empty.fidx', size: 0 });
  await session.refuse(/archive-name/, 'POST', 'fixed_index', { 'archive-name': 'a.didx', size: 1 });
  await session.refuse(/archive-name/, 'POST', 'dynamic_index', { 'archive-name': 'a.fidx' });
  const wid = Number(await session.ok('POST', 'dynamic_index', { 'archive-name': 'a.didx' }));
  assert.equal(wid, 1);
  const { digest, encoded } = plainChunk(Buffer.from('some data'));
  const good = { wid, digest, size: 9, 'encoded-size': encoded.length };
  await session.refuse(/^size/, 'POST', 'dynamic_chunk', { ...good, size: 0 }, encoded);
  await session.refuse(/encoded-size/, 'POST', 'dynamic_chunk', { ...good, 'encoded-size': 12 }, encoded.subarray(0, 12));
  await session.refuse(/wid/, 'POST', 'fixed_chunk', good, encoded);
  await session.refuse(/wid/, 'PUT', 'dynamic_index', {}, { wid: 2, 'digest-list': [], 'offset-list': [] });
  const largest = plainChunk(Buffer.alloc(16 * 1024 * 1024, 1), { compress: true });
  assert.equal((await session.send(wid, 'dynamic', largest)).status, 200);
  const over = plainChunk(Buffer.alloc(16 * 1024 * 1024 + 1, 1), { compress: true });
  assert.equal((await session.send(wid, 'dynamic', over)).status, 400);
  await session.refuse(/body is longer/, 'POST', 'dynamic_chunk', good, new Uint8Array(18 * 1024 * 1024));
  await session.refuse(/body is longer/, 'PUT', 'dynamic_index', {}, Buffer.alloc(600 * 1024, ' '));
  await session.refuse(/offset/, 'PUT', 'dynamic_index', {}, { wid, 'digest-list': [largest.digest], 'offset-list': [1] });
  await session.refuse(/offset-list/, 'PUT', 'dynamic_index', {}, { wid, 'digest-list': [largest.digest], 'offset-list': [] });
  await session.refuse(/chunk-count/, 'POST', 'dynamic_close', { wid, 'chunk-count': 0, size: 0, csum: digest });
  for (let number = 2; number <= 256; number += 1)
    assert.equal(await session.ok('POST', 'dynamic_index', { 'archive-name': `n${number}.didx` }), number);
  await session.refuse(/256/, 'POST', 'dynamic_index', { 'archive-name': 'n257.didx' });
  await session.end();
});

test('an encrypted chunk is stored unread, with its CRC computed', async () => {
  const key = randomBytes(32);
  const where = next('103');
  const session = await open(port, 'backup', where);
  const encoded = encryptedBlob(Buffer.from('secret'), key, false);
  const digest = sha256(randomBytes(8)).toString('hex'); // whatever the key made of it: the server cannot know
  const wid = Number(await session.ok('POST', 'dynamic_index', { 'archive-name': 'a.didx' }));
  assert.equal((await session.send(wid, 'dynamic', { digest, size: 6, encoded })).status, 200);
  assert.equal(
    (await session.send(wid, 'dynamic', { digest, size: 6, encoded: encryptedBlob(Buffer.from('others'), key) })).status,
    200,
  );
  const sealed = Buffer.from(encoded);
  sealed.writeUInt32LE(crc32(encoded.subarray(44)), 8);
  assert.ok(readFileSync(chunkFile(digest)).equals(sealed), 'the first one stays');
  assert.equal(
    (await session.send(wid, 'dynamic', { digest, size: 20, encoded: encryptedBlob(randomBytes(20), key) })).status,
    400,
  );
  await session.refuse(/encrypted/, 'POST', 'blob', { 'file-name': 'index.json.blob', 'encoded-size': encoded.length }, sealed);
  await session.end();
  await gone(where);
});

test('plain chunks: the same one many times at once, and the shorter form wins', async () => {
  const session = await open(port, 'backup', next('104'));
  const wid = Number(await session.ok('POST', 'dynamic_index', { 'archive-name': 'a.didx' }));
  const data = Buffer.alloc(50_000, 'repeat');
  const long = plainChunk(data);
  for (const { status } of await Promise.all(Array.from({ length: 60 }, () => session.send(wid, 'dynamic', long))))
    assert.equal(status, 200);
  assert.equal(statSync(chunkFile(long.digest)).size, 50_012);
  const short = plainChunk(data, { compress: true });
  assert.equal((await session.send(wid, 'dynamic', short)).status, 200);
  assert.ok(readFileSync(chunkFile(long.digest)).equals(short.encoded));
  assert.equal((await session.send(wid, 'dynamic', long)).status, 200);
  assert.ok(readFileSync(chunkFile(long.digest)).equals(short.encoded));
  await session.end();
});

test('calls in the wrong order are refused and the session lives on', async () => {
  const where = next('105');
  const session = await open(port, 'backup', where);
  await session.refuse(/index\.json\.blob/, 'POST', 'finish');
  const wid = Number(await session.ok('POST', 'dynamic_index', { 'archive-name': 'a.didx' }));
  const piece = plainChunk(Buffer.from('a piece'));
  assert.equal((await session.send(wid, 'dynamic', piece)).status, 200);
  await session.ok('PUT', 'dynamic_index', {}, { wid, 'digest-list': [piece.digest], 'offset-list': [0] });
  const csum = sha256(dynamicRecords([piece])).toString('hex');
  const listed = { filename: 'a.didx', size: 7, csum };
  await session.blob('index.json.blob', manifestBlob(where, [listed]));
  await session.refuse(/open/, 'POST', 'finish');
  const close = { wid, 'chunk-count': 1, size: 7, csum };
  await session.refuse(/csum/, 'POST', 'dynamic_close', {}, { ...close, csum: piece.digest });
  await session.refuse(/^size/, 'POST', 'dynamic_close', {}, { ...close, size: 8 });
  await session.ok('POST', 'dynamic_close', {}, close);
  await session.refuse(/wid/, 'POST', 'dynamic_close', {}, close);
  await session.refuse(/wid/, 'PUT', 'dynamic_index', {}, { wid, 'digest-list': [piece.digest], 'offset-list': [7] });
  const bad = plainBlob(Buffer.from('{"files": 5}'));
  await session.blob('index.json.blob', bad);
  await session.refuse(/manifest/, 'POST', 'finish');
  await session.finish(where, [listed]);
  for (const [method, path] of [
    ['POST', 'finish'],
    ['GET', 'previous_backup_time'],
    ['POST', 'speedtest'],
  ] as const)
    await session.refuse(/finished/, method, path);
  await session.end();
  assert.ok(existsSync(folderOf(where)));
});

test('blobs: CRC, names, a second one of the same name, a manifest alone, one that lists a blob without a checksum', async () => {
  const where = next('106');
  const session = await open(port, 'backup', where);
  const wrong = plainBlob(Buffer.from('text'), { crc: false });
  await session.refuse(/CRC/, 'POST', 'blob', { 'file-name': 'a.blob', 'encoded-size': wrong.length }, wrong);
  const good = plainBlob(Buffer.from('text'));
  await session.refuse(/encoded-size/, 'POST', 'blob', { 'file-name': 'a.blob', 'encoded-size': 99 }, good);
  await session.refuse(/file-name/, 'POST', 'blob', { 'file-name': 'a.fidx', 'encoded-size': good.length }, good);
  await session.blob('a.blob', plainBlob(Buffer.from('before')));
  const listed = await session.blob('a.blob', good);
  await session.finish(where, [{ ...listed, csum: '', size: 1 }]);
  await session.end();
  assert.ok(stored(where, 'a.blob').equals(good));
  const files = (JSON.parse(zstdDecompressSync(stored(where, 'index.json.blob').subarray(12)).toString()) as { files: unknown })
    .files;
  assert.deepEqual(files, [listed]);
  const alone = next('107');
  const other = await open(port, 'backup', alone);
  await other.finish(alone, []);
  await other.end();
});

test('times and rivals: the same second, an older one, a second session of the group; another group is free', async () => {
  const where = next('108');
  const session = await open(port, 'backup', where);
  const refused = async (at: Where, pattern: RegExp, more = {}): Promise<void> => {
    const answer = await tryOpen(port, 'backup', at, more);
    assert.ok(!(answer instanceof Session) && answer.status === 400 && pattern.test(answer.rest), JSON.stringify(answer));
  };
  await refused(next('108'), /already running/);
  const free = await open(port, 'backup', { ...where, id: '109' });
  await free.end();
  await session.finish(where, [await session.blob('a.blob', plainBlob(Buffer.from('1')))]);
  await session.end();
  await refused(where, /not after the last one|exists/);
  await refused({ ...where, at: where.at - 1 }, /not after the last one/);
  await refused({ ...where, at: 0 }, /backup-time/);
  await refused(next('108'), /benchmark/, { benchmark: 1 });
});

test('a benchmark is never kept, and may have no base', async () => {
  const where = next('benchmark', { type: 'host' });
  const session = await open(port, 'backup', where, { benchmark: 'yes', debug: 1 });
  assert.equal(await session.ok('POST', 'speedtest', {}, randomBytes(chunkBytes)), null);
  await session.blob('index.json.blob', manifestBlob(where, []));
  assert.equal((await session.call('POST', 'finish')).status, 400);
  await session.end();
  await gone(where);
});

test('a snapshot that was verified and failed is nobody’s base', async () => {
  const where = next('110');
  const session = await open(port, 'backup', where);
  await session.finish(where, [await session.image('d.fidx', chunkBytes, [noise])]);
  await session.end();
  const failed = { state: 'failed', upid: 'UPID:x' };
  const snapshot = { namespace: [], type: 'vm', id: '110', atSeconds: where.at } as const;
  await running.made.store.updateUnprotected(snapshot, (old) => ({ ...old, verify_state: failed }));
  const again = await open(port, 'backup', next('110'));
  assert.equal(await again.ok('GET', 'previous_backup_time'), null);
  await again.refuse(/previous/, 'GET', 'previous', { 'archive-name': 'd.fidx' });
  await again.end();
});
