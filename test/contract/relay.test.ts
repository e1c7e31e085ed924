import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { connect, createServer, type Socket } from 'node:net';
import { join } from 'node:path';
import { test } from 'node:test';
import { connect as connectTls } from 'node:tls';
import { createAuthority, issueCertificate } from '#adapters/pki/authority.ts';
import { isAppError } from '#base/error.ts';
import { limits } from '#base/limits.ts';
import { openTunnel } from '#programs/replication/relay-client.ts';
import { buildRig, type Rig } from './checker/node-rig.ts';
import { until } from './checker/until.ts';

function order(rig: Rig, service: string, rateBytesPerSecond: number | null = null) {
  return { node: 'n2', address: '127.0.0.1', port: rig.node('n2').port, service, rateBytesPerSecond, rateGroup: 'test' };
}

/** Puts an echo in the place of n2's receive service; it also tells what it was told first. */
async function serveEcho(rig: Rig): Promise<{ heard: () => string; close: () => void }> {
  await rig.node('n2').stopServing();
  let text = '';
  const open = new Set<Socket>();
  const server = createServer((socket) => {
    open.add(socket);
    socket.on('error', () => {});
    socket.on('data', (chunk) => {
      text += chunk.toString();
      socket.write(chunk);
    });
  });
  await new Promise<void>((resolve) => server.listen(join(rig.node('n2').run, 'replica.sock'), () => resolve()));
  return {
    heard: () => text,
    close: () => {
      server.close();
      for (const socket of open) socket.destroy();
    },
  };
}

test('a tunnel carries bytes both ways, tells the service who calls, and serves one connection', async () => {
  await using rig = await buildRig(['n1', 'n2']);
  const echo = await serveEcho(rig);
  const tunnel = await openTunnel(rig.node('n1').run, order(rig, 'replica'));
  const socket = connect(tunnel.path);
  let back = '';
  socket.on('data', (chunk) => (back += chunk.toString()));
  socket.write('hello');
  await until('the echo', 3_000, () => back.endsWith('hello'));
  assert.match(echo.heard(), /^\{"peer":"n1"\}\nhello$/);
  await assert.rejects(
    new Promise((resolve, reject) => {
      connect(tunnel.path).on('connect', resolve).on('error', reject);
    }),
  );
  const closed = new Promise((resolve) => socket.once('close', resolve));
  await tunnel.close();
  await closed;
  echo.close();
});

test('only the listed services, only to nodes of the cluster, and nothing is left open after a refusal', async () => {
  await using rig = await buildRig(['n1', 'n2']);
  const { run } = rig.node('n1');
  for (const service of ['etcd', 'nbd:100', 'nbd:100:disk0:x', 'nbd:1:disk0', 'nbd:100:../x']) {
    await assert.rejects(openTunnel(run, order(rig, service)), (error) => isAppError(error, 'denied', 'invalid'), service);
  }
  await assert.rejects(openTunnel(run, order(rig, 'nbd:100:disk0')), (error) => isAppError(error, 'unavailable'));
  await assert.rejects(openTunnel(run, { ...order(rig, 'replica'), node: 'n3' }), (error) => isAppError(error, 'denied'));

  const foreign = join(rig.path, 'foreign');
  await createAuthority(foreign, { clusterName: 'other' });
  const own = join(rig.path, 'pki');
  for (const [authority, kind] of [
    [foreign, 'node'],
    [own, 'client'],
  ] as const) {
    const out = { certFile: join(rig.path, 'x.pem'), keyFile: join(rig.path, 'x.key') };
    await issueCertificate(authority, { name: 'n1', addresses: [], kind, out });
    assert.equal(await knock(rig.node('n2').port, out, readFileSync(join(own, 'ca.pem'))), 'refused', `${kind} of ${authority}`);
  }
});

/** What a holder of these files gets from a relay: `refused`, or its answer to a heartbeat. */
function knock(port: number, files: { certFile: string; keyFile: string }, ca: Buffer): Promise<string> {
  return new Promise((resolve) => {
    const socket = connectTls({
      port,
      host: '127.0.0.1',
      ca,
      cert: readFileSync(files.certFile),
      key: readFileSync(files.keyFile),
      checkServerIdentity: () => undefined,
    });
    socket.write('{"service":"heartbeat","link":"x"}\n');
    socket.on('data', (data) => resolve(data.toString().includes('"ok"') ? 'accepted' : 'refused'));
    socket.on('error', () => resolve('refused'));
    socket.on('close', () => resolve('refused'));
  });
}

test('a peer that hangs is cut off in time, on both sides of a tunnel', async () => {
  await using rig = await buildRig(['n1', 'n2']);
  const echo = await serveEcho(rig);
  const tunnel = await openTunnel(rig.node('n1').run, order(rig, 'replica'));
  const socket = connect(tunnel.path);
  await new Promise((resolve) => socket.resume().once('connect', resolve));
  const gone = new Promise((resolve) => socket.once('close', resolve));
  socket.on('error', () => {});
  const startMs = performance.now();
  rig.node('n2').relay.kill('SIGSTOP');
  await gone;
  const tookMs = performance.now() - startMs;
  assert.ok(tookMs < limits.relaySilenceMs + limits.relayHeartbeatMs + 500, `cut after ${tookMs} ms`);
  rig.node('n2').relay.kill('SIGCONT');
  const again = await until('a new tunnel', 5_000, () => openTunnel(rig.node('n1').run, order(rig, 'replica')).catch(() => null));
  await again.close();
  echo.close();
});

test('the rate holds', async () => {
  await using rig = await buildRig(['n1', 'n2']);
  const echo = await serveEcho(rig);
  const tunnel = await openTunnel(rig.node('n1').run, order(rig, 'replica', 1 << 20));
  const socket = connect(tunnel.path);
  let back = 0;
  socket.on('data', (chunk) => (back += chunk.length));
  const startMs = performance.now();
  const total = 2 << 20;
  socket.write(Buffer.alloc(total, 'x'));
  await until('everything came back', 10_000, () => back >= total);
  const tookMs = performance.now() - startMs;
  assert.ok(tookMs > 1_500 && tookMs < 5_000, `2 MiB at 1 MiB/s took ${tookMs} ms`);
  await tunnel.close();
  echo.close();
});
