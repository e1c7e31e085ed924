import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { EtcdConnection } from './etcd-connection.ts';
import { createOpener } from './etcd-opener.ts';

const never = new AbortController().signal;

function fakeConnections() {
  const begun: { succeed: () => void; closed: boolean }[] = [];
  const open = () => {
    const { promise, resolve } = Promise.withResolvers<EtcdConnection>();
    const one = { succeed: () => resolve(connection), closed: false };
    const connection = { gone: false, close: () => (one.closed = true) } as unknown as EtcdConnection;
    begun.push(one);
    return promise;
  };
  return { begun, open };
}

test('a handshake that outlasts the patience is not begun anew, and serves whoever comes next', async () => {
  const { begun, open } = fakeConnections();
  const opener = createOpener(open, { patienceMs: 5, keepMs: 10_000 });
  await assert.rejects(opener.take(never), /no connection in/);
  await assert.rejects(opener.take(never), /no connection in/);
  assert.equal(begun.length, 1);
  begun[0]!.succeed();
  await opener.take(never);
  assert.equal(begun[0]!.closed, false);
});

test('two who ask at once never get the same connection', async () => {
  const { begun, open } = fakeConnections();
  const opener = createOpener(open, { patienceMs: 1_000, keepMs: 10_000 });
  const both = [opener.take(never), opener.take(never)];
  begun[0]!.succeed();
  const first = await both[0]!;
  begun[1]!.succeed();
  assert.notEqual(first, await both[1]!);
});

test('a connection that nobody comes for is closed', async () => {
  const { begun, open } = fakeConnections();
  const opener = createOpener(open, { patienceMs: 1, keepMs: 1 });
  await assert.rejects(opener.take(never));
  begun[0]!.succeed();
  await new Promise((resolve) => setTimeout(resolve, 20));
  assert.equal(begun[0]!.closed, true);
});
