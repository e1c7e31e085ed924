import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as wait } from 'node:timers/promises';
import { test } from 'node:test';
import { createChance } from '#core/ha/seeded-chance.ts';
import { encodeText } from '#core/backup/bytes.ts';
import { describeRest } from '#programs/backup/rest.ts';
import { rest } from './backup-client.ts';
import { createAsker, startTestServer, type RunningServer } from './backup-server-parts.ts';
import { chunkOf, sendArchive, snapshotAt } from './datastore-parts.ts';

/** Every call of the API with one parameter that its own table forbids: refused in words, nothing stored, nobody falls over. */
const firstSeed = Number(process.env['HOLDFAST_SEED'] ?? 1);
const seeds = Number(process.env['HOLDFAST_SEEDS'] ?? 2);

type Call = ReturnType<typeof describeRest>[number];
type Values = Record<string, unknown>;

/** What makes a call that would be accepted, or is refused for a reason of its own. */
const good: Values = {
  store: 'store',
  'backup-type': 'vm',
  'backup-id': '100',
  'backup-time': 60,
  node: 'n',
  'file-name': 'data.didx',
  filepath: '/',
  name: 'inner',
  path: '/datastore/store',
  notes: 'n',
  until: 5,
  'new-owner': 'root@pam',
  'interval-hours': 24,
  days: 3,
  upid: 'UPID:n:00000001:00000001:00000001:00000001:gc:store:root@pam:',
  userid: 'x@pbs',
  password: 'long enough',
  'token-name': 't',
  role: 'Audit',
  'auth-id': 'x@pbs',
  id: 'job',
  remote: 'there',
  'remote-store': 'store',
  host: '127.0.0.1',
  'budget-mib': 5,
};

/** Values that the parameter's description rules out; all that a query can say is text. */
function wrongOnes(call: Call, name: string): unknown[] {
  const { type, minimum, maximum, maxLength, enum: words, optional } = call.parameters[name]!;
  const inQuery = call.method === 'GET' || call.method === 'DELETE' || call.body === 'raw' || call.path.includes(`{${name}}`);
  const found: unknown[] = [];
  if (type === 'integer') {
    found.push('x', '1.5', '1e3', '0x10', ' 1', '99999999999999999999', 'NaN', (minimum ?? 0) - 1, (maximum ?? 0) + 1);
    if (!inQuery) found.push(1.5, true, [1], { a: 1 });
  }
  if (type === 'boolean') found.push('maybe', '2', ...(inQuery ? [] : [2, 'x', [true], {}]));
  if (type === 'string') {
    if (maxLength !== undefined && maxLength < 8_000) found.push('x'.repeat(maxLength + 1));
    if (words !== undefined) found.push('other', `${words[0]} `);
    if (!inQuery) found.push(7, true, ['a'], { a: 'b' });
  }
  if (type === 'array' && !inQuery)
    found.push(
      [['a']],
      [{}],
      [7],
      { a: 1 },
      Array.from({ length: (maximum ?? 0) + 1 }, () => 'all'),
    );
  if (!optional && !call.path.includes(`{${name}}`)) found.push(undefined, ...(inQuery ? [] : [null]));
  return found;
}

/** All files with their content, but for what the tasks of earlier calls write. */
function digestOf({ made, scratch }: RunningServer): string {
  const hash = createHash('sha256');
  for (const root of [made.root, scratch])
    for (const entry of readdirSync(root, { recursive: true, withFileTypes: true })) {
      const path = join(entry.parentPath, entry.name);
      hash.update(`${path}\n`);
      if (entry.isFile()) hash.update(readFileSync(path));
    }
  return hash.digest('hex');
}

async function untilQuiet({ services }: RunningServer): Promise<void> {
  for (const deadline = Date.now() + 20_000; services.tasks.list().some(({ end }) => end === null); await wait(5))
    assert.ok(Date.now() < deadline, 'a task does not end');
}

function fill(call: Call, values: Values): { target: string; params: Values } {
  const params = { ...values };
  const target = call.path.replaceAll(/\{([a-z-]+)\}/g, (_, name: string) => {
    const value = String(params[name] as string);
    delete params[name];
    return encodeURIComponent(value);
  });
  for (const [name, value] of Object.entries(params)) if (value === undefined) delete params[name];
  return { target, params };
}

test('whatever one parameter of any call is, a call that is refused has stored nothing', async () => {
  const running = await startTestServer();
  try {
    const ask = createAsker(running.port);
    const session = await running.made.store.startBackup(snapshotAt(60), 'admin@pbs');
    await sendArchive(session, [chunkOf(encodeText('kept'))]);
    await session.finish();
    const calls = describeRest().filter(({ body }) => body !== 'raw');
    assert.ok(calls.length > 85);
    let refused = 0;
    for (let seed = firstSeed; seed < firstSeed + seeds; seed += 1) {
      const chance = createChance(seed);
      const pick = <Item>(items: readonly Item[]): Item => items[Math.floor(chance() * items.length)]!;
      for (const call of calls) {
        const names = Object.keys(call.parameters);
        const values = Object.fromEntries(names.flatMap((name) => (name in good ? [[name, good[name]]] : [])));
        const wrong = names.filter((name) => wrongOnes(call, name).length > 0);
        const tries: Values[] =
          wrong.length === 0
            ? []
            : [pick(wrong), pick(wrong)].map((name) => ({ ...values, [name]: pick(wrongOnes(call, name)) }));
        tries.push({ ...values, [pick(['unknown', 'constructor', 'Store'])]: 'x' });
        await untilQuiet(running);
        const before = digestOf(running);
        for (const given of tries) {
          const { target, params } = fill(call, given);
          const { status, text } = await ask('admin@pbs', call.method, target, params);
          const shown = `seed ${seed}: ${call.method} ${target} ${JSON.stringify(params).slice(0, 300)}: ${status} ${text.slice(0, 200)}`;
          assert.ok([400, 404].includes(status), shown);
          assert.ok(text.length >= 8 && !text.includes('internal error'), shown);
          refused += 1;
        }
        assert.equal(digestOf(running), before, `seed ${seed}: ${call.method} ${call.path} stored something`);
      }
    }
    assert.ok(refused >= calls.length * 2 * seeds);
    assert.deepEqual((await running.made.store.verifySnapshot(snapshotAt(60), 'UPID:f')).problems, []);
  } finally {
    await running.end();
  }
});

test('bodies that are no parameters are refused: other JSON, broken forms, wrong types of content', async () => {
  const running = await startTestServer();
  try {
    const headers = { authorization: 'PBSAPIToken u@pbs!t:geheim' };
    const posts = describeRest().filter(({ method, body }) => (method === 'POST' || method === 'PUT') && body !== 'raw');
    for (const call of posts) {
      const { target } = fill(call, good);
      for (const [body, type] of [
        ['[]', 'application/json'],
        ['"text"', 'application/json'],
        ['{', 'application/json'],
        ['null', 'application/json'],
        ['{"__proto__": {"store": "store"}}', 'application/json'],
        ['%zz=%zz&=&&', 'application/x-www-form-urlencoded'],
        ['\u0000\u0001', 'application/octet-stream'],
      ] as const) {
        const { status, text } = await rest(
          running.port,
          call.method,
          `/api2/json/${target}`,
          { ...headers, 'content-type': type },
          body,
        );
        assert.ok([400, 403, 404].includes(status), `${call.method} ${target} ${body}: ${status} ${text.slice(0, 200)}`);
      }
    }
  } finally {
    await running.end();
  }
});
