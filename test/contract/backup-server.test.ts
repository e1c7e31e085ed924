import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as wait } from 'node:timers/promises';
import { after, before, test } from 'node:test';
import { decodeBlob, encodeBlob } from '#core/backup/blob.ts';
import { encodeText, formatHex, joinBytes } from '#core/backup/bytes.ts';
import { computeIndexCsum, digestAt, parseIndex } from '#core/backup/chunk-index.ts';
import { fixedChunkBytes } from '#core/backup/index-writer.ts';
import { nodeBytes } from '../../src/adapters/bytes/node-bytes.ts';
import { rest, upgrade, type Client } from './backup-client.ts';
import { startTestServer, type RunningServer } from './backup-server-parts.ts';
import { chunkOf } from './datastore-parts.ts';

const token = 'PBSAPIToken=u@pbs!t:geheim';
const backupProtocol = 'proxmox-backup-protocol-v1';
const readerProtocol = 'proxmox-backup-reader-protocol-v1';
let running: RunningServer;
let server: RunningServer['server'];
let made: RunningServer['made'];

before(async () => {
  running = await startTestServer();
  ({ server, made } = running);
});

after(() => running.end());

let second = 1_700_000_000;
const target = (protocol: 'backup' | 'reader', at: number, more = ''): string =>
  `//api2/json/${protocol}?store=store&backup-type=vm&backup-id=100&backup-time=${at}${more}`;

async function open(protocol: 'backup' | 'reader', at: number): Promise<Client> {
  const name = protocol === 'backup' ? backupProtocol : readerProtocol;
  const client = await upgrade(server.port, target(protocol, at), [
    'Host: x',
    `Authorization: ${token}`,
    'Connection: upgrade',
    `Upgrade: ${name}`,
  ]);
  assert.ok('call' in client, JSON.stringify(client));
  return client;
}

async function end(client: Client): Promise<void> {
  client.http2.close();
  client.socket.end();
  const deadline = Date.now() + 10_000;
  while (Date.now() < deadline) {
    if (client.socket.destroyed) return;
    await wait(5);
  }
  client.socket.destroy();
}

const image = [
  new Uint8Array(fixedChunkBytes),
  Uint8Array.from(randomBytes(fixedChunkBytes)),
  Uint8Array.from(randomBytes(1_000)),
];
const imageBytes = 2 * fixedChunkBytes + 1_000;

async function uploadImage(client: Client, at: number): Promise<void> {
  const wid = Number(
    JSON.parse((await client.call('POST', 'fixed_index', { 'archive-name': 'disk.img.fidx', size: imageBytes })).text).data,
  );
  const chunks = image.map((data) => chunkOf(data));
  const uploads = chunks.map(({ digest, sizeBytes, encoded }) =>
    client.call(
      'POST',
      'fixed_chunk',
      { wid, digest: formatHex(digest), size: sizeBytes, 'encoded-size': encoded.length },
      encoded,
    ),
  );
  for (const { status, text } of await Promise.all(uploads)) assert.equal(status, 200, text);
  const digests = chunks.map(({ digest }) => formatHex(digest));
  const appended = await client.call(
    'PUT',
    'fixed_index',
    {},
    { wid, 'digest-list': digests, 'offset-list': [0, 4_194_304, 8_388_608] },
  );
  assert.equal(appended.status, 200, appended.text);
  const csum = computeIndexCsum(joinBytes(chunks.map(({ digest }) => digest)), nodeBytes);
  const closing = { wid, 'chunk-count': 3, size: imageBytes, csum: formatHex(csum) };
  assert.equal((await client.call('POST', 'fixed_close', {}, closing)).status, 200);
  assert.equal(
    (await client.call('POST', 'fixed_close', {}, closing)).status,
    400,
    'closed twice: refused, and the session lives on',
  );
  const files = [{ filename: 'disk.img.fidx', 'crypt-mode': 'none', size: imageBytes, csum: formatHex(csum) }];
  const json = { 'backup-type': 'vm', 'backup-id': '100', 'backup-time': at, files };
  const manifest = encodeBlob(encodeText(JSON.stringify(json)), { compress: true, crypt: null }, nodeBytes);
  const stored = await client.call('POST', 'blob', { 'file-name': 'index.json.blob', 'encoded-size': manifest.length }, manifest);
  assert.equal(stored.status, 200, stored.text);
}

test('an image goes in by a backup session and comes out by a reader session', async () => {
  const at = (second += 1);
  const client = await open('backup', at);
  assert.equal((await client.call('GET', 'previous_backup_time')).text, '{"data":null}');
  assert.equal((await client.call('GET', 'previous', { 'archive-name': 'disk.img.fidx' })).status, 400);
  await uploadImage(client, at);
  const finished = await client.call('POST', 'finish');
  assert.deepEqual([finished.status, finished.text], [200, '{"data":null}']);
  assert.equal((await client.call('GET', 'previous_backup_time')).status, 400, 'after finish every call fails');
  await end(client);

  const reader = await open('reader', at);
  const zero = chunkOf(image[0]!).digest;
  assert.equal((await reader.call('GET', 'chunk', { digest: formatHex(zero) })).status, 401, 'no index was downloaded yet');
  const index = parseIndex(
    'fixed',
    (await reader.call('GET', 'download', { 'file-name': 'disk.img.fidx' })).bytes,
    'disk.img.fidx',
  );
  const chunks = await Promise.all(
    [0, 1, 2].map((number) => reader.call('GET', 'chunk', { digest: formatHex(digestAt(index, number)) })),
  );
  for (const [number, { bytes }] of chunks.entries()) {
    const data = decodeBlob(bytes, { key: null, maxBytes: fixedChunkBytes, what: 'chunk' }, nodeBytes);
    assert.ok(Buffer.from(data).equals(image[number]!));
  }
  assert.equal((await reader.call('GET', 'speedtest')).bytes.length, 1_048_576);
  assert.equal((await reader.call('GET', 'download', { 'file-name': '../owner' })).status, 400);
  await end(reader);
});

test('the next backup refers to what the last one holds, and to nothing else', async () => {
  const at = (second += 1);
  const client = await open('backup', at);
  const digest = formatHex(chunkOf(image[1]!).digest);
  const wid = Number(JSON.parse((await client.call('POST', 'dynamic_index', {}, { 'archive-name': 'a.didx' })).text).data);
  const append = () => client.call('PUT', 'dynamic_index', {}, { wid, 'digest-list': [digest], 'offset-list': [0] });
  const before = await append();
  assert.equal(before.status, 400);
  assert.match(
    before.text,
    /no such chunk/,
    'a chunk that exists is unknown until the session has it from an index or an upload',
  );
  assert.equal((await client.call('GET', 'previous', { 'archive-name': 'disk.img.fidx' })).status, 200);
  assert.equal((await client.call('GET', 'previous', { 'archive-name': 'none.fidx' })).status, 404);
  assert.equal((await append()).status, 200);
  await end(client);
  const deadline = Date.now() + 5_000;
  const folder = join(made.root, 'vm/100', `${new Date(at * 1_000).toISOString().slice(0, 19)}Z`);
  while (existsSync(folder) && Date.now() < deadline) await wait(10);
  assert.ok(!existsSync(folder), 'what was not finished is gone');
});

test('bad chunks, sizes and numbers are refused, naming the field, and the session lives on', async () => {
  const client = await open('backup', (second += 1));
  const wid = Number(JSON.parse((await client.call('POST', 'dynamic_index', { 'archive-name': 'a.didx' })).text).data);
  const { digest, encoded, sizeBytes } = chunkOf(Uint8Array.from(randomBytes(100)));
  const good = { wid, digest: formatHex(digest), size: sizeBytes, 'encoded-size': encoded.length };
  const cases: [Record<string, string | number>, Uint8Array, RegExp][] = [
    [{ ...good, digest: 'ab'.repeat(32) }, encoded, /^digest: /],
    [{ ...good, size: 99 }, encoded, /^size: /],
    [{ ...good, 'encoded-size': 50 }, encoded, /^encoded-size: /],
    [{ ...good, size: 2 ** 25 }, encoded, /^size: /],
    [{ ...good, wid: 7 }, encoded, /^wid: /],
    [{ ...good, wid: 257 }, encoded, /^wid: /],
    [{ ...good, 'encoded-size': 20 }, randomBytes(20), /no blob begins with/],
  ];
  for (const [query, body, pattern] of cases) {
    const { status, text } = await client.call('POST', 'dynamic_chunk', query, body);
    assert.deepEqual([status, pattern.test(text)], [400, true], text);
  }
  const huge = await client.call('POST', 'dynamic_chunk', good, new Uint8Array(17 * 1024 * 1024)).catch(() => ({ status: 400 }));
  assert.equal(huge.status, 400);
  assert.equal((await client.call('POST', 'dynamic_index', {}, [1, 2])).status, 400);
  assert.equal((await client.call('POST', 'finish')).status, 400);
  assert.equal((await client.call('POST', 'nonsense')).status, 404);
  assert.equal((await client.call('POST', 'dynamic_chunk', good, encoded)).status, 200);
  await end(client);
});

test('clients that leave out Host, Connection or ALPN are served; strangers and wrong targets are not', async () => {
  const at = (second += 1);
  const lines = [`Authorization: ${token}`, `Upgrade: ${backupProtocol}`];
  for (const [head, alpn] of [
    [lines, false],
    [['Host: x', ...lines], true],
  ] as const) {
    const client = await upgrade(server.port, target('backup', at).slice(1), [...head], alpn);
    assert.ok('call' in client, JSON.stringify(client));
    assert.equal((await client.call('GET', 'previous_backup_time')).status, 200);
    await end(client);
    await wait(50);
  }
  const refuse = async (path: string, ...head: string[]): Promise<number> => {
    const answer = await upgrade(server.port, path, ['Host: x', `Upgrade: ${backupProtocol}`, ...head]);
    assert.ok(!('call' in answer));
    return answer.status;
  };
  assert.equal(await refuse(target('backup', at)), 401);
  assert.equal(await refuse(target('backup', at), 'Authorization: PBSAPIToken=u@pbs!t:wrong'), 401);
  assert.equal(
    await refuse(target('backup', at), 'Authorization: PBSAPIToken v@pbs!t:other'),
    403,
    'the group is of somebody else',
  );
  assert.equal(await refuse(target('backup', at, '&ns=nowhere'), `Authorization: ${token}`), 404);
  assert.equal(await refuse(target('backup', 5), `Authorization: ${token}`), 400, 'not after the last one');
  assert.equal(await refuse(target('backup', at).replace('store=store', 'store=other'), `Authorization: ${token}`), 403);
  assert.equal(await refuse('/api2/json/backup?store=store&backup-type=xx', `Authorization: ${token}`), 400);
});

test('the REST calls that other programs need', async () => {
  const headers = { authorization: token.replace('=', ' ') };
  assert.deepEqual(await rest(server.port, 'GET', '/api2/json/ping', {}), { status: 200, text: '{"data":{"pong":true}}' });
  assert.equal((await rest(server.port, 'GET', '/api2/json/version', {})).status, 401);
  assert.match((await rest(server.port, 'GET', '//api2/json/version', headers)).text, /"repoid"/);
  const base = '/api2/json/admin/datastore';
  assert.equal((await rest(server.port, 'GET', base, headers)).text, '{"data":[{"store":"store"}]}');
  const snapshots = JSON.parse((await rest(server.port, 'GET', `${base}/store/snapshots`, headers)).text) as {
    data: Record<string, unknown>[];
    total: number;
  };
  assert.equal(snapshots.total, 1);
  assert.ok(Number(snapshots.data[0]?.['size']) > imageBytes, 'the manifest counts too');
  const groups = JSON.parse((await rest(server.port, 'GET', `${base}/store/groups`, headers)).text) as {
    data: Record<string, unknown>[];
  };
  assert.deepEqual([groups.data[0]?.['backup-count'], groups.data[0]?.['owner']], [1, 'u@pbs!t']);
  assert.equal((await rest(server.port, 'GET', `${base}/other/groups`, headers)).status, 403);
  const login = await rest(
    server.port,
    'POST',
    '/api2/json/access/ticket',
    {},
    JSON.stringify({ username: 'u@pbs', password: 'passwort' }),
  );
  const { ticket, CSRFPreventionToken } = (JSON.parse(login.text) as { data: Record<string, string> }).data;
  const cookie = `PBSAuthCookie=${encodeURIComponent(ticket ?? '')}`;
  const atSeconds = snapshots.data[0]?.['backup-time'];
  const change = (more: Record<string, string>) =>
    rest(
      server.port,
      'PUT',
      `${base}/store/protected`,
      { cookie, 'content-type': 'application/x-www-form-urlencoded', ...more },
      `backup-type=vm&backup-id=100&backup-time=${String(atSeconds)}&protected=1`,
    );
  assert.equal((await change({})).status, 401, 'a cookie alone may not change anything');
  assert.equal((await change({ csrfpreventiontoken: CSRFPreventionToken ?? '' })).status, 200);
  const query = `backup-type=vm&backup-id=100&backup-time=${String(atSeconds)}`;
  assert.equal((await rest(server.port, 'DELETE', `${base}/store/snapshots?${query}`, headers)).status, 400, 'protected');
  const wrong = await rest(
    server.port,
    'POST',
    '/api2/json/access/ticket',
    {},
    JSON.stringify({ username: 'u@pbs', password: 'x' }),
  );
  assert.equal(wrong.status, 401);
});

test('hundreds of upgrades, four at a time, some cut in the middle, and the server still stands', async () => {
  let number = 0;
  const lane = async (id: string): Promise<void> => {
    while ((number += 1) <= 200) {
      const mine = number;
      const path = target('backup', (second += 1)).replace('backup-id=100', `backup-id=${id}`);
      const client = await upgrade(server.port, path, ['Host: x', `Authorization: ${token}`, `Upgrade: ${backupProtocol}`]);
      if (!('call' in client)) {
        assert.match(client.rest, /already running/, 'the last connection of this lane is still being cleared away');
        await wait(5);
        continue;
      }
      const calls = [1, 2, 3].map(() => client.call('POST', 'speedtest', {}, new Uint8Array(100_000)).catch(() => null));
      if (mine % 3 === 0) client.socket.destroy();
      await Promise.all(calls);
      client.socket.destroy();
    }
  };
  await Promise.all(['201', '202', '203', '204'].map(lane));
  assert.equal((await rest(server.port, 'GET', '/api2/json/ping', {})).status, 200);
});
