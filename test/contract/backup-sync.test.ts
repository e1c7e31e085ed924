import assert from 'node:assert/strict';
import { createHash, randomBytes, X509Certificate } from 'node:crypto';
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { encodeBlob } from '#core/backup/blob.ts';
import { encodeText, formatHex } from '#core/backup/bytes.ts';
import { deriveCryptKey } from '#core/backup/crypt-key.ts';
import { chunkPath } from '#core/backup/names.ts';
import { createLog } from '#programs/log.ts';
import { startSchedule } from '#programs/backup/schedule.ts';
import { nodeBytes } from '../../src/adapters/bytes/node-bytes.ts';
import { createAsker, secrets, startTestServer, type RunningServer, type Who } from './backup-server-parts.ts';
import { addArchive, addManifest, chunkOf, sendArchive } from './datastore-parts.ts';

/** Two servers: what lies on `there` comes here, and what lies here goes there. */
let here: RunningServer;
let there: RunningServer;
let ask: ReturnType<typeof createAsker>;
const hour = 3_600;
const common = randomBytes(40_000);

async function backup(
  server: RunningServer,
  atSeconds: number,
  id: string,
  own: string,
  namespace: string[] = [],
): Promise<void> {
  const session = await server.made.store.startBackup({ namespace, type: 'vm', id, atSeconds }, 'admin@pbs');
  const chunks = [chunkOf(common), chunkOf(encodeText(own))];
  for (const chunk of chunks) await session.addChunk(chunk);
  const blob = encodeBlob(encodeText(`configuration ${own}`), { compress: false, crypt: null }, nodeBytes);
  await session.addBlob('qemu-server.conf.blob', blob);
  const entry = await addArchive(session, 'data.didx', chunks);
  await addManifest(session, [
    entry,
    { name: 'qemu-server.conf.blob', cryptMode: 'none', sizeBytes: blob.length, csum: nodeBytes.sha256(blob) },
  ]);
  await session.finish();
}

before(async () => {
  [here, there] = await Promise.all([startTestServer(), startTestServer()]);
  ask = createAsker(here.port);
  await there.made.store.createNamespace(['east']);
  for (const at of [1, 2, 3]) await backup(there, at * hour, '100', `a${at}`);
  await backup(there, hour, '200', 'b');
  await backup(there, hour, '300', 'c', ['east']);
  await there.made.store.addLog(
    { namespace: [], type: 'vm', id: '100', atSeconds: 3 * hour },
    encodeBlob(encodeText('log'), { compress: false, crypt: null }, nodeBytes),
  );
  const fingerprint = new X509Certificate(readFileSync(join(there.scratch, 'cert'))).fingerprint256;
  const remote = {
    name: 'other',
    host: '127.0.0.1',
    port: there.port,
    'auth-id': 'admin@pbs',
    password: secrets['admin@pbs'],
    fingerprint,
  };
  assert.equal((await ask('admin@pbs', 'POST', 'config/remote', remote)).status, 200);
});

after(async () => {
  await here.end();
  await there.end();
});

async function run(
  path: string,
  params: Record<string, unknown>,
  who: Who = 'admin@pbs',
): Promise<{ status: string; log: string }> {
  const started = await ask(who, 'POST', path, params);
  assert.equal(started.status, 200, started.text);
  const { end } = await here.services.tasks.wait(started.data);
  const { lines } = await here.services.tasks.readLog(started.data, 0, 1_000);
  return { status: end?.status ?? '', log: lines.join('\n') };
}

async function times(server: RunningServer, id: string, namespace: string[] = []): Promise<number[]> {
  const { snapshots } = await server.made.store.readGroup({ namespace, type: 'vm', id });
  return snapshots.map(({ snapshot }) => snapshot.atSeconds / hour).toReversed();
}

const pullAll = { store: 'store', remote: 'other', 'remote-store': 'store' };

test('a pull brings what is new, chunk by chunk, and the next one nothing', async () => {
  const first = await run('pull', { ...pullAll, 'group-filter': ['exclude:group:vm/200'], 'transfer-last': 2 });
  assert.equal(first.status, 'OK', first.log);
  assert.deepEqual(await times(here, '100'), [2, 3]);
  assert.deepEqual(await times(here, '300', ['east']), [1]);
  await assert.rejects(times(here, '200'), /does not exist/);
  assert.match(first.log, /vm\/100\/1970-01-01T03:00:00Z: 1 chunks/, 'what the one before brought is not asked for again');
  const { store } = here.made;
  for (const [id, namespace, at] of [
    ['100', [], 3],
    ['300', ['east'], 1],
  ] as const)
    assert.deepEqual((await store.verifySnapshot({ namespace, type: 'vm', id, atSeconds: at * hour }, 'UPID:s')).problems, []);
  assert.deepEqual(readdirSync(join(here.made.root, 'vm/100/1970-01-01T03:00:00Z')).toSorted(), [
    'client.log.blob',
    'data.didx',
    'index.json.blob',
    'qemu-server.conf.blob',
  ]);
  assert.equal((await store.readGroup({ namespace: [], type: 'vm', id: '100' })).owner, 'root@pam');
  const second = await run('pull', { ...pullAll, 'group-filter': 'group:vm/100' });
  assert.match(second.log, /0 new/);
});

test('what vanished there goes here, but for what is protected or locked', async () => {
  await there.made.store.removeSnapshot({ namespace: [], type: 'vm', id: '100', atSeconds: 2 * hour });
  await here.made.store.setProtected({ namespace: [], type: 'vm', id: '100', atSeconds: 2 * hour }, true);
  const kept = await run('pull', { ...pullAll, 'remove-vanished': true, 'group-filter': 'group:vm/100' });
  assert.deepEqual([kept.status, await times(here, '100')], ['WARNINGS: 1', [2, 3]]);
  await here.made.store.setProtected({ namespace: [], type: 'vm', id: '100', atSeconds: 2 * hour }, false);
  assert.equal((await run('pull', { ...pullAll, 'remove-vanished': true, 'group-filter': 'group:vm/100' })).status, 'OK');
  assert.deepEqual(await times(here, '100'), [3]);
});

test('a log that its client sent after the snapshot was brought comes with the next pull', async () => {
  const snapshot = { namespace: [], type: 'vm', id: '500', atSeconds: hour } as const;
  const log = encodeBlob(encodeText('late'), { compress: false, crypt: null }, nodeBytes);
  await backup(there, hour, '500', 'late log');
  const filter = { 'group-filter': 'group:vm/500' };
  assert.equal((await run('pull', { ...pullAll, ...filter })).status, 'OK');
  await there.made.store.addLog(snapshot, log);
  assert.equal((await run('pull', { ...pullAll, ...filter })).status, 'OK');
  assert.ok(readFileSync(join(here.made.root, 'vm/500/1970-01-01T01:00:00Z/client.log.blob')).equals(log));
  await there.made.store.removeGroup(snapshot);
});

test('an encrypted chunk with damage, or one that lies under a plain digest, is not taken', async () => {
  const key = deriveCryptKey(new Uint8Array(32).fill(7), nodeBytes);
  const sealed = chunkOf(encodeText('secret data'), key);
  const secret = await there.made.store.startBackup({ namespace: [], type: 'vm', id: '600', atSeconds: hour }, 'admin@pbs');
  await sendArchive(secret, [sealed], 'encrypt');
  await secret.finish();
  const path = join(there.made.root, chunkPath(formatHex(sealed.digest)));
  const whole = readFileSync(path);
  writeFileSync(path, Buffer.concat([whole.subarray(0, -1), Buffer.of(whole.at(-1)! ^ 1)]));
  const filter = { 'group-filter': 'group:vm/600', 'max-depth': 0 };
  const damaged = await run('pull', { ...pullAll, ...filter });
  assert.match(damaged.log, /CRC/);
  writeFileSync(path, whole);
  // Here somebody has put an encrypted envelope under the digest of what the other server holds plain.
  const plain = chunkOf(encodeText('plain data'));
  await backup(there, hour, '601', 'plain data');
  const forged = chunkOf(encodeText('plain data'), key);
  const session = await here.made.store.startBackup({ namespace: [], type: 'vm', id: '602', atSeconds: hour }, 'root@pam');
  await session.addChunk({ ...forged, digest: plain.digest });
  const taken = await run('pull', { ...pullAll, 'group-filter': ['group:vm/600', 'group:vm/601'], 'max-depth': 0 });
  await session.abort();
  assert.equal(taken.status, 'OK', taken.log);
  for (const id of ['600', '601'])
    assert.deepEqual(
      (await here.made.store.verifySnapshot({ namespace: [], type: 'vm', id, atSeconds: hour }, 'UPID:c')).problems,
      [],
    );
  for (const id of ['600', '601']) await there.made.store.removeGroup({ namespace: [], type: 'vm', id });
});

test('a chunk that is damaged there never gets here, and nothing of its snapshot', async () => {
  await backup(there, 5 * hour, '200', 'spoiled');
  const digest = formatHex(createHash('sha256').update('spoiled').digest());
  const path = join(there.made.root, chunkPath(digest));
  const bytes = readFileSync(path);
  bytes[bytes.length - 1]! ^= 1;
  writeFileSync(path, bytes);
  const spoiled = await run('pull', { ...pullAll, 'group-filter': 'group:vm/200', 'max-depth': 0 });
  assert.match(spoiled.status, /1 groups are not in step/);
  assert.match(spoiled.log, /digest: chunk|damaged|CRC/);
  assert.deepEqual(await times(here, '200'), [1], 'the good one before it came');
  assert.deepEqual(readdirSync(join(here.made.root, '.holdfast/sessions')), []);
  await there.made.store.removeSnapshot({ namespace: [], type: 'vm', id: '200', atSeconds: 5 * hour });
});

test('a push sends what the other server lacks', async () => {
  await backup(here, 7 * hour, '400', 'mine');
  await backup(here, 8 * hour, '400', 'mine too');
  const pushed = await run('push', { ...pullAll, 'group-filter': 'group:vm/400', 'max-depth': 0 });
  assert.equal(pushed.status, 'OK', pushed.log);
  assert.deepEqual(await times(there, '400'), [7, 8]);
  assert.match(pushed.log, /T08:00:00Z: 1 chunks/, 'what the one before brought is not sent again');
  assert.deepEqual(
    (await there.made.store.verifySnapshot({ namespace: [], type: 'vm', id: '400', atSeconds: 8 * hour }, 'UPID:s')).problems,
    [],
  );
  assert.match((await run('push', { ...pullAll, 'group-filter': 'group:vm/400', 'max-depth': 0 })).log, /0 new/);
});

test('an encrypted chunk that is damaged here is not sent', async () => {
  const sealed = chunkOf(encodeText('damaged here'), deriveCryptKey(new Uint8Array(32).fill(9), nodeBytes));
  const session = await here.made.store.startBackup({ namespace: [], type: 'vm', id: '700', atSeconds: hour }, 'admin@pbs');
  await sendArchive(session, [sealed], 'encrypt');
  await session.finish();
  const path = join(here.made.root, chunkPath(formatHex(sealed.digest)));
  const whole = readFileSync(path);
  writeFileSync(path, Buffer.concat([whole.subarray(0, -1), Buffer.of(whole.at(-1)! ^ 1)]));
  const pushed = await run('push', { ...pullAll, 'group-filter': 'group:vm/700' });
  assert.match(pushed.log, /CRC/);
  writeFileSync(path, whole);
  assert.deepEqual((await there.made.store.readGroup({ namespace: [], type: 'vm', id: '700' })).snapshots, []);
  await here.made.store.removeGroup({ namespace: [], type: 'vm', id: '700' });
});

test('a job runs by its schedule, once, and by hand; only who may', async () => {
  const job = { id: 'nightly', ...pullAll, schedule: '*:*', 'group-filter': ['group:vm/100'], ns: 'copy' };
  assert.equal((await ask('u@pbs', 'POST', 'config/sync', job)).status, 403);
  assert.equal((await ask('admin@pbs', 'POST', 'config/sync', { ...job, schedule: 'whenever' })).status, 400);
  assert.equal((await ask('admin@pbs', 'POST', 'config/sync', { ...job, remote: 'nobody' })).status, 404);
  assert.equal((await ask('admin@pbs', 'POST', 'config/sync', job)).status, 200);
  assert.equal((await ask('admin@pbs', 'POST', 'config/sync', job)).status, 400, 'exists already');
  assert.equal((await ask('admin@pbs', 'DELETE', 'config/remote/other')).status, 400, 'a job goes there');
  assert.deepEqual((await ask('u@pbs', 'GET', 'config/sync')).data, []);
  assert.equal((await ask('u@pbs', 'POST', 'admin/sync/nightly/run')).status, 404);
  const log = createLog('backup', 'test');
  log.level = 'error';
  let now = here.services.nowSeconds();
  const schedule = startSchedule({ ...here.services, functions: nodeBytes, nowSeconds: () => now }, log);
  try {
    const runs = () => here.services.tasks.list().filter(({ type }) => type === 'syncjob');
    schedule.look();
    assert.equal(runs().length, 0, 'not before its time');
    now += 61;
    schedule.look();
    schedule.look();
    assert.equal(runs().length, 1);
    assert.equal((await here.services.tasks.wait(runs()[0]!.upid)).end?.status, 'OK');
    assert.deepEqual(await times(here, '100', ['copy']), [1, 3]);
    const listed = (await ask('admin@pbs', 'GET', 'config/sync')).data[0];
    assert.deepEqual([listed['last-run-state'], listed['group-filter'], listed.ns], ['OK', ['group:vm/100'], 'copy']);
    assert.equal((await run('admin/sync/nightly/run', {})).status, 'OK');
    assert.equal((await ask('admin@pbs', 'PUT', 'config/sync/nightly', { ...job, disable: true })).status, 200);
    now += 3_600;
    schedule.look();
    assert.equal(runs().length, 2, 'disabled');
  } finally {
    schedule.stop();
  }
  assert.equal((await ask('admin@pbs', 'DELETE', 'config/sync/nightly')).status, 200);
  const kept = readFileSync(join(here.scratch, 'jobs.json'), 'utf8');
  assert.ok(kept.includes('"other"') && !(await ask('admin@pbs', 'GET', 'config/remote')).text.includes(secrets['admin@pbs']));
});

test('prune, verify, collection and the rolling verification are jobs too', async () => {
  const store = { store: 'store' };
  const jobs: [string, Record<string, unknown>][] = [
    ['prune', { 'keep-last': 1, ns: 'copy' }],
    ['verify', { 'outdated-after': 30 }],
    ['scrub', { 'budget-mib': 1, 'older-than-days': 0 }],
    ['gc', {}],
  ];
  for (const [kind, options] of jobs) {
    assert.equal(
      (await ask('admin@pbs', 'POST', `config/${kind}`, { id: 'one', ...store, ...options, schedule: 'daily' })).status,
      200,
      kind,
    );
    const { status, log } = await run(`admin/${kind}/one/run`, {});
    assert.equal(status, 'OK', `${kind}: ${log}`);
    const { data } = await ask('admin@pbs', 'GET', `config/${kind}/one`);
    assert.ok(data['next-run'] > Date.now() / 1_000, kind);
  }
  assert.deepEqual(await times(here, '100', ['copy']), [3]);
});

test('another certificate is not trusted, and nothing is sent', async () => {
  const remote = {
    name: 'false',
    host: '127.0.0.1',
    port: there.port,
    'auth-id': 'admin@pbs',
    password: 'not to be seen',
    fingerprint: 'ab'.repeat(32),
  };
  assert.equal((await ask('admin@pbs', 'POST', 'config/remote', remote)).status, 200);
  const { status, log } = await run('pull', { ...pullAll, remote: 'false' });
  assert.match(status, /has the certificate .* nothing was sent/);
  assert.ok(!log.includes('not to be seen'));
});
