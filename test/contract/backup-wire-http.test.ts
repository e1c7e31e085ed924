import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { connect as connectTls } from 'node:tls';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as wait } from 'node:timers/promises';
import { after, before, test } from 'node:test';
import { hashSecret } from '#programs/backup/access.ts';
import { rest, restBytes, upgrade } from './backup-client.ts';
import { startTestServer, type RunningServer } from './backup-server-parts.ts';
import { chunkBytes, open, plainBlob, plainChunk, type Where } from './backup-wire-parts.ts';

/** Readers, and the plain HTTP around the sessions: who one is, envelopes, bodies. */
let running: RunningServer;
let port: number;
let second = 1_720_000_000;
const token = 'PBSAPIToken u@pbs!t:geheim';

before(async () => {
  running = await startTestServer();
  ({ port } = running);
});
after(() => running.end());

const next = (id: string): Where => ({ id, at: (second += 1) });
const folderOf = ({ type = 'vm', id, at }: Where): string =>
  join(running.made.root, type, id, `${new Date(at * 1_000).toISOString().slice(0, 19)}Z`);
const zero = plainChunk(new Uint8Array(chunkBytes), { compress: true });
const noise = plainChunk(randomBytes(chunkBytes));
const tail = plainChunk(randomBytes(1_000));

type Login = { username: string; ticket: string; CSRFPreventionToken: string };
async function logIn(username: string, password: string): Promise<{ status: number; data: Login }> {
  const body = new URLSearchParams({ username, password }).toString();
  const { status, text } = await rest(
    port,
    'POST',
    '/api2/json/access/ticket',
    { 'content-type': 'application/x-www-form-urlencoded' },
    body,
  );
  return {
    status,
    data: status === 200 ? (JSON.parse(text) as { data: Login }).data : { username: '', ticket: '', CSRFPreventionToken: '' },
  };
}

/** One request as it is written, and all of the answer. */
async function raw(text: string | Buffer): Promise<string> {
  const socket = connectTls({ port, host: '127.0.0.1', rejectUnauthorized: false, ALPNProtocols: ['http/1.1'] });
  await once(socket, 'secureConnect');
  socket.write(text);
  let answer = '';
  socket.on('data', (piece: Buffer) => (answer += piece.toString()));
  socket.on('error', () => {});
  await once(socket, 'close');
  return answer;
}

test('a reader gets what it downloaded the index of, and keeps its snapshot from removal', async () => {
  const where = next('111');
  const session = await open(port, 'backup', where);
  await session.finish(where, [
    await session.image('d.fidx', 2 * chunkBytes, [zero, noise]),
    await session.blob('a.blob', plainBlob(Buffer.from('1'))),
  ]);
  await session.end();
  const [one, two] = [await open(port, 'reader', where), await open(port, 'reader', where)];
  assert.ok((await one.call('GET', 'download', { 'file-name': 'a.blob' })).bytes.equals(plainBlob(Buffer.from('1'))));
  const asked = await one.call('GET', 'chunk', { digest: noise.digest });
  assert.equal(asked.status, 401);
  const index = await one.call('GET', 'download', { 'file-name': 'd.fidx' });
  assert.ok(index.bytes.equals(readFileSync(join(folderOf(where), 'd.fidx'))));
  assert.ok((await one.call('GET', 'chunk', { digest: noise.digest })).bytes.equals(noise.encoded));
  assert.equal((await two.call('GET', 'chunk', { digest: noise.digest })).status, 401, 'of another session');
  assert.equal((await one.call('GET', 'chunk', { digest: tail.digest })).status, 401, 'of another snapshot');
  assert.equal((await one.call('GET', 'download', { 'file-name': 'none.fidx' })).status, 404);
  assert.ok((await one.call('GET', 'speedtest')).bytes.equals(Buffer.alloc(1024 * 1024, 0x41)));
  const snapshot = { namespace: [], type: 'vm', id: '111', atSeconds: where.at } as const;
  await assert.rejects(running.made.store.removeSnapshot(snapshot), /in use/);
  await one.end();
  await assert.rejects(running.made.store.removeSnapshot(snapshot), /in use/);
  await two.end();
  for (const deadline = Date.now() + 10_000; existsSync(folderOf(where)) && Date.now() < deadline; await wait(20))
    await running.made.store.removeSnapshot(snapshot).catch(() => {});
  assert.ok(!existsSync(folderOf(where)));
});

test('a login is a ticket of the known form; it renews itself, and only as long as its user lives', async () => {
  const { status, data } = await logIn('u@pbs', 'passwort');
  assert.equal(status, 200);
  assert.match(data.ticket, /^PBS:u@pbs:[0-9A-F]{8}::[A-Za-z0-9+/]+=*$/);
  assert.match(data.CSRFPreventionToken, /^[0-9A-F]{8}:[A-Za-z0-9+/]+=*$/);
  assert.equal(data.username, 'u@pbs');
  assert.equal((await logIn('u@pbs', data.ticket)).status, 200, 'the ticket in place of the password');
  assert.equal((await logIn('v@pbs', data.ticket)).status, 401, 'for oneself only');
  assert.equal((await logIn('u@pbs', `${data.ticket.slice(0, -3)}AAA`)).status, 401);
  assert.equal((await logIn('u@pbs!t', 'geheim')).status, 401, 'a token is no login');
  running.services.book.add({ id: 'x@pbs', secretHash: hashSecret('passwort x') });
  const mine = (await logIn('x@pbs', 'passwort x')).data.ticket;
  running.services.book.change('x@pbs', { isEnabled: false });
  assert.equal((await logIn('x@pbs', mine)).status, 401, 'nobody renews what was taken from him');
  running.services.book.remove('x@pbs');
  assert.equal((await logIn('x@pbs', mine)).status, 401);
});

test('cookies of both names, percent-encoded or not; changes take the token against forged requests', async () => {
  const { data } = await logIn('u@pbs', 'passwort');
  const version = (headers: Record<string, string>): Promise<number> =>
    rest(port, 'GET', '/api2/json/version', headers).then(({ status }) => status);
  for (const name of ['PBSAuthCookie', '__Host-PBSAuthCookie'])
    for (const value of [encodeURIComponent(data.ticket), data.ticket])
      assert.equal(await version({ cookie: `a=b; ${name}=${value}; c=d` }), 200);
  assert.equal(await version({ cookie: 'PBSAuthCookie=PBS:u@pbs:00000000::AAAA' }), 401);
  const where = next('112');
  const session = await open(port, 'backup', where);
  await session.finish(where, [await session.blob('a.blob', plainBlob(Buffer.from('1')))]);
  await session.end();
  const change = async (headers: Record<string, string>): Promise<number> =>
    (
      await rest(
        port,
        'PUT',
        '/api2/json/admin/datastore/store/notes',
        headers,
        JSON.stringify({ 'backup-type': 'vm', 'backup-id': '112', 'backup-time': where.at, notes: 'n' }),
      )
    ).status;
  const cookie = `PBSAuthCookie=${encodeURIComponent(data.ticket)}`;
  assert.equal(await change({ cookie }), 401);
  assert.equal(await change({ cookie, CSRFPreventionToken: `${data.CSRFPreventionToken.slice(0, 9)}AAAA` }), 401);
  assert.equal(
    await change({ cookie, CSRFPreventionToken: data.CSRFPreventionToken }),
    200,
    'the group is of his token, and so his',
  );
});

test('tokens: space or =, a secret that is percent-encoded', async () => {
  running.services.book.add({ id: 'y@pbs', secretHash: null });
  running.services.book.add({ id: 'y@pbs!t', secretHash: hashSecret('a b:c%') });
  for (const authorization of ['PBSAPIToken y@pbs!t:a%20b%3Ac%25', 'PBSAPIToken=y@pbs!t:a%20b:c%25'])
    assert.equal((await rest(port, 'GET', '/api2/json/version', { authorization })).status, 200, authorization);
  for (const authorization of ['PBSAPIToken y@pbs!t:a%2', 'PBSAPIToken y@pbs:x', 'PBSAPIToken', 'Basic eDp5'])
    assert.equal((await rest(port, 'GET', '/api2/json/version', { authorization })).status, 401, authorization);
});

test('answers have one content type, errors are plain text; the other envelope tells them inside', async () => {
  const get = (path: string, more = ''): Promise<string> =>
    raw(`GET ${path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n${more}\r\n`);
  const ping = await get('//api2//json/ping');
  assert.match(
    ping,
    /^HTTP\/1\.1 200 [\s\S]*content-type: application\/json;charset=UTF-8\r\n[\s\S]*\{"data":\{"pong":true\}\}$/i,
  );
  const refused = await get('/api2/json/version');
  assert.match(
    refused,
    /^HTTP\/1\.1 401 [\s\S]*content-type: application\/json;charset=UTF-8\r\n[\s\S]*\r\n\r\nauthentication failed/i,
  );
  assert.match(await get('/api2/json/nothing', `Authorization: ${token}\r\n`), /^HTTP\/1\.1 404 /);
  const inside = await get('/api2/extjs/admin/datastore/store/status?verbose=maybe', `Authorization: ${token}\r\n`);
  assert.match(inside, /^HTTP\/1\.1 200 [\s\S]*"success":0/);
  assert.match(inside, /"message":"verbose: /);
  assert.match(await raw('GET /api2/json/ping HTTP/1.1\r\nConnection: close\r\n\r\n'), /pong/, 'without Host');
});

test('a body that is too long is answered, not cut off', async () => {
  const body = Buffer.alloc(3 * 1024 * 1024, ' ');
  const head = `POST /api2/json/admin/datastore/store/gc HTTP/1.1\r\nHost: x\r\nAuthorization: ${token}\r\ncontent-length: ${body.length}\r\n\r\n`;
  assert.match(
    await raw(Buffer.concat([Buffer.from(head), body])),
    /^HTTP\/1\.1 400 [\s\S]*the body is longer than 524288 bytes/,
  );
});

test('an upgrade to another protocol than the path’s is refused in words', async () => {
  const path = '/api2/json/backup?store=store&backup-type=vm&backup-id=1&backup-time=5';
  for (const [target, protocol, status] of [
    [path, 'proxmox-backup-reader-protocol-v1', 400],
    [path, 'websocket', 400],
    ['/api2/json/other', 'proxmox-backup-protocol-v1', 404],
  ] as const) {
    const answer = await upgrade(port, target, [
      'Host: x',
      `Authorization: ${token}`,
      'Connection: upgrade',
      `Upgrade: ${protocol}`,
    ]);
    assert.equal('status' in answer ? answer.status : 101, status, protocol);
  }
});

test('the client’s log comes once, after the finish, and is listed; files tell their sizes and modes', async () => {
  const where = next('113');
  const session = await open(port, 'backup', where);
  const listed = await session.image('d.fidx', chunkBytes, [noise]);
  await session.finish(where, [listed]);
  await session.end();
  const query = `backup-type=vm&backup-id=113&backup-time=${where.at}`;
  const base = '/api2/json/admin/datastore/store';
  const headers = { authorization: token };
  const log = plainBlob(Buffer.from('all went well'));
  const bad = plainBlob(Buffer.from('all went well'), { crc: false });
  assert.equal((await restBytes(port, `${base}/upload-backup-log?${query}`, headers, bad)).status, 400);
  assert.equal((await restBytes(port, `${base}/upload-backup-log?${query}`, headers, log)).status, 200);
  assert.equal((await restBytes(port, `${base}/upload-backup-log?${query}`, headers, log)).status, 400, 'once');
  const files = JSON.parse((await rest(port, 'GET', `${base}/files?${query}`, headers)).text) as {
    data: Record<string, unknown>[];
  };
  const manifestBytes = readFileSync(join(folderOf(where), 'index.json.blob')).length;
  assert.deepEqual(files.data, [
    { filename: 'd.fidx', 'crypt-mode': 'none', size: chunkBytes },
    { filename: 'index.json.blob', 'crypt-mode': 'none', size: manifestBytes },
    { filename: 'client.log.blob' },
  ]);
  const list = JSON.parse((await rest(port, 'GET', `${base}/snapshots?backup-type=vm&backup-id=113`, headers)).text) as {
    data: Record<string, unknown>[];
  };
  assert.equal(list.data[0]?.['size'], chunkBytes + manifestBytes);
  assert.ok((await restBytes(port, `${base}/download?${query}&file-name=client.log.blob`, headers)).bytes.equals(log));
  assert.ok(
    (await restBytes(port, `${base}/download-decoded?${query}&file-name=client.log.blob`, headers)).bytes.equals(
      Buffer.from('all went well'),
    ),
  );
});
