import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { existsSync, openSync, readdirSync, readFileSync, statSync, truncateSync, writeFileSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as wait } from 'node:timers/promises';
import { after, before, test } from 'node:test';
import { collect, startBackupPlace, type BackupPlace } from './backup-command-parts.ts';

const chunk = 4 * 1024 * 1024;
const marker = 'PATIENT-RECORD-MARKER-';
let place: BackupPlace;
let second = Date.parse('2026-03-01T10:00:00Z') / 1_000;
const nextTime = (): string => `${new Date((second += 60) * 1_000).toISOString().slice(0, 19)}Z`;
const at = (name: string): string => join(place.folder, 'work', name);

before(async () => {
  place = await startBackupPlace();
});
after(() => place[Symbol.asyncDispose]());

/** Zeros, text that repeats, chance, and an end that fills no chunk. */
function writeImage(name: string): void {
  const text = Buffer.from(marker.repeat(Math.ceil(chunk / marker.length)).slice(0, chunk));
  const parts = [Buffer.alloc(chunk), text, randomBytes(chunk), Buffer.alloc(chunk), randomBytes(chunk), randomBytes(5_000)];
  writeFileSync(at(name), Buffer.concat(parts));
}

type Figures = { snapshot: string; archives: { chunks: number; sentChunks: number; sentDataBytes: number; hasBase: boolean }[] };

async function create(args: string[], env: Record<string, string> = {}): Promise<Figures> {
  const ran = await place.run(['create', ...args, '--backup-time', nextTime(), '--json'], { env });
  assert.equal(ran.code, 0, ran.err);
  return JSON.parse(ran.out) as Figures;
}

function storeHolds(text: string): boolean {
  const found = spawnSync('grep', ['-r', '-l', '-a', '-F', text, place.store], { encoding: 'utf8' });
  return found.stdout !== '';
}

/** Every chunk of the store, without its envelope's secrets: `grep` cannot look into zstd, so this looks for what kind they are. */
function chunkFiles(): string[] {
  const chunks = join(place.store, '.chunks');
  return readdirSync(chunks).flatMap((folder) => readdirSync(join(chunks, folder)).map((name) => join(chunks, folder, name)));
}

test('an image comes back byte for byte, and the second backup sends only what changed', async () => {
  writeImage('disk.raw');
  const first = await create(['disk.img:disk.raw', '--backup-id', 'img', '--backup-type', 'vm']);
  assert.deepEqual([first.archives[0]?.chunks, first.archives[0]?.sentChunks, first.archives[0]?.hasBase], [6, 5, false]);
  const file = openSync(at('disk.raw'), 'r+');
  writeSync(file, randomBytes(100), 0, 100, 2 * chunk + 77);
  const again = await create(['disk.img:disk.raw', '--backup-id', 'img', '--backup-type', 'vm']);
  assert.deepEqual([again.archives[0]?.chunks, again.archives[0]?.sentChunks, again.archives[0]?.hasBase], [6, 1, true]);
  assert.equal(again.archives[0]?.sentDataBytes, chunk);
  const restored = await place.run(['restore', 'vm/img', 'disk.img', 'back.raw']);
  assert.equal(restored.code, 0, restored.err);
  assert.ok(readFileSync(at('back.raw')).equals(readFileSync(at('disk.raw'))));
  assert.ok(statSync(at('back.raw')).blocks * 512 < 5 * chunk, 'holes stay holes');
  const twice = await place.run(['restore', 'vm/img', 'disk.img', 'back.raw']);
  assert.equal(twice.code, 4);
  assert.match(twice.err, /back\.raw exists already/);
  const piped = spawnSync(
    'sh',
    [
      '-c',
      '"$0" "$@" | sha256sum',
      process.execPath,
      join(import.meta.dirname, '../../src/cli/main.ts'),
      'backup',
      'restore',
      first.snapshot,
      'disk.img',
      '-',
    ],
    {
      encoding: 'utf8',
      env: {
        ...process.env,
        PBS_REPOSITORY: `u@pbs!t@127.0.0.1:${place.port}:store`,
        PBS_FINGERPRINT: place.fingerprint,
        PBS_PASSWORD: 'geheim',
      },
    },
  );
  assert.match(piped.stdout, /^[0-9a-f]{64}/, piped.stderr);
  assert.notEqual(piped.stdout.slice(0, 64), spawnSync('sha256sum', [at('back.raw')], { encoding: 'utf8' }).stdout.slice(0, 64));
});

test('snapshots are listed and verified; the password, token, certificate and names are checked with words', async () => {
  const list = await place.run(['list']);
  assert.match(list.out, /vm\/img\/2026-03-01T10:01:00Z +20 MiB/);
  assert.match((await place.run(['snapshot', 'files', 'vm/img'])).out, /disk\.img\.fidx +20 MiB +none/);
  const verified = await place.run(['verify', 'vm/img']);
  assert.deepEqual([verified.code, verified.out], [0, 'disk.img.fidx: right\n']);
  const user = { PBS_REPOSITORY: `u@pbs@127.0.0.1:${place.port}:store`, PBS_PASSWORD: 'passwort' };
  assert.match((await place.run(['list'], { env: user })).out, /vm\/img/, 'a user logs in for a ticket');
  const byFile = ['list', '--password-file', join(place.folder, 'secret')];
  assert.match((await place.run(byFile, { env: { PBS_PASSWORD: '' } })).out, /vm\/img/);
  const cases: [string[], Record<string, string>, number, RegExp][] = [
    [['list'], { PBS_PASSWORD: 'falsch' }, 6, /401/],
    [['list'], { PBS_PASSWORD: '' }, 6, /--password-file FILE or set PBS_PASSWORD/],
    [['list'], { PBS_FINGERPRINT: 'ab:'.repeat(31) + 'ab' }, 5, /has the certificate .* nothing was sent/],
    [['list'], { PBS_FINGERPRINT: '' }, 5, /not trusted here; give its fingerprint/],
    [['list'], { PBS_REPOSITORY: 'nowhere' }, 2, /^holdfast: repository: "nowhere" is not USER@REALM@HOST/],
    [['restore', 'vm/img', 'other.img', 'x'], {}, 3, /no "other\.img"; it has disk\.img\.fidx/],
    [['restore', 'vm/none', 'disk.img', 'x'], {}, 3, /no finished backup of vm\/none/],
    [['create', '../x.img:disk.raw'], {}, 2, /archive: /],
    [['create', 'x.img:not-there'], {}, 2, /opening it/],
  ];
  for (const [args, env, code, pattern] of cases) {
    const ran = await place.run(args, { env });
    assert.deepEqual([ran.code, pattern.test(ran.err)], [code, true], ran.err);
  }
  assert.ok(!existsSync(at('x')));
  assert.ok(
    !existsSync(join(place.store, 'host')) || (await place.run(['list'])).out.includes('host/') === false,
    'nothing was left',
  );
});

test('what is encrypted can be read with its key alone, and the server never sees the plain text', async () => {
  const secret = { PBS_ENCRYPTION_PASSWORD: 'correct horse' };
  assert.equal((await place.run(['key', 'create', 'key.json'], { env: secret })).code, 0);
  assert.equal(statSync(at('key.json')).mode & 0o777, 0o600);
  assert.equal((await place.run(['key', 'create', 'key.json'], { env: secret })).code, 4, 'a key is never overwritten');
  assert.equal((await place.run(['key', 'create', 'other.json', '--kdf', 'none'])).code, 0);
  const before = new Set(chunkFiles());
  writeFileSync(at('note.txt'), `${marker}in a small file`);
  const order = [
    'disk.img:disk.raw',
    'note.conf:note.txt',
    '--backup-id',
    'sealed',
    '--backup-type',
    'vm',
    '--keyfile',
    'key.json',
  ];
  const first = await create(order, secret);
  assert.equal(first.archives[0]?.sentChunks, 5);
  const again = await create(order, secret);
  assert.equal(again.archives[0]?.sentChunks, 0, 'the last encrypted backup is a base, too');
  const added = chunkFiles().filter((name) => !before.has(name));
  assert.equal(added.length, 5);
  for (const name of added)
    assert.match(readFileSync(name).subarray(0, 8).toString('hex'), /^(7b6785be222d4cf0|e6591bbf0bbfd80b)$/);
  assert.ok(!storeHolds(`${marker}in a small file`));

  const restore = ['restore', 'vm/sealed', 'disk.img', 'sealed.raw'];
  const without = await place.run(restore);
  assert.deepEqual([without.code, /encrypted .* no key was given/.test(without.err)], [5, true], without.err);
  const wrong = await place.run([...restore, '--keyfile', 'other.json']);
  assert.deepEqual(
    [wrong.code, /wrong key: the snapshot was made with the key .*nothing was written/.test(wrong.err)],
    [5, true],
    wrong.err,
  );
  const typo = await place.run([...restore, '--keyfile', 'key.json'], { env: { PBS_ENCRYPTION_PASSWORD: 'falsch' } });
  assert.deepEqual([typo.code, /wrong passphrase/.test(typo.err)], [6, true], typo.err);
  assert.ok(!existsSync(at('sealed.raw')));

  writeFileSync(at('new-passphrase'), 'another one\n');
  const changed = await place.run(['key', 'change', 'key.json', '--new-passphrase-file', 'new-passphrase', '--kdf', 'pbkdf2'], {
    env: secret,
  });
  assert.equal(changed.code, 0, changed.err);
  const right = { env: { PBS_ENCRYPTION_PASSWORD: 'another one' } };
  const back = await place.run([...restore, '--keyfile', 'key.json'], right);
  assert.equal(back.code, 0, back.err);
  assert.ok(readFileSync(at('sealed.raw')).equals(readFileSync(at('disk.raw'))));
  assert.equal(
    (await place.run(['restore', 'vm/sealed', 'note.conf', '-', '--keyfile', 'key.json'], right)).out,
    `${marker}in a small file`,
  );
  assert.equal((await place.run(['verify', 'vm/sealed', '--keyfile', 'key.json'], right)).code, 0);
  const paper = (await place.run(['key', 'paper', 'key.json', '--subject', 'clinic'])).out;
  const typed = /-----BEGIN PROXMOX BACKUP KEY-----\n([^-]*)\n-----END/.exec(paper)?.[1]?.replaceAll('\n', '') ?? '';
  assert.deepEqual(JSON.parse(typed), JSON.parse(readFileSync(at('key.json'), 'utf8')));
});

test('a chunk that was changed at the server is refused, and no half image stays', async () => {
  const { snapshot } = await create(['disk.img:disk.raw', '--backup-id', 'spoiled', '--crypt-mode', 'none']);
  const victim = chunkFiles().find((name) => readFileSync(name).subarray(0, 8).toString('hex') === '42ab3807be8370a1');
  assert.ok(victim !== undefined);
  const whole = readFileSync(victim);
  const spoiled = Buffer.from(whole);
  spoiled[100]! ^= 1;
  writeFileSync(victim, spoiled);
  const ran = await place.run(['restore', snapshot, 'disk.img', 'spoiled.raw']);
  assert.deepEqual([ran.code, /chunk [0-9a-f]{64}: its CRC/.test(ran.err)], [2, true], ran.err);
  assert.ok(!existsSync(at('spoiled.raw')));
  const verified = await place.run(['verify', snapshot]);
  assert.deepEqual([verified.code, /its CRC/.test(verified.out)], [4, true], verified.out);
  truncateSync(victim, 0);
  assert.equal((await place.run(['restore', snapshot, 'disk.img', 'spoiled.raw'])).code === 0, false);
  writeFileSync(victim, whole);
  assert.equal((await place.run(['verify', snapshot])).code, 0);
});

test('Ctrl-C ends a backup, and the server keeps nothing of it', async () => {
  writeFileSync(at('large.raw'), randomBytes(chunk));
  truncateSync(at('large.raw'), 2_000 * chunk);
  const child = place.start(['create', 'large.img:large.raw', '--backup-id', 'broken-off']);
  const ended = collect(child);
  const folder = join(place.store, 'host/broken-off');
  const snapshots = (): string[] => (existsSync(folder) ? readdirSync(folder).filter((name) => name.endsWith('Z')) : []);
  await until(() => snapshots().length === 1, 'the backup has begun');
  child.kill('SIGINT');
  const { code, err } = await ended;
  assert.deepEqual([code, /interrupted/.test(err)], [130, true], err);
  await until(() => snapshots().length === 0, 'the unfinished snapshot is gone');
});

async function until(isTrue: () => boolean, what: string): Promise<void> {
  const deadline = Date.now() + 20_000;
  while (Date.now() < deadline) {
    if (isTrue()) return;
    await wait(20);
  }
  assert.fail(`not in time: ${what}`);
}
