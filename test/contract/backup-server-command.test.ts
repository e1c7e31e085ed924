import assert from 'node:assert/strict';
import { spawn, type ChildProcess } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { encodeText } from '#core/backup/bytes.ts';
import { createWorld } from '#cli/process-world.ts';
import { runCli } from '#cli/program.ts';
import { rest } from './backup-client.ts';
import { freePort, waitForPort } from './backup-command-parts.ts';
import { open, plainBlob } from './backup-wire-parts.ts';

/** `holdfast backup-server` on a server that its own `init` set up. */
const main = fileURLToPath(new URL('../../src/programs/backup/main.ts', import.meta.url));
const folder = mkdtempSync(join(existsSync('/dev/shm') ? '/dev/shm' : tmpdir(), 'holdfast-server-command-'));
const config = join(folder, 'etc/backup.toml');
let port = 0;
let server: ChildProcess;

type Ran = { code: number; out: string; err: string };

/** Runs the command; on the server that was set up unless it is `init`. */
async function run(...args: string[]): Promise<Ran> {
  const world = createWorld([], new AbortController().signal);
  const texts = { out: '', err: '' };
  for (const name of ['out', 'err'] as const)
    world[name] = { write: (text) => void (texts[name] += text), isTerminal: false, widthColumns: 200 };
  const more = args[0] === 'init' ? [] : ['--server-config', config];
  const code = await runCli(['backup-server', ...args, ...more], world);
  return { code, ...texts };
}

async function ok(...args: string[]): Promise<string> {
  const { code, out, err } = await run(...args);
  assert.equal(code, 0, `${args.join(' ')}: ${err}`);
  return out;
}

// oxlint-disable-next-line typescript/no-explicit-any -- answers have many shapes; a wrong one fails the test that reads it
async function json(...args: string[]): Promise<any> {
  return JSON.parse(await ok(...args, '--json'));
}

before(async () => {
  port = await freePort();
  const init = [
    'init',
    '--name',
    'b1',
    '--listen',
    '127.0.0.1',
    '--port',
    String(port),
    '--folder',
    join(folder, 'etc'),
    '--state',
    join(folder, 'state'),
  ];
  const { code } = await run(...init, '--datastore', 'store');
  assert.equal(code, 2, 'a datastore takes a folder');
  assert.match(await ok(...init), /fingerprint +([0-9a-f]{2}:){31}/);
  for (const name of ['etc/backup.toml', 'etc/backup-key.pem', 'state/admin-token', 'state/ticket.key'])
    assert.equal(statSync(join(folder, name)).mode & 0o077, 0, `${name} is for root alone`);
  const again = await run(...init);
  assert.deepEqual([again.code, /set up/.test(again.err)], [4, true]);
  await start();
});

async function start(): Promise<void> {
  server = spawn(process.execPath, [main, '--config', config], { stdio: ['ignore', 'ignore', 'inherit'] });
  await waitForPort(port, server);
}

async function end(signal: 'SIGTERM' | 'SIGKILL'): Promise<void> {
  const gone = new Promise((resolve) => void server.once('exit', resolve));
  server.kill(signal);
  await gone;
}

after(async () => {
  await end('SIGTERM');
  rmSync(folder, { recursive: true, force: true });
});

test('a datastore is made, told of, and served again by a server that was killed', async () => {
  const path = join(folder, 'data');
  assert.match(
    await ok('datastore', 'create', 'store', path, '--comment', 'first', '--lock-days', '0', '--reserve-mib', '0'),
    /^OK$/m,
  );
  assert.ok(existsSync(join(path, '.chunks/ffff')));
  assert.deepEqual(
    (await json('datastore', 'list')).map(({ name, comment }: Record<string, string>) => [name, comment]),
    [['store', 'first']],
  );
  for (const [name, where, word] of [
    ['store', join(folder, 'other'), 'exists'],
    ['inner', join(path, 'inner'), 'lie in one another'],
    ['outer', folder, 'lie in one another'],
    ['slash', '/', 'path'],
    ['dots', `${path}/../x`, 'path'],
  ] as const) {
    const { code, err } = await run('datastore', 'create', name, where);
    assert.deepEqual([code, err.includes(word)], [4, true], err);
  }
  mkdirSync(join(folder, 'full'));
  writeFileSync(join(folder, 'full/file'), 'something');
  const full = await run('datastore', 'create', 'full', join(folder, 'full'));
  assert.deepEqual([full.code, /not empty/.test(full.err)], [4, true], full.err);
  assert.match(await ok('datastore', 'status', 'store'), /^total: /m);
  await end('SIGKILL');
  await start();
  assert.equal((await json('datastore', 'list')).length, 1);
});

test('a machine gets a user, a token and a right, backs up with it, and its snapshots are looked after', async () => {
  await ok('user', 'create', 'u@pbs', '--no-password');
  const { value } = await json('token', 'create', 'u@pbs', 't');
  for (const who of ['u@pbs', 'u@pbs!t']) await ok('acl', 'grant', who, 'DatastoreBackup', '/datastore/store');
  assert.equal((await json('acl', 'list')).length, 3);
  const authorization = `PBSAPIToken u@pbs!t:${value}`;
  for (const at of [60, 120, 180]) {
    const session = await open(port, 'backup', { id: '100', at }, {}, authorization);
    await session.finish({ id: '100', at }, [await session.blob('a.blob', plainBlob(encodeText('text')))]);
    await session.end();
  }
  const snapshot = 'vm/100/1970-01-01T00:01:00Z';
  await ok('snapshot', 'protect', 'store', snapshot);
  assert.deepEqual((await run('snapshot', 'forget', 'store', snapshot)).code, 4);
  await ok('snapshot', 'unprotect', 'store', snapshot);
  await ok('snapshot', 'set-notes', 'store', snapshot, 'before the move');
  assert.equal(await ok('snapshot', 'notes', 'store', snapshot), 'before the move\n');
  await ok('snapshot', 'lock', 'store', snapshot, '2099-01-01');
  assert.deepEqual((await json('snapshot', 'list', 'store'))[2]['locked-until'], 4_070_908_800);
  const locked = await run('snapshot', 'forget', 'store', snapshot);
  assert.deepEqual([locked.code !== 0, /locked until 2099-01-01/.test(locked.err)], [true, true], locked.err);
  await ok('snapshot', 'forget', 'store', 'vm/100/1970-01-01T00:02:00Z');
  assert.equal((await json('snapshot', 'list', 'store', 'vm/100')).length, 2);
  assert.match(await ok('group', 'prune', 'store', 'vm/100', '--keep-last', '1', '--dry-run'), /keep +last/);
  const wrong = await run('snapshot', 'forget', 'store', 'vm/100');
  assert.deepEqual([wrong.code, /lacks its time/.test(wrong.err)], [2, true]);
  assert.equal((await rest(port, 'GET', '/api2/json/access/users', { authorization })).status, 200);
});

test('work runs as tasks that are followed, listed, and tell their log; jobs are kept and run', async () => {
  const verified = await run('verify', 'store', 'vm/100');
  assert.deepEqual([verified.code, /snapshots verified, 0 failed/.test(verified.err)], [0, true], verified.err);
  assert.match(await ok('prune', 'store', '--keep-last', '1'), /OK/);
  const { upid, status } = await json('gc', 'run', 'store');
  assert.equal(status, 'OK');
  assert.match(await ok('task', 'log', upid), /on disk: 0 chunks/);
  assert.equal((await json('task', 'status', upid)).exitstatus, 'OK');
  assert.match(await ok('task', 'list', '--typefilter', 'garbage', '--limit', '1'), /garbage_collection/);
  assert.match(await ok('gc', 'run', 'store', '--detach'), /^UPID:/);
  await ok('job', 'prune', 'add', 'nightly', 'store', '--schedule', 'daily', '--keep-daily', '7');
  assert.equal((await json('job', 'prune', 'show', 'nightly'))['keep-daily'], 7);
  await ok('job', 'prune', 'change', 'nightly', '--schedule', 'sat 03:00', '--keep-last', '2', '--delete', 'keep-daily');
  const { schedule, ...changed } = await json('job', 'prune', 'show', 'nightly');
  assert.deepEqual([schedule, changed['keep-last'], changed['keep-daily'], changed.store], ['sat 03:00', 2, undefined, 'store']);
  assert.match((await run('job', 'prune', 'change', 'nightly', '--delete', 'store')).err, /delete: store is nothing/);
  await ok('job', 'prune', 'run', 'nightly');
  const bound = await run('datastore', 'forget', 'store');
  assert.deepEqual([bound.code, /prune job nightly/.test(bound.err)], [4, true], bound.err);
  await ok('job', 'prune', 'remove', 'nightly');
  await ok('datastore', 'forget', 'store');
  assert.deepEqual(await json('datastore', 'list'), []);
  assert.ok(existsSync(join(folder, 'data/vm/100')));
  await ok('datastore', 'create', 'again', join(folder, 'data'), '--reuse-datastore');
  assert.equal((await json('snapshot', 'list', 'again')).length, 2);
});

test('what is wrong is refused in words: a field, a call, a stranger, a server that is not there', async () => {
  const field = await run('datastore', 'create', 'xx', join(folder, 'short'));
  assert.deepEqual([field.code, /name: "xx" is shorter than 3/.test(field.err)], [4, true], field.err);
  assert.equal((await run('datastore', 'nonsense')).code, 2);
  assert.match(
    (await run('snapshot', 'lock', 'again', 'vm/100/1970-01-01T00:01:00Z', 'soon')).err,
    /until: soon is neither a date/,
  );
  writeFileSync(join(folder, 'wrong'), 'wrong\n');
  const stranger = await run('datastore', 'list', '--as', 'u@pbs!t', '--secret-file', join(folder, 'wrong'));
  assert.match(stranger.err, /authentication failed/);
  const nowhere = await runCli(
    ['backup-server', 'datastore', 'list', '--server-config', join(folder, 'none.toml')],
    createWorld([], new AbortController().signal),
  );
  assert.equal(nowhere, 3);
});
