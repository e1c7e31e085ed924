import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { existsSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { join, relative } from 'node:path';
import { test } from 'node:test';
import { AppError, isAppError } from '#base/error.ts';
import { parseCalendarEvent } from '#core/text/calendar-event.ts';
import { decodeBlob, encodeBlob } from '#core/backup/blob.ts';
import { encodeText, formatHex, joinBytes } from '#core/backup/bytes.ts';
import { createCatalogWriter, readCatalogRoot, readCatalogTable } from '#core/backup/catalog.ts';
import { ChunkCatalogue } from '#core/backup/chunk-catalogue.ts';
import { parseIndex } from '#core/backup/chunk-index.ts';
import { deriveCryptKey } from '#core/backup/crypt-key.ts';
import { parseKeyFile } from '#core/backup/key-file.ts';
import { parseArchiveSpec, parseSnapshotText } from '#core/backup/archive-spec.ts';
import { parseGroupFilter } from '#core/backup/group-filter.ts';
import { parseNamespace } from '#core/backup/names.ts';
import { parseRepository } from '#core/backup/repository.ts';
import { readCredentials, readTicket } from '#core/access/credentials.ts';
import { parseUpid } from '#core/task/upid.ts';
import { parseManifest } from '#core/backup/manifest.ts';
import { PxarDecoder } from '#core/backup/pxar-decoder.ts';
import { PxarEncoder } from '#core/backup/pxar-encoder.ts';
import { modeType } from '#core/backup/pxar-format.ts';
import { createChance } from '#core/ha/seeded-chance.ts';
import { describeRest } from '#programs/backup/rest.ts';
import { nodeBytes } from '../../src/adapters/bytes/node-bytes.ts';
import { rest, upgrade } from './backup-client.ts';
import { createAsker, secrets, startTestServer } from './backup-server-parts.ts';
import { chunkOf, makeBareStore, sendArchive, snapshotAt } from './datastore-parts.ts';

const firstSeed = Number(process.env['HOLDFAST_SEED'] ?? 1);
const seeds = Number(process.env['HOLDFAST_SEEDS'] ?? 40);

/** Each seed by itself, named when it fails. */
async function forSeeds(job: (chance: () => number) => Promise<void> | void, count = seeds): Promise<void> {
  for (let seed = firstSeed; seed < firstSeed + count; seed += 1) {
    try {
      await job(createChance(seed));
    } catch (error) {
      throw new Error(`seed ${seed} (HOLDFAST_SEED=${seed} HOLDFAST_SEEDS=1 repeats it): ${String(error)}`, { cause: error });
    }
  }
}

/** A few bits turned, a piece cut off, put in, or doubled. */
function spoil(bytes: Uint8Array, chance: () => number): Uint8Array {
  const at = Math.floor(chance() * bytes.length);
  const how = chance();
  if (how < 0.25) return bytes.slice(0, at);
  if (how < 0.35) return joinBytes([bytes.subarray(0, at), bytes.subarray(at + 1 + Math.floor(chance() * 16))]);
  if (how < 0.45) return joinBytes([bytes.subarray(0, at), bytes.subarray(0, Math.floor(chance() * 64)), bytes.subarray(at)]);
  const changed = bytes.slice();
  for (let flips = 1 + Math.floor(chance() * 4); flips > 0 && changed.length > 0; flips -= 1) {
    // Headers matter most.
    const place = Math.floor((chance() < 0.5 ? Math.min(96, changed.length) : changed.length) * chance());
    changed[place] = chance() < 0.5 ? (changed[place] ?? 0) ^ (1 << Math.floor(chance() * 8)) : Math.floor(chance() * 256);
  }
  return changed;
}

const stat = (mode: number) => ({ mode, flags: 0n, uid: 1, gid: 1, mtimeSeconds: 1, mtimeNanos: 0 });
const key = deriveCryptKey(randomBytes(32), nodeBytes);

function asText(read: (text: string) => unknown): (file: Uint8Array) => unknown {
  return (file) => read(Buffer.from(file).toString());
}

/** A good file or text of every kind, and how it is read. */
function kinds(): { name: string; file: Uint8Array; read: (file: Uint8Array) => unknown }[] {
  const data = encodeText('some data, some more data '.repeat(40));
  const crypt = { key, iv: randomBytes(16) };
  const blob = (compress: boolean, isEncrypted: boolean) =>
    encodeBlob(data, { compress, crypt: isEncrypted ? crypt : null }, nodeBytes);
  const open = (file: Uint8Array) => decodeBlob(file, { key, maxBytes: 10_000, what: 'x' }, nodeBytes);
  const fixed = new Uint8Array(4096 + 96);
  fixed.set([0x2f, 0x7f, 0x41, 0xed, 0x91, 0xfd, 0x0f, 0xcd]);
  new DataView(fixed.buffer).setBigUint64(64, 12_000_000n, true);
  new DataView(fixed.buffer).setBigUint64(72, 4_194_304n, true);
  const dynamic = new Uint8Array(4096 + 80);
  dynamic.set([0x1c, 0x91, 0x4e, 0xa5, 0x19, 0xba, 0xb3, 0xcd]);
  new DataView(dynamic.buffer).setBigUint64(4096, 5n, true);
  new DataView(dynamic.buffer).setBigUint64(4136, 9n, true);
  const manifest = {
    'backup-type': 'vm',
    'backup-id': '1',
    'backup-time': 7,
    files: [{ filename: 'a.blob', size: 1, csum: 'ab'.repeat(32) }],
  };
  const keyFile = {
    kdf: null,
    created: '2026-01-01T00:00:00Z',
    modified: '2026-01-01T00:00:00Z',
    data: Buffer.alloc(32).toString('base64'),
  };
  const catalog = createCatalogWriter();
  catalog.begin(encodeText('root'));
  catalog.add({ kind: 'file', name: encodeText('f'), sizeBytes: 5, mtimeSeconds: -3 });
  const tables = [catalog.header, catalog.end(), catalog.finish()];
  const encoder = new PxarEncoder();
  const archive = [encoder.startRoot(stat(modeType.directory | 0o755))];
  archive.push(encoder.startFile({ name: encodeText('hello'), stat: stat(modeType.file | 0o644) }, 5).bytes, encodeText('world'));
  encoder.addPayload(5);
  archive.push(
    encoder.addSymlink({ name: encodeText('l'), stat: stat(modeType.symlink | 0o777) }, encodeText('x')),
    encoder.endDirectory(),
  );
  const upid = 'UPID:b1:00000836:003BCE9E:00000003:6B03BF50:garbage_collection:clinic:root@pam!local:';
  const log = new ChunkCatalogue(1);
  for (const number of [1, 2, 3])
    log.put(new Uint8Array(32).fill(number), { sizeBytes: number, cryptClass: 'plain', verifiedAt: 5 });
  return [
    ...[false, true].flatMap((compress) =>
      [false, true].map((sealed) => ({ name: `blob ${compress} ${sealed}`, file: blob(compress, sealed), read: open })),
    ),
    { name: 'fidx', file: fixed, read: (file) => parseIndex('fixed', file, 'x') },
    { name: 'didx', file: dynamic, read: (file) => parseIndex('dynamic', file, 'x') },
    { name: 'manifest', file: encodeText(JSON.stringify(manifest)), read: parseManifest },
    { name: 'key file', file: encodeText(JSON.stringify(keyFile)), read: parseKeyFile },
    { name: 'catalog', file: joinBytes(tables), read: (file) => walkCatalog(file, readCatalogRoot(file), 0) },
    { name: 'pxar', file: joinBytes(archive), read: readArchive },
    { name: 'chunk log', file: log.encode(), read: (file) => new ChunkCatalogue(2).replay(file, 0) },
    { name: 'upid', file: encodeText(upid), read: asText(parseUpid) },
    { name: 'repository', file: encodeText('u@pbs!t@[::1]:8007:store'), read: asText(parseRepository) },
    { name: 'snapshot', file: encodeText('vm/100/2026-01-31T12:00:00Z'), read: asText(parseSnapshotText) },
    { name: 'group filter', file: encodeText('exclude:regex:^vm/1[0-9]+$'), read: asText(parseGroupFilter) },
    { name: 'archive', file: encodeText('root.pxar:/srv/data'), read: asText(parseArchiveSpec) },
    { name: 'namespace', file: encodeText('a/b_1/c-2'), read: asText(parseNamespace) },
    {
      name: 'credentials',
      file: encodeText('PBSAPIToken u@pbs!t:a%20b'),
      read: asText((authorization) => readCredentials({ authorization })),
    },
    {
      name: 'ticket',
      file: encodeText('PBS:u@pbs:00000001::abc'),
      read: asText((text) =>
        readTicket(
          text,
          1,
          () => 'abc',
          (a, b) => a === b,
        ),
      ),
    },
    { name: 'schedule', file: encodeText('mon..fri 02:30'), read: (file) => parseCalendarEvent(Buffer.from(file).toString()) },
  ];
}

function walkCatalog(file: Uint8Array, tableAt: number, depth: number): void {
  assert.ok(depth < 1_000);
  for (const entry of readCatalogTable(file, tableAt))
    if (entry.kind === 'directory') walkCatalog(file, entry.tableAt, depth + 1);
}

function readArchive(file: Uint8Array): void {
  const decoder = new PxarDecoder();
  for (const event of decoder.push(file)) {
    if ('name' in event && event.name !== null)
      assert.ok(!event.name.includes(0x2f) && !['.', '..', ''].includes(Buffer.from(event.name).toString()));
  }
  decoder.end();
}

test('a damaged file of any kind is read rightly or refused in words, and nothing else', async () => {
  for (const { file, read } of kinds()) read(file);
  let refused = 0;
  await forSeeds((chance) => {
    for (const { name, file, read } of kinds()) {
      try {
        read(spoil(file, chance));
      } catch (error) {
        if (!isAppError(error)) throw new Error(`${name}: ${String(error)}`, { cause: error });
        refused += 1;
      }
    }
  }, seeds * 10);
  assert.ok(refused > seeds * 10, `only ${refused} were refused`);
});

test('a damaged encrypted blob never gives other data', async () => {
  const data = randomBytes(500);
  const file = encodeBlob(data, { compress: false, crypt: { key, iv: randomBytes(16) } }, nodeBytes);
  await forSeeds((chance) => {
    try {
      assert.ok(Buffer.from(decodeBlob(spoil(file, chance), { key, maxBytes: 1_000, what: 'x' }, nodeBytes)).equals(data));
    } catch (error) {
      if (!isAppError(error)) throw error;
    }
  }, seeds * 10);
});

/** Every file of a store but those that only the operating system writes. */
function filesOf(root: string): string[] {
  return readdirSync(root, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => relative(root, join(entry.parentPath, entry.name)))
    .toSorted();
}

test('whatever file of a store is damaged, the other snapshots stay whole and nobody falls over', async () => {
  await forSeeds(
    async (chance) => {
      using made = await makeBareStore();
      const { root } = made;
      const shared = chunkOf(encodeText('shared'));
      for (const [id, own] of [
        ['100', 'a'],
        ['200', 'b'],
        ['300', 'c'],
      ] as const) {
        const session = await made.store.startBackup(snapshotAt(60, id), 'root@pam');
        await sendArchive(session, [shared, chunkOf(encodeText(own))]);
        await session.finish();
      }
      await made.store.close();
      const victims = filesOf(root).filter(
        (path) =>
          !path.startsWith('vm/100/') &&
          !path.endsWith(formatHex(shared.digest)) &&
          !path.endsWith(formatHex(chunkOf(encodeText('a')).digest)),
      );
      const path = join(root, victims[Math.floor(chance() * victims.length)]!);
      const before = readFileSync(path);
      writeFileSync(path, before.length === 0 ? randomBytes(20) : spoil(before, chance));
      const store = await made.reopen();
      const attempt = async (job: () => Promise<unknown>): Promise<void> => {
        try {
          await job();
        } catch (error) {
          if (!isAppError(error)) throw new Error(`${relative(root, path)}: ${String(error)}`, { cause: error });
        }
      };
      await attempt(() => store.listGroups([]));
      await attempt(() => store.collectGarbage());
      for (const id of ['200', '300']) {
        await attempt(() => store.verifySnapshot(snapshotAt(60, id), 'UPID:f'));
        await attempt(async () => {
          const session = await store.startBackup(snapshotAt(120, id), 'root@pam');
          await attempt(() => session.readBase('data.didx'));
          await session.abort();
        });
      }
      await attempt(() => store.verifyChunks({ bytes: 1e9, olderThan: 2 ** 31 }));
      await attempt(() => store.collectGarbage({ scan: true }));
      assert.deepEqual((await store.verifySnapshot(snapshotAt(60, '100'), 'UPID:f')).problems, [], relative(root, path));
      const session = await store.startBackup(snapshotAt(180, '100'), 'root@pam');
      await sendArchive(session, [shared]);
      await session.finish();
      await store.close();
    },
    Math.ceil(seeds / 2),
  );
});

const tricks = [
  '..',
  '../..',
  '../../../etc/passwd',
  '/etc/passwd',
  'a/../../b',
  '.',
  '',
  '.holdfast',
  '.chunks',
  '.lock',
  'a\u0000b',
  '%2e%2e%2f',
  '..%2f',
  'x'.repeat(300),
  'x'.repeat(70_000),
  '-rf',
  'a b',
  'ä',
  '\ud800',
  'index.json.blob/../../owner',
  '../owner.blob',
  '..blob',
  'a.fidx/',
  '\\..\\x.blob',
  '-1',
  '1e9',
  '99999999999999999999',
  'NaN',
  '0x10',
  '[object Object]',
  '__proto__',
  'constructor',
  '{}',
  '\r\nx: y',
];

test('no call of the API reads or writes outside of the store, whatever it is given', async () => {
  const running = await startTestServer();
  try {
    const ask = createAsker(running.port);
    const canary = `canary ${randomBytes(16).toString('hex')}`;
    for (const place of [
      join(running.scratch, 'passwd'),
      join(running.scratch, 'owner.blob'),
      join(running.made.root, '..', `holdfast-canary-${process.pid}`),
    ])
      writeFileSync(place, canary);
    const session = await running.made.store.startBackup(snapshotAt(60), 'root@pam');
    await sendArchive(session, [chunkOf(encodeText('kept'))]);
    await session.finish();
    await running.made.store.setProtected(snapshotAt(60), true);
    const outside = outsideOf(running);
    // All but the one that makes datastores where it is told to.
    const calls = describeRest().filter(({ method, path }) => `${method} ${path}` !== 'POST config/datastore');
    const good: Record<string, string | number> = {
      store: 'store',
      'backup-type': 'vm',
      'backup-id': '100',
      'backup-time': 60,
      node: 'n',
      'file-name': 'data.didx',
      filepath: '/',
      id: 'job',
      remote: 'there',
      name: 'there',
      host: '127.0.0.1',
      port: 9,
    };
    const seen = new Set<number>();
    await forSeeds(
      async (chance) => {
        for (const { method, path, parameters } of calls) {
          const names = Object.keys(parameters);
          const params: Record<string, string | number | undefined> = {};
          const wrong = names[Math.floor(chance() * names.length)];
          for (const name of names) {
            const isTrick = name === wrong || chance() < 0.1;
            if (isTrick) params[name] = tricks[Math.floor(chance() * tricks.length)];
            else if (good[name] !== undefined) params[name] = good[name];
          }
          if (params['delete'] === undefined && path === 'access/acl') params['auth-id'] = 'nobody@pbs';
          const target = path.replaceAll(/\{([a-z-]+)\}/g, (_, name: string) => {
            const value = String(params[name] ?? 'x');
            delete params[name];
            return encodeURIComponent(value.isWellFormed() ? value.slice(0, 2_000) : 'x');
          });
          if (path.endsWith('/groups') && method === 'DELETE') continue;
          const { status, text } = await ask('admin@pbs', method, target, params);
          seen.add(status);
          assert.ok(
            [200, 400, 403, 404, 414, 431, 501].includes(status),
            `${method} ${target} ${JSON.stringify(params).slice(0, 200)}: ${status} ${text.slice(0, 200)}`,
          );
          assert.ok(!text.includes(canary), `${method} ${target} read outside`);
        }
      },
      Math.ceil(seeds / 8),
    );
    assert.ok(seen.has(200) && seen.has(400) && seen.has(404));
    assert.deepEqual(outsideOf(running), outside, 'nothing outside was changed');
    assert.deepEqual((await running.made.store.verifySnapshot(snapshotAt(60), 'UPID:f')).problems, []);
    rmSync(join(running.made.root, '..', `holdfast-canary-${process.pid}`));
  } finally {
    await running.end();
  }
});

/** What lies beside the store and the server's own files, with sizes. */
function outsideOf({ made, scratch }: { made: { root: string }; scratch: string }): string[] {
  const beside = readdirSync(join(made.root, '..')).filter((name) => name.startsWith('holdfast-canary'));
  const own = ['passwd', 'owner.blob'].map((name) => `${name} ${statSync(join(scratch, name)).size}`);
  return [...beside, ...own];
}

test('a backup session refuses names that reach outside, and stores nothing of them', async () => {
  const running = await startTestServer();
  try {
    const head = (who: 'u@pbs!t') => [
      'Host: x',
      `Authorization: PBSAPIToken=${who}:${secrets[who]}`,
      'Upgrade: proxmox-backup-protocol-v1',
    ];
    const target = (params: Record<string, string>) =>
      `/api2/json/backup?${new URLSearchParams({ store: 'store', 'backup-type': 'vm', 'backup-id': '1', 'backup-time': '60', ...params }).toString()}`;
    for (const trick of tricks.filter((text) => text.length < 1_000 && text !== '__proto__' && text !== '[object Object]')) {
      for (const name of ['backup-id', 'ns', 'backup-type', 'backup-time', 'store']) {
        if ((name === 'ns' && trick === '') || /^(NaN|0x10|constructor|1e9|-1|99999999999999999999)$/.test(trick)) continue;
        const answer = await upgrade(running.port, target({ [name]: trick }), head('u@pbs!t'));
        assert.ok(
          !('call' in answer) && [400, 403, 404].includes(answer.status),
          `${name}=${trick}: ${JSON.stringify(answer).slice(0, 200)}`,
        );
      }
    }
    const client = await upgrade(running.port, target({}), head('u@pbs!t'));
    assert.ok('call' in client);
    const blob = encodeBlob(encodeText('x'), { compress: false, crypt: null }, nodeBytes);
    for (const trick of tricks.filter((text) => text.length < 1_000 && text.isWellFormed())) {
      for (const suffix of ['', '.blob', '.fidx', '.didx']) {
        const name = `${trick}${suffix}`;
        if (/^[A-Za-z0-9_][A-Za-z0-9._-]*\.(blob|fidx|didx)$/.test(name)) continue;
        const stored = await client.call('POST', 'blob', { 'file-name': name, 'encoded-size': blob.length }, blob);
        const opened = await client.call('POST', 'fixed_index', { 'archive-name': name, size: 1 });
        assert.deepEqual([stored.status, opened.status], [400, 400], JSON.stringify(name));
      }
    }
    const folder = join(running.made.root, 'vm/1/1970-01-01T00:01:00Z');
    assert.deepEqual(readdirSync(folder), []);
    client.socket.destroy();
    for (let tries = 0; existsSync(folder) && tries < 500; tries += 1)
      await new Promise((resolve) => void setTimeout(resolve, 10));
    assert.ok(!existsSync(folder));
    const deep = 'a'.repeat(40_000);
    assert.equal((await rest(running.port, 'GET', `/api2/json/${deep}`, {}).catch(() => ({ status: 400 }))).status, 400);
    assert.equal((await rest(running.port, 'GET', '/api2/json/ping', {})).status, 200);
  } finally {
    await running.end();
  }
});

test('a manifest that says what is not so is refused, and the session leaves nothing', async () => {
  using made = await makeBareStore();
  const good = { 'backup-type': 'vm', 'backup-id': '100', 'backup-time': 60 };
  const entry = { filename: 'data.didx', 'crypt-mode': 'none', size: 4, csum: 'ab'.repeat(32) };
  const forged: unknown[] = [
    { ...good, files: [entry] },
    { ...good, files: [{ ...entry, filename: 'other.didx' }] },
    { ...good, files: [{ ...entry, filename: '../../owner.blob' }] },
    { ...good, files: [{ ...entry, filename: 'index.json.blob' }] },
    { ...good, files: [entry, entry] },
    { ...good, files: [{ ...entry, 'crypt-mode': 'strong' }] },
    { ...good, 'backup-id': '101', files: [] },
    { ...good, 'backup-time': 61, files: [] },
    { ...good, files: 'none' },
    [],
    null,
  ];
  for (const json of forged) {
    const session = await made.store.startBackup(snapshotAt(60), 'root@pam');
    await sendArchive(session, [chunkOf(encodeText('data'))]);
    await session.addBlob(
      'index.json.blob',
      encodeBlob(encodeText(JSON.stringify(json)), { compress: true, crypt: null }, nodeBytes),
    );
    await assert.rejects(
      session.finish(),
      (error) => error instanceof AppError && error.kind === 'invalid',
      JSON.stringify(json),
    );
    await session.abort();
    assert.deepEqual(readdirSync(join(made.root, 'vm/100')), ['owner']);
  }
});
