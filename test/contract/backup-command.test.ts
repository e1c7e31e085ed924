import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import {
  existsSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  statSync,
  truncateSync,
  unlinkSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { join } from 'node:path';
import { setTimeout as wait } from 'node:timers/promises';
import { after, before, test } from 'node:test';
import { describeTree, hasXattrs, noteOf, writeTree } from './backup-tree-parts.ts';
import { collect, startBackupPlace, type BackupPlace } from './backup-command-parts.ts';

const chunk = 4 * 1024 * 1024;
const isRoot = process.geteuid?.() === 0;
const marker = 'PATIENT-RECORD-MARKER-';
let place: BackupPlace;
let second = Date.parse('2026-03-01T10:00:00Z') / 1_000;
const nextTime = (): string => `${new Date((second += 60) * 1_000).toISOString().slice(0, 19)}Z`;
const at = (name: string): string => join(place.folder, 'work', name);

before(async () => {
  place = await startBackupPlace();
});
after(() => place?.[Symbol.asyncDispose]());

/** Zeros, text that repeats, chance, and an end that fills no chunk. */
function writeImage(name: string): void {
  const text = Buffer.from(marker.repeat(Math.ceil(chunk / marker.length)).slice(0, chunk));
  const parts = [Buffer.alloc(chunk), text, randomBytes(chunk), Buffer.alloc(chunk), randomBytes(chunk), randomBytes(5_000)];
  writeFileSync(at(name), Buffer.concat(parts));
}

type Figures = {
  snapshot: string;
  archives: { name: string; chunks: number; sentChunks: number; sentDataBytes: number; hasBase: boolean }[];
};

async function create(args: string[], env: Record<string, string> = {}): Promise<Figures> {
  const ran = await place.run(['create', ...args, '--backup-time', nextTime(), '--json'], { env });
  assert.equal(ran.code, 0, ran.err);
  return JSON.parse(ran.out) as Figures;
}

/** Every file of the store. */
function storeFiles(): string[] {
  return spawnSync('find', [place.store, '-type', 'f'], { encoding: 'utf8' }).stdout.trimEnd().split('\n');
}

function storeHolds(text: string): boolean {
  return storeFiles().some((file) => file.includes(text) || readFileSync(file).includes(text));
}

function chunkFiles(): string[] {
  return storeFiles().filter((file) => file.includes('/.chunks/'));
}

function isEncrypted(file: string): boolean {
  return /^(7b6785be222d4cf0|e6591bbf0bbfd80b)$/.test(readFileSync(file).subarray(0, 8).toString('hex'));
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
  const piped = await place.run(['restore', first.snapshot, 'disk.img', '-'], { output: at('piped.raw') });
  assert.equal(piped.code, 0, piped.err);
  const [old, now] = [readFileSync(at('piped.raw')), readFileSync(at('disk.raw'))];
  assert.deepEqual([old.length, old.equals(now)], [now.length, false], 'the first backup still has what was there then');
  assert.ok(old.subarray(3 * chunk).equals(now.subarray(3 * chunk)));
});

test('snapshots are listed and verified; the password, token, certificate and names are checked with words', async () => {
  const list = await place.run(['list']);
  assert.match(list.out, /vm\/img\/2026-03-01T10:01:00Z +20\.0 MiB/);
  assert.match((await place.run(['snapshot', 'files', 'vm/img'])).out, /disk\.img\.fidx +20\.0 MiB +none/);
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
  writeImage('disk.raw');
  assert.equal((await place.run(['key', 'create', 'key.json', '--kdf', 'pbkdf2'], { env: secret })).code, 0);
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
  assert.ok(added.every(isEncrypted));
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

  mkdirSync(at('sealed-tree'));
  writeFileSync(at('sealed-tree/HIDDEN-NAME-OF-A-PATIENT'), randomBytes(1_000));
  const seen = new Set(chunkFiles());
  await create(['root.pxar:sealed-tree', '--backup-id', 'sealed-tree', '--keyfile', 'key.json'], secret);
  const sealed = chunkFiles().filter((name) => !seen.has(name));
  assert.equal(sealed.length, 2, 'the archive and the list of its files');
  assert.ok(sealed.every(isEncrypted) && !storeHolds('HIDDEN-NAME-OF-A-PATIENT'), 'names are hidden, too');

  writeFileSync(at('new-passphrase'), 'another one\n');
  const changed = await place.run(['key', 'change', 'key.json', '--new-passphrase-file', 'new-passphrase', '--kdf', 'scrypt'], {
    env: secret,
  });
  assert.equal(changed.code, 0, changed.err);
  const right = { env: { PBS_ENCRYPTION_PASSWORD: 'another one' } };
  const back = await place.run([...restore, '--keyfile', 'key.json'], right);
  assert.equal(back.code, 0, back.err);
  assert.ok(readFileSync(at('sealed.raw')).equals(readFileSync(at('disk.raw'))));
  const note = await place.run(['restore', 'vm/sealed', 'note.conf', '-', '--keyfile', 'key.json'], {
    ...right,
    output: at('note'),
  });
  assert.deepEqual([note.code, readFileSync(at('note'), 'utf8')], [0, `${marker}in a small file`], note.err);
  assert.equal((await place.run(['verify', 'vm/sealed', '--keyfile', 'key.json'], right)).code, 0);
  const paper = (await place.run(['key', 'paper', 'key.json', '--subject', 'clinic'])).out;
  const typed = /-----BEGIN PROXMOX BACKUP KEY-----\n([^]*?)\n-----END/.exec(paper)?.[1]?.replaceAll('\n', '') ?? '';
  assert.deepEqual(JSON.parse(typed), JSON.parse(readFileSync(at('key.json'), 'utf8')));
});

test('a key that was lost comes back with the master key, and with no other', async () => {
  const secret = { PBS_ENCRYPTION_PASSWORD: 'of the master' };
  for (const name of ['master', 'stranger']) {
    const made = await place.run(['key', 'create-master', `${name}.pem`, `${name}.pub`], { env: secret });
    assert.equal(made.code, 0, made.err);
  }
  assert.equal(statSync(at('master.pem')).mode & 0o777, 0o600);
  assert.equal((await place.run(['key', 'create', 'lost.json', '--kdf', 'none'])).code, 0);
  writeFileSync(at('small.raw'), randomBytes(10_000));
  const { snapshot } = await create([
    'd.img:small.raw',
    '--backup-id',
    'lost',
    '--keyfile',
    'lost.json',
    '--master-key',
    'master.pub',
  ]);
  const verified = await place.run(['verify', snapshot, '--keyfile', 'lost.json']);
  assert.deepEqual([verified.code, verified.out], [0, 'd.img.fidx: right\nrsa-encrypted.key.blob: right\n'], verified.err);
  unlinkSync(at('lost.json'));
  writeFileSync(at('master-passphrase'), 'of the master');
  writeFileSync(at('bad-passphrase'), 'of nobody');
  const recover = (pem: string, passphrase: string): string[] =>
    ['key', 'recover', snapshot, 'found.json', '--kdf', 'none'].concat(
      '--master-key',
      pem,
      '--master-passphrase-file',
      passphrase,
    );
  const stranger = await place.run(recover('stranger.pem', 'master-passphrase'));
  assert.deepEqual([stranger.code, /sealed for another master key/.test(stranger.err)], [5, true], stranger.err);
  const typo = await place.run(recover('master.pem', 'bad-passphrase'));
  assert.deepEqual([typo.code, /passphrase is wrong/.test(typo.err)], [6, true], typo.err);
  assert.ok(!existsSync(at('found.json')));
  const found = await place.run(recover('master.pem', 'master-passphrase'));
  assert.equal(found.code, 0, found.err);
  const back = await place.run(['restore', snapshot, 'd.img', 'small-back.raw', '--keyfile', 'found.json']);
  assert.equal(back.code, 0, back.err);
  assert.ok(readFileSync(at('small-back.raw')).equals(readFileSync(at('small.raw'))));
  const refused = await place.run(['create', 'd.img:small.raw', '--master-key', 'master.pub']);
  assert.deepEqual([refused.code, /master-key: .* --keyfile/.test(refused.err)], [2, true], refused.err);
});

test('a directory comes back with everything in it, and the second backup sends only what changed', async () => {
  writeTree('tree');
  const first = await create(['root.pxar:tree', '--backup-id', 'tree']);
  assert.deepEqual(
    first.archives.map(({ name }) => name),
    ['root.pxar.didx', 'catalog.pcat1.didx'],
  );
  const restored = await place.run(['restore', 'host/tree', 'root.pxar', 'tree-back']);
  assert.equal(restored.code, 0, restored.err);
  assert.equal(describeTree('tree-back'), describeTree('tree'));
  assert.equal(noteOf('tree-back'), hasXattrs() ? 'user.note=kept' : '');
  writeFileSync(at('tree/many-299'), 'changed');
  const again = await create(['root.pxar:tree', '--backup-id', 'tree']);
  const [archive] = again.archives;
  assert.ok(archive !== undefined && archive.sentChunks >= 1 && archive.sentChunks <= 2, JSON.stringify(archive));
  const twice = await place.run(['restore', 'host/tree', 'root.pxar', 'tree-back']);
  assert.deepEqual([twice.code, /not empty/.test(twice.err)], [4, true], twice.err);
  const verified = await place.run(['verify', 'host/tree']);
  assert.deepEqual([verified.code, verified.out], [0, 'root.pxar.didx: right\ncatalog.pcat1.didx: right\n']);
  const part = await create(['root.pxar:tree', '--backup-id', 'part', '--exclude', 'deep/er', '--exclude', '/many-1/']);
  assert.equal((await place.run(['restore', part.snapshot, 'root.pxar', 'part-back'])).code, 0);
  const [whole, left] = ['tree', 'part-back'].map(
    (name) => spawnSync('find', ['.'], { cwd: at(name), encoding: 'latin1' }).stdout,
  );
  const wanted = (whole ?? '').split('\n').filter((line) => !/^\.\/(deep\/er|many-1$)/.test(line));
  assert.deepEqual((left ?? '').split('\n').toSorted(), wanted.toSorted());
});

const noMount = !isRoot || !existsSync('/dev/fuse') ? 'needs root and /dev/fuse' : false;
test('a mounted archive shows what was backed up and is gone after Ctrl-C', { skip: noMount }, async () => {
  writeTree('to-mount');
  const { snapshot } = await create(['root.pxar:to-mount', '--backup-id', 'mounted']);
  mkdirSync(at('mount-point'));
  const child = place.start(['mount', snapshot, 'root.pxar', 'mount-point']);
  const ended = collect(child);
  const isMounted = (): boolean => readFileSync('/proc/mounts', 'latin1').includes(at('mount-point'));
  await until(isMounted, 'it is mounted');
  const seen = describeTree('mount-point');
  const note = noteOf('mount-point');
  const written = spawnSync('touch', [join(at('mount-point'), 'new')], { encoding: 'utf8' });
  child.kill('SIGINT');
  const { code, err } = await ended;
  assert.deepEqual([code, /is mounted on mount-point/.test(err)], [0, true], err);
  assert.ok(!isMounted());
  // Hard links count as one: the archive does not tell how many names a file has.
  const withoutLinks = (text: string): string => text.replaceAll(/ \d+$/gm, '');
  assert.equal(withoutLinks(seen), withoutLinks(describeTree('to-mount')));
  assert.equal(note, noteOf('to-mount'));
  assert.match(written.stderr, /Read-only file system/);
});

test('a chunk that was changed at the server is refused, and no half image stays', async () => {
  const before = new Set(chunkFiles());
  writeFileSync(at('other.raw'), randomBytes(3 * chunk));
  const { snapshot } = await create(['disk.img:other.raw', '--backup-id', 'spoiled']);
  const victim = chunkFiles().find((name) => !before.has(name));
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
