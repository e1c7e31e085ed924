import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { mkdtemp, rm } from 'node:fs/promises';
import { connect as connectPlain, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { connect } from 'node:tls';
import { createAuthority, issueCertificate, requestCertificate } from '#adapters/pki/authority.ts';
import { isAppError } from '#base/error.ts';
import { limits } from '#base/limits.ts';
import type { JoinCodeRecord } from '#core/cluster/admission.ts';
import type { JoinCode } from '#core/cluster/join-code.ts';
import { clusterPorts } from '#core/cluster/ports.ts';
import { keys, prefixes } from '#core/ha/keys.ts';
import { timingProfiles } from '#core/ha/timing.ts';
import { readDoorFingerprint } from '#programs/join-door/answer.ts';
import { askDoor } from '#programs/join-door/ask.ts';
import { runJoinDoor } from '#programs/join-door/door.ts';
import type { NodeConfig } from '#programs/node-config.ts';
import { createMemoryStore } from '../fakes/memory-store.ts';

const address = '127.0.0.1';
const secret = '0123456789abcdef0123456789abcdef';

/** A member with its door, on loopback. */
async function openMember() {
  await using stack = new AsyncDisposableStack();
  const directory = await mkdtemp(join(tmpdir(), 'door-'));
  stack.defer(() => rm(directory, { recursive: true, force: true }));
  await createAuthority(directory, { clusterName: 'Clinic' });
  const tls = { caFile: join(directory, 'ca.pem'), certFile: join(directory, 'n1.pem'), keyFile: join(directory, 'n1.key') };
  await issueCertificate(directory, { name: 'n1', addresses: [address], kind: 'node', out: tls });
  const memory = createMemoryStore();
  const store = { ...memory, listMembers: () => Promise.resolve([]) };
  const put = async (key: string, value: unknown) => {
    const entry = await store.read(key);
    await store.commit([{ key, modRevision: entry?.modRevision ?? 0n }], [{ key, value: JSON.stringify(value) }]);
  };
  await put(keys.cluster, { id: 'c1', name: 'Clinic', createdAtMs: 0 });
  const config = {
    node: { name: 'n1', cluster: 'c1', address },
    etcd: { endpoints: [], tls },
    timing: timingProfiles.standard,
  } as unknown as NodeConfig;
  let nowMs = 1_000;
  let codes: { key: string; value: JoinCodeRecord; modRevision: bigint }[] = [];
  let ring = () => {};
  const said: string[] = [];
  const stop = new AbortController();
  const done = runJoinDoor(
    {
      config,
      store,
      nowMs: () => nowMs,
      listCodes: () => codes,
      nextBell: () => new Promise((resolve) => (ring = resolve)),
      onJudged: (text) => said.push(text),
      onTrouble: (text) => said.push(text),
    },
    stop.signal,
  );
  stack.defer(async () => {
    stop.abort();
    ring();
    await done;
  });
  /** What the agent's view of the record does in a real node. */
  const look = async () => {
    const { entries } = await store.list(prefixes.joinCodes);
    codes = entries.map(({ key, value, modRevision }) => ({ key, modRevision, value: JSON.parse(value) as JoinCodeRecord }));
    ring();
    await new Promise((resolve) => setTimeout(resolve, 100));
  };
  const fingerprint = await readDoorFingerprint(config);
  const code: JoinCode = {
    role: 'node',
    id: '0a0b0c0d',
    secret,
    fingerprint,
    expiresAtMs: 0,
    address,
    port: clusterPorts.joinDoor,
  };
  const record: JoinCodeRecord = {
    id: code.id,
    role: 'node',
    secretHash: createHash('sha256').update(secret).digest('hex'),
    madeBy: 'n1',
    createdAtMs: 0,
    expiresAtMs: 60_000,
    wrongTries: 0,
    used: null,
  };
  const owned = stack.move();
  return {
    directory,
    code,
    record,
    said,
    offer: async (value: JoinCodeRecord) => {
      await put(keys.joinCode(value.id), value);
      await look();
    },
    read: async () => {
      const entry = await store.read(keys.joinCode(code.id));
      return entry === null ? null : (JSON.parse(entry.value) as JoinCodeRecord);
    },
    readKey: async (key: string) => (await store.read(key))?.value ?? null,
    revisionOf: async (key: string) => (await store.read(key))?.modRevision,
    put,
    passTime: async (toMs: number) => {
      nowMs = toMs;
      await look();
    },
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  };
}

const ask = { name: 'n2', address: '10.0.0.2' };
const machine = '11111111-2222-4333-8444-555555555555';

test('closed without a code; with one it answers and enrols one machine; closed and forgotten when the code is over', async () => {
  await using member = await openMember();
  await assert.rejects(askDoor(member.code, { op: 'hello', ...ask }), (error) => isAppError(error, 'unavailable'));
  await member.offer(member.record);
  const hello = await askDoor(member.code, { op: 'hello', ...ask });
  assert.deepEqual([hello.cluster, hello.enrolled], [{ id: 'c1', name: 'Clinic' }, null]);
  assert.equal((await member.read())?.used, null);

  const request = (await requestCertificate(join(member.directory, 'n2.key'), 'n2')).pem;
  const first = await askDoor(member.code, { op: 'enrol', ...ask, machine, request });
  const again = await askDoor(member.code, { op: 'enrol', ...ask, machine, request });
  assert.match((await member.readKey(keys.nodeMachine('n2'))) ?? '', new RegExp(machine));
  for (const { enrolled } of [first, again]) {
    assert.match(enrolled?.certificate ?? '', /BEGIN CERTIFICATE/);
    assert.match(enrolled?.authorityKey ?? '', /PRIVATE KEY/);
  }
  const thief = (await requestCertificate(join(member.directory, 'thief.key'), 'n2')).pem;
  await assert.rejects(askDoor(member.code, { op: 'enrol', ...ask, machine, request: thief }), (error) =>
    isAppError(error, 'unauthenticated'),
  );
  assert.ok(!member.said.some((text) => text.includes(secret)), 'no secret in the log');

  await member.passTime(60_000);
  assert.equal(await member.read(), null);
  await assert.rejects(askDoor(member.code, { op: 'hello', ...ask }), (error) => isAppError(error, 'unavailable'));
});

test('a witness is not given the authority’s key', async () => {
  await using member = await openMember();
  await member.offer({ ...member.record, role: 'witness' });
  const request = (await requestCertificate(join(member.directory, 'w.key'), 'w')).pem;
  const { enrolled } = await askDoor(
    { ...member.code, role: 'witness' },
    { op: 'enrol', name: 'w', address: '10.0.0.9', request },
  );
  assert.equal(enrolled?.authorityKey, null);
});

test('to a member of another authority not one byte of the secret is sent', async () => {
  await using member = await openMember();
  await member.offer(member.record);
  const foreign = { ...member.code, fingerprint: 'ab'.repeat(32) };
  await assert.rejects(askDoor(foreign, { op: 'hello', ...ask }), (error) => isAppError(error, 'unauthenticated'));
  assert.deepEqual(member.said, [], 'the door never heard a question');
});

test('wrong secrets wear the code out', async () => {
  await using member = await openMember();
  await member.offer(member.record);
  for (let count = 0; count < 5; count += 1) {
    const wrong = askDoor({ ...member.code, secret: 'f'.repeat(32) }, { op: 'hello', ...ask });
    await assert.rejects(wrong, (error) => isAppError(error, 'unauthenticated'));
  }
  assert.equal((await member.read())?.wrongTries, 5);
  await assert.rejects(askDoor(member.code, { op: 'hello', ...ask }), (error) => isAppError(error, 'unauthenticated'));
});

test('nonsense gets words, too much gets nothing, and those who keep it busy do not keep it busy for all', async () => {
  await using member = await openMember();
  await member.offer(member.record);
  const say = (text: string) =>
    new Promise<string>((resolve) => {
      const socket = connect({ host: address, port: clusterPorts.joinDoor, rejectUnauthorized: false });
      let heard = '';
      socket.on('data', (part: Buffer) => (heard += part.toString()));
      socket.on('error', () => {});
      socket.on('close', () => resolve(heard));
      socket.write(text);
    });
  assert.match(await say('{"version":1}\n'), /"ok":false.*does not understand/);
  assert.match(await say('GET / HTTP/1.1\r\n\r\n'), /"ok":false/);
  assert.match(await say('x'.repeat(100_000)), /too long|^$/);
  const idle: Socket[] = Array.from({ length: 12 }, () => connectPlain({ host: address, port: clusterPorts.joinDoor }));
  for (const socket of idle) socket.on('error', () => {});
  const open = () => idle.filter((socket) => !socket.closed).length;
  const untilMs = performance.now() + 5_000;
  // Only a few are let in at once; the others are hung up on at the door.
  while (open() > limits.joinCallsAtOnce && performance.now() < untilMs) await new Promise((resolve) => setTimeout(resolve, 20));
  assert.ok(open() <= limits.joinCallsAtOnce, `${open()} were let in`);
  for (const socket of idle) socket.destroy();
  await new Promise((resolve) => setTimeout(resolve, 100));
  assert.ok((await askDoor(member.code, { op: 'hello', ...ask })).ok);
});

test('a dead node’s name is the new machine’s from the moment it is let in; a take of the permit under way then loses', async () => {
  await using member = await openMember();
  await member.offer(member.record);
  const revoked = { state: 'revoked', epoch: 4, revokedEpoch: 3 };
  await member.put(keys.nodePermit('n2'), revoked);
  await member.put(keys.nodeMachine('n2'), { id: 'former', atMs: 0 });
  const request = (await requestCertificate(join(member.directory, 'n2.key'), 'n2')).pem;
  const enrol = () => askDoor(member.code, { op: 'enrol', ...ask, machine, request });
  await assert.rejects(enrol(), (error) => isAppError(error, 'conflict'), 'not declared dead');
  await member.put(keys.replacedNode('n2'), { name: 'n2' });
  const before = await member.revisionOf(keys.nodePermit('n2'));
  await enrol();
  assert.match((await member.readKey(keys.nodeMachine('n2'))) ?? '', new RegExp(machine));
  assert.deepEqual(JSON.parse((await member.readKey(keys.nodePermit('n2'))) ?? ''), revoked);
  assert.notEqual(await member.revisionOf(keys.nodePermit('n2')), before, 'who compares the former revision loses');
});
