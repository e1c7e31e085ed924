import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { zstdDecompressSync } from 'node:zlib';
import { encodeBlob } from '#core/backup/blob.ts';
import { encodeText, formatHex, joinBytes } from '#core/backup/bytes.ts';
import { createCatalogWriter } from '#core/backup/catalog.ts';
import { chunkPath } from '#core/backup/names.ts';
import { PxarEncoder } from '#core/backup/pxar-encoder.ts';
import { modeType } from '#core/backup/pxar-format.ts';
import { deriveCryptKey } from '#core/backup/crypt-key.ts';
import { nodeBytes } from '../../src/adapters/bytes/node-bytes.ts';
import { restBytes } from './backup-client.ts';
import { createAsker, startTestServer, type RunningServer, type Who } from './backup-server-parts.ts';
import { addArchive, addManifest, chunkOf } from './datastore-parts.ts';

let running: RunningServer;
let ask: ReturnType<typeof createAsker>;
const base = 'admin/datastore/store';
const hour = 3_600;
const content = encodeText('patient record '.repeat(10_000));
const stat = (mode: number) => ({ mode, flags: 0n, uid: 1_000, gid: 1_000, mtimeSeconds: 1_700_000_000, mtimeNanos: 0 });

/** etc/passwd and notes, as an archive and a catalog. */
function makeTree(): { archive: Uint8Array; catalog: Uint8Array } {
  const encoder = new PxarEncoder();
  const file = (name: string, data: Uint8Array): Uint8Array => {
    const { bytes } = encoder.startFile({ name: encodeText(name), stat: stat(modeType.file | 0o640) }, data.length);
    encoder.addPayload(data.length);
    return joinBytes([bytes, data]);
  };
  const archive = [
    encoder.startRoot(stat(modeType.directory | 0o755)),
    encoder.startDirectory({ name: encodeText('etc'), stat: stat(modeType.directory | 0o755) }),
    file('passwd', encodeText('root:x:0\n')),
    encoder.addSymlink({ name: encodeText('link'), stat: stat(modeType.symlink | 0o777) }, encodeText('passwd')),
    encoder.endDirectory(),
    file('notes', content),
    encoder.endDirectory(),
  ];
  const writer = createCatalogWriter();
  const catalog = [writer.header];
  writer.begin(encodeText('root.pxar.didx'));
  writer.begin(encodeText('etc'));
  writer.add({ kind: 'file', name: encodeText('passwd'), sizeBytes: 9, mtimeSeconds: 1_700_000_000 });
  catalog.push(writer.end());
  writer.add({ kind: 'file', name: encodeText('notes'), sizeBytes: content.length, mtimeSeconds: 5 });
  catalog.push(writer.end(), writer.finish());
  return { archive: joinBytes(archive), catalog: joinBytes(catalog) };
}

async function backup(
  atSeconds: number,
  id: string,
  owner: string,
  archives: Record<string, Uint8Array>,
  namespace: string[] = [],
): Promise<void> {
  const session = await running.made.store.startBackup({ namespace, type: 'host', id, atSeconds }, owner);
  const entries = [];
  for (const [name, data] of Object.entries(archives)) {
    const pieces = [data.subarray(0, 50_000), data.subarray(50_000)].filter(({ length }) => length > 0);
    const chunks = pieces.map((piece) => chunkOf(piece));
    for (const chunk of chunks) await session.addChunk(chunk);
    entries.push(await addArchive(session, name, chunks));
  }
  await addManifest(session, entries);
  await session.finish();
}

const snapshot = (atSeconds: number, id: string, more: Record<string, unknown> = {}) => ({
  'backup-type': 'host',
  'backup-id': id,
  'backup-time': atSeconds,
  ...more,
});

before(async () => {
  running = await startTestServer();
  ask = createAsker(running.port);
  const { archive, catalog } = makeTree();
  await backup(hour, 'tree', 'u@pbs!t', { 'root.pxar.didx': archive, 'catalog.pcat1.didx': catalog });
  for (const at of [1, 2, 3, 4]) await backup(at * hour, 'many', 'u@pbs!t', { 'data.didx': randomBytes(1_000) });
  await backup(hour, 'other', 'v@pbs!t', { 'data.didx': encodeText('belongs to v') });
});

after(() => running.end());

async function finishTask(who: Who, upid: unknown): Promise<string> {
  assert.match(String(upid), /^UPID:test:/);
  const { end } = await running.services.tasks.wait(String(upid));
  const status = await ask(who, 'GET', `nodes/localhost/tasks/${encodeURIComponent(String(upid))}/status`);
  assert.deepEqual([status.status, status.data?.exitstatus], [200, end?.status]);
  return end?.status ?? '';
}

test('one sees his own groups, an auditor all, a stranger nothing', async () => {
  const ids = async (who: Who) =>
    ((await ask(who, 'GET', `${base}/groups`)).data ?? []).map((group: Record<string, string>) => group['backup-id']).toSorted();
  assert.deepEqual(await ids('u@pbs!t'), ['many', 'tree']);
  assert.deepEqual(await ids('u@pbs'), ['many', 'tree'], 'a user sees what his tokens own');
  assert.deepEqual(await ids('admin@pbs'), ['many', 'other', 'tree']);
  for (const path of [`${base}/groups`, `${base}/snapshots`, `${base}/status`, 'admin/datastore/nowhere/status'])
    assert.equal((await ask('w@pbs!t', 'GET', path)).status, 403, path);
  assert.deepEqual((await ask('w@pbs!t', 'GET', 'admin/datastore')).data, []);
  assert.deepEqual((await ask('w@pbs!t', 'GET', `${base}/namespace`)).data, []);
  for (const [method, call] of [
    ['GET', 'files'],
    ['GET', 'notes'],
    ['DELETE', 'snapshots'],
    ['PUT', 'protected'],
  ] as const)
    assert.equal(
      (await ask('u@pbs!t', method, `${base}/${call}`, snapshot(hour, 'other', call === 'protected' ? { protected: 1 } : {})))
        .status,
      403,
      call,
    );
});

test('files come as stored, decoded, and one by one out of an archive', async () => {
  const get = (call: string, params: Record<string, unknown>) =>
    restBytes(
      running.port,
      `/api2/json/${base}/${call}?${new URLSearchParams(Object.entries(snapshot(hour, 'tree', params)).map(([k, v]): [string, string] => [k, String(v)])).toString()}`,
      {
        authorization: 'PBSAPIToken=u@pbs!t:geheim',
      },
    );
  const { archive } = makeTree();
  const stored = await get('download', { 'file-name': 'index.json.blob' });
  assert.equal(formatHex(stored.bytes.subarray(0, 8)), '31b958426fb6a37f');
  const manifest = JSON.parse((await get('download-decoded', { 'file-name': 'index.json.blob' })).bytes.toString()) as Record<
    string,
    unknown
  >;
  assert.equal(manifest['backup-id'], 'tree');
  assert.ok((await get('download-decoded', { 'file-name': 'root.pxar.didx' })).bytes.equals(Buffer.from(archive)));
  const path = (text: string) => Buffer.from(text).toString('base64');
  assert.equal(
    (await get('pxar-file-download', { filepath: path('/root.pxar.didx/etc/passwd') })).bytes.toString(),
    'root:x:0\n',
  );
  assert.ok((await get('pxar-file-download', { filepath: path('root.pxar.didx/notes') })).bytes.equals(Buffer.from(content)));
  assert.equal((await get('pxar-file-download', { filepath: path('root.pxar.didx/etc') })).status, 501);
  const tar = zstdDecompressSync((await get('pxar-file-download', { filepath: path('root.pxar.didx/etc'), tar: 1 })).bytes);
  assert.deepEqual(
    [tar.toString('latin1', 0, 2), tar.toString('latin1', 512, 520), tar.toString('latin1', 1_024, 1_033)],
    ['./', './passwd', 'root:x:0\n'],
  );
  for (const wrong of ['/root.pxar.didx/none', '/root.pxar.didx/notes/x', '/none.pxar.didx/a'])
    assert.equal((await get('pxar-file-download', { filepath: path(wrong) })).status, 404, wrong);
  for (const wrong of ['/root.pxar.didx/../etc', '/../../etc/passwd', '/index.json.blob'])
    assert.equal((await get('pxar-file-download', { filepath: path(wrong) })).status, 400, wrong);
  assert.equal((await get('download', { 'file-name': '../owner' })).status, 400);
});

test('a catalog is browsed level by level', async () => {
  const list = async (filepath: unknown) =>
    (await ask('u@pbs!t', 'GET', `${base}/catalog`, snapshot(hour, 'tree', { filepath }))).data;
  const top = await list('/');
  assert.deepEqual(top, [
    { filepath: Buffer.from('/root.pxar.didx').toString('base64'), text: 'root.pxar.didx', type: 'd', leaf: false },
  ]);
  const inside = await list(top[0]?.filepath);
  assert.deepEqual(
    inside.map(({ text, type, leaf, size }: Record<string, unknown>) => [text, type, leaf, size]),
    [
      ['etc', 'd', false, undefined],
      ['notes', 'f', true, content.length],
    ],
  );
  assert.equal((await list(inside[0]?.filepath))[0]?.text, 'passwd');
});

test('notes, protection, locks and owners', async () => {
  const one = snapshot(2 * hour, 'many');
  assert.equal((await ask('u@pbs!t', 'PUT', `${base}/notes`, { ...one, notes: 'first\nsecond' })).status, 200);
  assert.equal((await ask('u@pbs!t', 'GET', `${base}/notes`, one)).data, 'first\nsecond');
  const listed = (await ask('u@pbs!t', 'GET', `${base}/snapshots`, { 'backup-id': 'many' })).data;
  assert.equal(listed.find((each: Record<string, number>) => each['backup-time'] === 2 * hour).comment, 'first');
  const group = { 'backup-type': 'host', 'backup-id': 'many' };
  assert.equal((await ask('u@pbs!t', 'PUT', `${base}/group-notes`, { ...group, notes: 'all of them' })).status, 200);
  assert.equal((await ask('u@pbs!t', 'GET', `${base}/group-notes`, group)).data, 'all of them');
  assert.equal((await ask('u@pbs!t', 'PUT', `${base}/protected`, { ...one, protected: true })).status, 200);
  assert.equal((await ask('u@pbs!t', 'GET', `${base}/protected`, one)).data, true);
  assert.equal((await ask('u@pbs!t', 'DELETE', `${base}/snapshots`, one)).status, 400);
  await ask('u@pbs!t', 'PUT', `${base}/protected`, { ...one, protected: 0 });

  const until = Math.floor(Date.now() / 1_000) + 1_000;
  assert.equal((await ask('u@pbs!t', 'PUT', `${base}/locked-until`, { ...one, until })).status, 403, 'locks are the keeper’s');
  assert.equal((await ask('admin@pbs', 'PUT', `${base}/locked-until`, { ...one, until })).status, 200);
  for (const who of ['u@pbs!t', 'u@pbs', 'admin@pbs'] as const) {
    const refused = await ask(who, 'DELETE', `${base}/snapshots`, one);
    assert.deepEqual([refused.status, /locked until/.test(refused.text)], [403, true]);
    assert.equal((await ask(who, 'DELETE', `${base}/groups`, group)).status, 400, 'the group stays with it');
  }
  assert.equal(
    (await ask('admin@pbs', 'PUT', `${base}/locked-until`, { ...one, until: until - 1 })).status,
    403,
    'never earlier',
  );
  assert.equal((await ask('u@pbs!t', 'GET', `${base}/locked-until`, one)).data, until);

  const give = (who: Who, owner: string) =>
    ask(who, 'POST', `${base}/change-owner`, { 'backup-type': 'host', 'backup-id': 'tree', 'new-owner': owner });
  assert.equal((await give('u@pbs!t', 'u@pbs')).status, 403, 'a token gives nothing away');
  assert.equal((await give('u@pbs', 'v@pbs')).status, 403);
  assert.equal((await give('u@pbs', 'u@pbs')).status, 200);
  assert.equal(
    (await ask('u@pbs!t', 'GET', `${base}/files`, snapshot(hour, 'tree'))).status,
    403,
    'a token does not reach its user’s groups',
  );
  assert.equal((await give('u@pbs', 'u@pbs!t')).status, 200);
});

test('prune tells what it would do, does it, and as a task for the whole store', async () => {
  for (const at of [5, 6, 7]) await backup(at * hour, 'many', 'u@pbs!t', { 'data.didx': randomBytes(1_000) });
  const group = { 'backup-type': 'host', 'backup-id': 'many' };
  const dry = await ask('u@pbs!t', 'POST', `${base}/prune`, { ...group, 'keep-last': 1, 'dry-run': true });
  const kept = dry.data
    .filter(({ keep }: { keep: boolean }) => keep)
    .map((each: Record<string, unknown>) => [Number(each['backup-time']) / hour, each['mark']]);
  assert.deepEqual(kept, [
    [7, 'keep'],
    [2, 'locked'],
  ]);
  const count = async () => (await ask('u@pbs!t', 'GET', `${base}/snapshots`, { 'backup-id': 'many' })).data.length;
  const before = await count();
  assert.equal(
    (await ask('u@pbs!t', 'POST', `${base}/prune`, { ...group })).data.every(({ keep }: { keep: boolean }) => keep),
    true,
    'no rule keeps all',
  );
  assert.equal(await count(), before);
  const forecast = await ask('u@pbs!t', 'GET', `${base}/prune-forecast`, {
    ...group,
    'keep-last': 3,
    'interval-hours': 24,
    days: 10,
  });
  assert.deepEqual([forecast.data.left.length, forecast.data.most >= 4], [3, true]);
  assert.equal(
    await finishTask('u@pbs!t', (await ask('u@pbs!t', 'POST', `${base}/prune-datastore`, { 'keep-last': 1 })).data),
    'OK',
  );
  assert.equal(await count(), 2);
  assert.equal((await ask('v@pbs!t', 'GET', `${base}/snapshots`)).data.length, 1, 'what is another’s is not touched');
  assert.equal((await ask('u@pbs!t', 'POST', `${base}/prune`, { ...group, 'keep-last': -1 })).status, 400);
});

test('verify and garbage collection run as tasks with a log', async () => {
  const path = (await running.made.store.readManifest({ namespace: [], type: 'host', id: 'other', atSeconds: hour })).files[0]!;
  assert.equal(path.name, 'data.didx');
  const chunk = join(running.made.root, chunkPath(formatHex(nodeBytes.sha256(encodeText('belongs to v')))));
  const bytes = readFileSync(chunk);
  bytes[bytes.length - 1]! ^= 1;
  writeFileSync(chunk, bytes);
  assert.equal(await finishTask('u@pbs!t', (await ask('u@pbs!t', 'POST', `${base}/verify`)).data), 'OK', 'one’s own are right');
  const all = (await ask('admin@pbs', 'POST', `${base}/verify`, { 'ignore-verified': true })).data;
  assert.match(await finishTask('admin@pbs', all), /verification failed: host\/other/);
  const log = await ask('admin@pbs', 'GET', `nodes/localhost/tasks/${encodeURIComponent(all)}/log`, { limit: 0 });
  assert.match(log.data.map(({ t }: { t: string }) => t).join('\n'), /warning: .*damaged[^]*1 snapshots verified, 1 failed/);
  const listed = (await ask('v@pbs!t', 'GET', `${base}/snapshots`)).data[0];
  assert.equal(listed.verification.state, 'failed');
  assert.ok(existsSync(`${chunk}.0.bad`));
  assert.equal((await ask('u@pbs!t', 'POST', `${base}/gc`)).status, 403);
  assert.equal(await finishTask('admin@pbs', (await ask('admin@pbs', 'POST', `${base}/gc`)).data), 'WARNINGS: 1');
  const status = (await ask('admin@pbs', 'GET', `${base}/gc`)).data;
  assert.deepEqual([status['still-bad'], status['removed-chunks'] > 0, status['last-run-state']], [1, true, 'WARNINGS: 1']);
  assert.equal(
    (await ask('v@pbs!t', 'GET', `nodes/localhost/tasks/${encodeURIComponent(all)}/log`)).status,
    404,
    'a task of another',
  );
  const mine = await ask('u@pbs!t', 'GET', 'nodes/localhost/tasks', { typefilter: 'verify' });
  assert.deepEqual([mine.data.length, mine.total, mine.data[0].user, mine.data[0].worker_type], [1, 1, 'u@pbs!t', 'verify']);
});

test('namespaces come, are seen by whom they concern, and go with what is in them', async () => {
  assert.equal((await ask('u@pbs!t', 'POST', `${base}/namespace`, { name: 'a' })).status, 403);
  for (const [parent, name] of [
    ['', 'a'],
    ['a', 'b'],
    ['', 'c'],
  ])
    assert.equal((await ask('admin@pbs', 'POST', `${base}/namespace`, { parent, name })).status, 200);
  await backup(hour, 'deep', 'admin@pbs', { 'data.didx': encodeText('deep') }, ['a', 'b']);
  const list = async (who: Who, params = {}) =>
    (await ask(who, 'GET', `${base}/namespace`, params)).data.map(({ ns }: { ns: string }) => ns).toSorted();
  assert.deepEqual(await list('admin@pbs'), ['', 'a', 'a/b', 'c']);
  assert.deepEqual(await list('admin@pbs', { 'max-depth': 1, parent: 'a' }), ['a', 'a/b']);
  assert.equal(
    (await ask('admin@pbs', 'PUT', 'access/acl', { path: '/datastore/store/a/b', role: 'DatastoreAudit', 'auth-id': 'w@pbs!t' }))
      .status,
    200,
  );
  await ask('admin@pbs', 'POST', 'access/users', { userid: 'w@pbs' });
  assert.equal(
    (await ask('admin@pbs', 'PUT', 'access/acl', { path: '/datastore/store/a/b', role: 'DatastoreAudit', 'auth-id': 'w@pbs' }))
      .status,
    200,
  );
  assert.deepEqual(await list('w@pbs!t'), ['', 'a', 'a/b'], 'the way there and no more');
  assert.equal((await ask('admin@pbs', 'DELETE', `${base}/namespace`, { ns: 'a' })).status, 400);
  assert.equal((await ask('admin@pbs', 'DELETE', `${base}/namespace`, { ns: 'a', 'delete-groups': 1 })).status, 200);
  assert.deepEqual(await list('admin@pbs'), ['', 'c']);
});

test('users and tokens are made, limited and taken away', async () => {
  const made = await ask('u@pbs', 'POST', 'access/users/u@pbs/token/fresh', { comment: 'laptop' });
  assert.equal(made.data.tokenid, 'u@pbs!fresh');
  const as = (secret: string) =>
    restBytes(running.port, '/api2/json/version', { authorization: `PBSAPIToken=u@pbs!fresh:${secret}` });
  assert.equal((await as(made.data.value)).status, 200);
  assert.equal((await as('wrong')).status, 401);
  assert.equal(
    (await ask('u@pbs', 'PUT', 'access/acl', { path: '/datastore/store', role: 'DatastoreBackup', 'auth-id': 'u@pbs!fresh' }))
      .status,
    200,
  );
  assert.equal(
    (await ask('u@pbs', 'PUT', 'access/acl', { path: '/datastore/store', role: 'DatastoreAdmin', 'auth-id': 'u@pbs' })).status,
    403,
  );
  const permissions = await ask('u@pbs', 'GET', 'access/permissions', {
    'auth-id': 'u@pbs!fresh',
    path: '/datastore/store',
  });
  assert.deepEqual(permissions.data, { '/datastore/store': { 'Datastore.Backup': true } });
  assert.equal((await ask('u@pbs', 'PUT', 'access/users/u@pbs/token/fresh', { enable: false })).status, 200);
  assert.equal((await as(made.data.value)).status, 401);
  await ask('u@pbs', 'PUT', 'access/users/u@pbs/token/fresh', { enable: true, expire: 1 });
  assert.equal((await as(made.data.value)).status, 401, 'expired');
  for (const [who, method, path, params] of [
    ['u@pbs!t', 'POST', 'access/users/u@pbs/token/more', {}],
    ['v@pbs!t', 'DELETE', 'access/users/u@pbs/token/fresh', {}],
    ['u@pbs', 'POST', 'access/users', { userid: 'x@pbs', password: 'longenough' }],
    ['u@pbs', 'PUT', 'access/password', { userid: 'admin@pbs', password: 'longenough' }],
  ] as const)
    assert.equal((await ask(who, method, path, params)).status, 403, `${who} ${path}`);
  assert.equal((await ask('u@pbs', 'DELETE', 'access/users/u@pbs/token/fresh')).status, 200);
  assert.equal((await ask('admin@pbs', 'DELETE', 'access/users/u@pbs')).status, 400, 'it stands in the configuration file');
  assert.equal((await ask('admin@pbs', 'POST', 'access/users', { userid: 'new@pbs', password: 'short' })).status, 400);
  const kept = readFileSync(join(running.scratch, 'access.json'), 'utf8');
  assert.ok(!kept.includes(made.data.value) && !kept.includes('fresh'));
});

test('encrypted archives are not decoded, a log is taken once', async () => {
  const key = deriveCryptKey(randomBytes(32), nodeBytes);
  const session = await running.made.store.startBackup({ namespace: [], type: 'host', id: 'sealed', atSeconds: hour }, 'u@pbs!t');
  const chunk = chunkOf(encodeText('secret'), key);
  await session.addChunk(chunk);
  await addManifest(session, [{ ...(await addArchive(session, 'data.didx', [chunk])), cryptMode: 'encrypt' }]);
  await session.finish();
  const refused = await ask('u@pbs!t', 'GET', `${base}/download-decoded`, snapshot(hour, 'sealed', { 'file-name': 'data.didx' }));
  assert.deepEqual([refused.status, /is encrypted/.test(refused.text)], [400, true]);
  const log = encodeBlob(encodeText('it went well'), { compress: false, crypt: null }, nodeBytes);
  const send = (body: Uint8Array) =>
    restBytes(
      running.port,
      `/api2/json/${base}/upload-backup-log?backup-type=host&backup-id=sealed&backup-time=${hour}`,
      { authorization: 'PBSAPIToken=u@pbs!t:geheim' },
      body,
    );
  assert.equal((await send(encodeText('no blob at all'))).status, 400);
  assert.equal((await send(log)).status, 200);
  assert.equal((await send(log)).status, 400, 'it is not replaced');
});

test('status tells space and counts; unknown calls and parameters are refused', async () => {
  const { data } = await ask('admin@pbs', 'GET', `${base}/status`, { verbose: 1 });
  assert.ok(data.total > 0 && data.used + data.avail === data.total && data.counts.host.groups >= 3);
  assert.ok((await ask('admin@pbs', 'GET', 'status/datastore-usage')).data[0].avail > 0);
  assert.equal((await ask('admin@pbs', 'GET', 'no/such/call')).status, 404);
  const odd = await ask('admin@pbs', 'GET', `${base}/groups`, { sort: 'up' });
  assert.deepEqual([odd.status, odd.text], [400, 'sort: there is no such parameter']);
  assert.equal((await ask('admin@pbs', 'GET', `${base}/groups`, { ns: 'a/../b' })).status, 400);
  const extjs = await restBytes(running.port, `/api2/extjs/${base}/groups?ns=nowhere`, {
    authorization: 'PBSAPIToken=u@pbs!t:geheim',
  });
  assert.deepEqual([extjs.status, JSON.parse(extjs.bytes.toString()).success], [200, 0]);
});
