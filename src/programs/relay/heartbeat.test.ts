import assert from 'node:assert/strict';
import { connect, type Socket } from 'node:net';
import { test, type TestContext } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { Worker } from 'node:worker_threads';
import { watchHeartbeat } from './heartbeat.ts';

/** A peer of its own pace that returns every beat until it is told to hang. */
const peer = `
  const { parentPort } = require('node:worker_threads');
  let hangs = false;
  parentPort.on('message', () => (hangs = true));
  const server = require('node:net').createServer((socket) => socket.on('data', (data) => hangs || socket.write(data)).on('error', () => {}));
  server.listen(0, '127.0.0.1', () => parentPort.postMessage(server.address().port));
`;

async function callPeer(t: TestContext): Promise<{ socket: Socket; worker: Worker }> {
  const worker = new Worker(peer, { eval: true });
  t.after(() => worker.terminate());
  const port = await new Promise<number>((resolve) => worker.once('message', resolve));
  const socket = connect(port, '127.0.0.1');
  await new Promise((resolve) => socket.once('connect', resolve));
  return { socket, worker };
}

test('a process that stood still itself does not take its peer for dead; a peer that hangs is found out', async (t) => {
  const { socket, worker } = await callPeer(t);
  const lost: string[] = [];
  watchHeartbeat(socket, { sends: true, silenceMs: 700, lost: (because) => lost.push(because) });
  await delay(300);
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 1_200);
  await delay(300);
  assert.deepEqual(lost, []);
  worker.postMessage('hang');
  await delay(2_000);
  assert.match(lost.join(), /^no sign of life for \d+ ms$/);
});
