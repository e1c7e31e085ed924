import assert from 'node:assert/strict';
import { spawn, type ChildProcess } from 'node:child_process';
import { createHash } from 'node:crypto';
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as wait } from 'node:timers/promises';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { encodeBlob } from '#core/backup/blob.ts';
import { encodeText, formatHex, joinBytes } from '#core/backup/bytes.ts';
import { computeIndexCsum, digestAt, encodeDynamicRecord, parseIndex } from '#core/backup/chunk-index.ts';
import { formatManifest, makeManifest } from '#core/backup/manifest.ts';
import { createChance } from '#core/ha/seeded-chance.ts';
import { hashSecret } from '#programs/backup/access.ts';
import { nodeBytes } from '../../src/adapters/bytes/node-bytes.ts';
import { rest, upgrade, type Client } from './backup-client.ts';
import { makeCertificate } from './backup-server-parts.ts';
import { chunkOf } from './datastore-parts.ts';

/**
 * The real server, killed while clients upload, close and finish, and while prune, collection and verification run. What a client was
 * told is kept has to be whole after each restart, and nothing else may be left.
 */
const seed = Number(process.env['HOLDFAST_SEED'] ?? 1);
const rounds = Number(process.env['HOLDFAST_ROUNDS'] ?? 5);
const chance = createChance(seed);
const main = fileURLToPath(new URL('../../src/programs/backup/main.ts', import.meta.url));
const authorization = 'PBSAPIToken=root@pam!t:geheim';
const headers = { authorization, 'content-type': 'application/json' };
const base = '/api2/json/admin/datastore/store';
const groups = ['100', '101'];
/** A killed server's client waits no longer than this for its answer. */
const answerMs = 20_000;

type Promised = { id: string; atSeconds: number; mayBeGone: boolean };
/** What the clients were told; `${id}/${time}`. */
const promised = new Map<string, Promised>();
const done = { backups: 0, reused: 0, pruned: 0, collections: 0, verifications: 0 };
let second = 1_700_000_000;

function freePort(): Promise<number> {
  return new Promise((resolve) => {
    const probe = createServer().listen(0, '127.0.0.1', () => {
      const address = probe.address();
      probe.close(() => resolve(typeof address === 'object' && address !== null ? address.port : 0));
    });
  });
}

async function start(folder: string): Promise<ChildProcess> {
  const child = spawn(process.execPath, [main, '--config', join(folder, 'server.toml')], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  await new Promise<void>((resolve, reject) => {
    child.stdout?.on('data', (data: Buffer) => {
      if (data.includes('backup.serving')) resolve();
    });
    child.once('exit', (code) => reject(new Error(`the server ended with ${code} at its start`)));
  });
  return child;
}

async function kill(child: ChildProcess): Promise<void> {
  const gone = new Promise((resolve) => void child.once('exit', resolve));
  child.kill('SIGKILL');
  await gone;
}

// oxlint-disable-next-line typescript/no-explicit-any -- answers have many shapes; a wrong one fails the test that reads it
async function call(port: number, method: string, path: string, body?: object): Promise<any> {
  const { status, text } = await within(rest(port, method, path, headers, body === undefined ? undefined : JSON.stringify(body)));
  return { status, text, data: status === 200 ? (JSON.parse(text) as { data: unknown }).data : null };
}

function within<Result>(work: Promise<Result>): Promise<Result> {
  const late = wait(answerMs, null, { ref: false }).then(() => Promise.reject(new Error('no answer')));
  return Promise.race([work, late]);
}

async function finishTask(port: number, upid: string): Promise<string> {
  for (;;) {
    const { status, text, data } = await call(port, 'GET', `/api2/json/nodes/n/tasks/${encodeURIComponent(upid)}/status`);
    assert.equal(status, 200, text);
    if (data.status === 'stopped') return String(data.exitstatus);
    await wait(20);
  }
}

/** Contents repeat between backups, so that collection and duplicates have something to fight over. */
function contents(): Uint8Array[] {
  return Array.from({ length: 3 + Math.floor(chance() * 4) }, () =>
    createHash('sha512')
      .update(`${Math.floor(chance() * 30)}`)
      .digest(),
  );
}

async function backup(port: number, id: string): Promise<void> {
  const at = (second += 1);
  const target = `/api2/json/backup?store=store&backup-type=vm&backup-id=${id}&backup-time=${at}`;
  const client = await within(
    upgrade(port, target, ['Host: x', `Authorization: ${authorization}`, 'Upgrade: proxmox-backup-protocol-v1']),
  );
  if (!('call' in client)) return; // refused: the last session of this group is still being cleared away
  client.socket.on('error', () => {});
  try {
    if (!(await upload(client, id, at))) return;
    promised.set(`${id}/${at}`, { id, atSeconds: at, mayBeGone: false });
    done.backups += 1;
  } finally {
    client.socket.destroy();
  }
}

/** True when the server said that it is finished. */
async function upload(client: Client, id: string, at: number): Promise<boolean> {
  const ask = async (...parts: Parameters<Client['call']>): Promise<string> => {
    const { status, text } = await within(client.call(...parts));
    assert.equal(status, 200, text);
    return text;
  };
  const known: { digest: Uint8Array; sizeBytes: number }[] = [];
  const before = await within(client.call('GET', 'previous', { 'archive-name': 'data.didx' }));
  if (before.status === 200 && chance() < 0.6) {
    const index = parseIndex('dynamic', before.bytes, 'base');
    for (let number = 0; number < index.count; number += 1) known.push({ digest: digestAt(index, number), sizeBytes: 64 });
    done.reused += 1;
  }
  const wid = Number(JSON.parse(await ask('POST', 'dynamic_index', { 'archive-name': 'data.didx' })).data);
  await Promise.all(
    contents().map(async (data) => {
      const { digest, sizeBytes, encoded } = chunkOf(data);
      await ask(
        'POST',
        'dynamic_chunk',
        { wid, digest: formatHex(digest), size: sizeBytes, 'encoded-size': encoded.length },
        encoded,
      );
      known.push({ digest, sizeBytes });
    }),
  );
  const chosen = Array.from({ length: 6 }, () => known[Math.floor(chance() * known.length)]!);
  let end = 0;
  const records = chosen.map(({ digest, sizeBytes }) => encodeDynamicRecord((end += sizeBytes), digest));
  const csum = computeIndexCsum(joinBytes(records), nodeBytes);
  await ask(
    'PUT',
    'dynamic_index',
    {},
    { wid, 'digest-list': chosen.map(({ digest }) => formatHex(digest)), 'offset-list': chosen.map((_, number) => number * 64) },
  );
  await ask('POST', 'dynamic_close', {}, { wid, 'chunk-count': chosen.length, size: end, csum: formatHex(csum) });
  const files = [{ name: 'data.didx', cryptMode: 'none', sizeBytes: end, csum }] as const;
  const text = formatManifest(makeManifest({ type: 'vm', id, atSeconds: at, files, unprotected: {} }, null, nodeBytes));
  const manifest = encodeBlob(text, { compress: true, crypt: null }, nodeBytes);
  await ask('POST', 'blob', { 'file-name': 'index.json.blob', 'encoded-size': manifest.length }, manifest);
  if (chance() < 0.15) return false; // leaves without finish
  await ask('POST', 'finish');
  return true;
}

async function prune(port: number): Promise<void> {
  const id = groups[Math.floor(chance() * groups.length)]!;
  const rules = { 'backup-type': 'vm', 'backup-id': id, 'keep-last': 2 };
  const { data } = await call(port, 'POST', `${base}/prune`, { ...rules, 'dry-run': true });
  // What comes meanwhile may push out one more of those that are there: until the answer each of them may be gone.
  for (const each of data ?? []) {
    const promise = promised.get(`${id}/${each['backup-time']}`);
    if (promise !== undefined) promise.mayBeGone = true;
  }
  const answer = await call(port, 'POST', `${base}/prune`, rules);
  if (answer.status !== 200) return;
  for (const { keep, 'backup-time': at } of answer.data as { keep: boolean; 'backup-time': number }[]) {
    const promise = promised.get(`${id}/${at}`);
    if (keep && promise !== undefined) promise.mayBeGone = false;
    if (!keep) done.pruned += 1;
  }
}

async function work(port: number, path: string): Promise<void> {
  const { status, data } = await call(port, 'POST', `${base}/${path}`, {});
  if (status !== 200) return;
  const end = await finishTask(port, data);
  assert.ok(end === 'OK' || /collected already/.test(end), end);
  done[path === 'gc' ? 'collections' : 'verifications'] += 1;
}

/** Everybody works until the server is gone; only its end may disturb them. */
async function live(port: number, isGone: () => boolean): Promise<void> {
  const lane = async (deed: () => Promise<void>): Promise<void> => {
    while (!isGone()) {
      try {
        await deed();
      } catch (error) {
        if (!isGone()) await wait(50); // it may be in the middle of being killed
        if (!isGone()) throw error;
      }
      await wait(Math.floor(chance() * 20));
    }
  };
  await Promise.all([
    ...groups.map((id) => lane(() => backup(port, id))),
    lane(() => prune(port)),
    lane(() => work(port, 'gc')),
    lane(() => work(port, 'verify')),
  ]);
}

async function check(port: number, store: string): Promise<void> {
  for (const folder of ['tmp', 'trash', 'sessions']) assert.deepEqual(readdirSync(join(store, '.holdfast', folder)), [], folder);
  const listed = new Set<string>();
  for (const id of groups) {
    if (!readdirSync(join(store, 'vm')).includes(id)) continue;
    for (const name of readdirSync(join(store, 'vm', id))) {
      if (name === 'owner') continue;
      assert.deepEqual(readdirSync(join(store, 'vm', id, name)).toSorted(), ['data.didx', 'index.json.blob'], `${id}/${name}`);
      listed.add(`${id}/${Date.parse(name) / 1_000}`);
    }
  }
  for (const [name, { mayBeGone }] of promised) {
    if (listed.has(name)) continue;
    assert.ok(mayBeGone, `vm/${name} was acknowledged and is gone`);
    promised.delete(name);
  }
  const { data } = await call(port, 'POST', `${base}/verify`, {});
  assert.equal(await finishTask(port, data), 'OK', 'every snapshot that is there is whole');
  for (const promise of promised.values()) promise.mayBeGone = false;
}

function checkNothingWasted(store: string): void {
  const referred = new Set<string>();
  for (const id of groups)
    for (const name of readdirSync(join(store, 'vm', id))) {
      if (name === 'owner') continue;
      const index = parseIndex('dynamic', readFileSync(join(store, 'vm', id, name, 'data.didx')), name);
      for (let at = 0; at < index.count; at += 1) referred.add(formatHex(digestAt(index, at)));
    }
  const stored = readdirSync(join(store, '.chunks')).flatMap((prefix) => readdirSync(join(store, '.chunks', prefix)));
  assert.deepEqual(new Set(stored), referred);
}

test(`a server killed while it works keeps every promise and leaves no debris (HOLDFAST_SEED=${seed})`, async (context) => {
  const folder = mkdtempSync(join(tmpdir(), 'holdfast-backup-kill-'));
  const store = join(folder, 'store');
  mkdirSync(join(store, '.chunks'), { recursive: true });
  makeCertificate(folder);
  const port = await freePort();
  const server = { name: 'n', address: '127.0.0.1', port, cert: 'cert', key: 'key', 'ticket-key': 'ticket' };
  const toml = [
    '[server]',
    ...Object.entries(server).map(([key, value]) => `${key} = ${JSON.stringify(value)}`),
    `[[datastore]]\nname = "store"\npath = "store"\nreserve-mib = 1`,
    `[[account]]\nid = "root@pam!t"\nsecret-hash = ${JSON.stringify(hashSecret('geheim'))}`,
    '[[acl]]\npath = "/"\nwho = "root@pam!t"\nrole = "Admin"',
  ];
  writeFileSync(join(folder, 'server.toml'), encodeText(toml.join('\n')));
  try {
    for (let round = 0; round < rounds; round += 1) {
      const child = await start(folder);
      let isGone = false;
      const living = live(port, () => isGone);
      living.catch(() => {}); // raised below
      // Not by the clock alone: a busy machine does less in the same time.
      const enough = done.backups + 3 + Math.floor(chance() * 6);
      const deadline = Date.now() + 60_000;
      while (done.backups < enough && Date.now() < deadline) await Promise.race([wait(10), living]);
      await wait(Math.floor(chance() * 60));
      isGone = true;
      await kill(child);
      await living;
      const again = await start(folder);
      await check(port, store);
      if (round === rounds - 1) {
        await work(port, 'gc');
        checkNothingWasted(store);
      }
      await kill(again);
    }
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
  context.diagnostic(JSON.stringify(done));
  for (const [what, count] of Object.entries(done)) assert.ok(count > 0, `${what} never happened`);
});
