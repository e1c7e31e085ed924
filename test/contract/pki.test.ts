import assert from 'node:assert/strict';
import { X509Certificate, createPrivateKey } from 'node:crypto';
import { mkdtemp, readFile, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { type TLSSocket, connect, createServer } from 'node:tls';
import {
  createAuthority,
  fingerprintOf,
  issueCertificate,
  readKeyRequest,
  requestCertificate,
  signRequest,
} from '#adapters/pki/authority.ts';
import { isAppError } from '#base/error.ts';

async function makeDirectory(): Promise<{ path: string } & AsyncDisposable> {
  const path = await mkdtemp(join(tmpdir(), 'pki-test-'));
  return { path, [Symbol.asyncDispose]: () => rm(path, { recursive: true, force: true }) };
}

async function issue(directory: string, name: string, kind: 'node' | 'client', addresses: string[] = []) {
  const out = { certFile: join(directory, `${name}.pem`), keyFile: join(directory, `${name}.key`) };
  await issueCertificate(directory, { name, addresses, kind, out });
  return { cert: await readFile(out.certFile), key: await readFile(out.keyFile), out };
}

async function modeOf(file: string): Promise<number> {
  return (await stat(file)).mode & 0o777;
}

/** One TLS connection, client certificate demanded; resolves to what the server saw and what the client thinks of the server. */
async function shakeHands(
  server: { cert: Buffer; key: Buffer; ca: Buffer },
  client: { cert?: Buffer; key?: Buffer; ca: Buffer },
) {
  const seen = Promise.withResolvers<{ authorized: boolean; name: string }>();
  const listener = createServer({ ...server, requestCert: true, rejectUnauthorized: true }, (socket: TLSSocket) => {
    seen.resolve({ authorized: socket.authorized, name: String(socket.getPeerCertificate().subject.CN) });
    socket.end('hello');
  });
  listener.on('tlsClientError', (error) => seen.reject(error));
  await new Promise<void>((resolve) => listener.listen(0, '127.0.0.1', resolve));
  const address = listener.address();
  assert(address !== null && typeof address === 'object');
  const socket = connect({ ...client, host: '127.0.0.1', port: address.port });
  socket.on('error', (error) => seen.reject(error));
  socket.setTimeout(5_000, () => socket.destroy(new Error('no handshake in 5 s')));
  try {
    return await seen.promise;
  } finally {
    socket.destroy();
    listener.close();
  }
}

test('a node certificate serves and is a client; a client certificate is only a client', async () => {
  await using directory = await makeDirectory();
  await createAuthority(directory.path, { clusterName: 'clinic' });
  const ca = await readFile(join(directory.path, 'ca.pem'));
  const node = await issue(directory.path, 'north', 'node', ['10.77.0.1', 'north.clinic.example']);
  const client = await issue(directory.path, 'operator', 'client');

  assert.deepEqual(await shakeHands({ ...node, ca }, { ...node, ca }), { authorized: true, name: 'north' });
  assert.deepEqual(await shakeHands({ ...node, ca }, { ...client, ca }), { authorized: true, name: 'operator' });
  await assert.rejects(shakeHands({ ...client, ca }, { ...node, ca }), /unsuitable certificate purpose/);
  await assert.rejects(shakeHands({ ...node, ca }, { ca }), /peer did not return a certificate|certificate required|alert/i);
});

test('a node certificate names its node, its addresses and this host', async () => {
  await using directory = await makeDirectory();
  await createAuthority(directory.path, { clusterName: 'clinic' });
  const { cert, key } = await issue(directory.path, 'north', 'node', ['10.77.0.1', 'fd00::1', 'north.clinic.example']);
  const parsed = new X509Certificate(cert);
  const authority = new X509Certificate(await readFile(join(directory.path, 'ca.pem')));
  for (const host of ['north', 'localhost', 'north.clinic.example']) assert.equal(parsed.checkHost(host), host);
  for (const ip of ['10.77.0.1', '127.0.0.1', 'fd00::1']) assert.equal(parsed.checkIP(ip), ip);
  assert.equal(parsed.checkIP('10.77.0.2'), undefined);
  assert.equal(parsed.checkIssued(authority), true);
  assert.equal(parsed.verify(authority.publicKey), true);
  assert.equal(parsed.checkPrivateKey(createPrivateKey(key)), true);
  assert.equal(authority.ca, true);
  assert.equal(parsed.ca, false);
});

test('private keys are readable by their owner only', async () => {
  await using directory = await makeDirectory();
  const authority = join(directory.path, 'pki');
  await createAuthority(authority, { clusterName: 'clinic' });
  const { out } = await issue(authority, 'north', 'node');
  assert.equal(await modeOf(join(authority, 'ca.key')), 0o600);
  assert.equal(await modeOf(out.keyFile), 0o600);
  assert.equal(await modeOf(authority), 0o700);
});

test('an existing authority is never overwritten', async () => {
  await using directory = await makeDirectory();
  await createAuthority(directory.path, { clusterName: 'clinic' });
  const before = [await readFile(join(directory.path, 'ca.pem'), 'utf8'), await readFile(join(directory.path, 'ca.key'), 'utf8')];
  await assert.rejects(createAuthority(directory.path, { clusterName: 'other' }), (error) => isAppError(error, 'conflict'));
  await rm(join(directory.path, 'ca.pem')); // half of one is still one
  await assert.rejects(createAuthority(directory.path, { clusterName: 'other' }), (error) => isAppError(error, 'conflict'));
  assert.equal(await readFile(join(directory.path, 'ca.key'), 'utf8'), before[1]);
});

test('without an authority nothing is issued', async () => {
  await using directory = await makeDirectory();
  await assert.rejects(issue(directory.path, 'north', 'node'), (error) => isAppError(error, 'missing'));
});

test('a machine’s request is signed without its key leaving it, under the name that the signer says', async () => {
  await using directory = await makeDirectory();
  await createAuthority(directory.path, { clusterName: 'clinic' });
  const ca = await readFile(join(directory.path, 'ca.pem'));
  const keyFile = join(directory.path, 'south.key');
  const request = await requestCertificate(keyFile, 'says-what-it-likes');
  assert.equal(await modeOf(keyFile), 0o600);
  const again = await requestCertificate(keyFile, 'south');
  assert.equal(again.keyHash, request.keyHash, 'a second request is made with the same key');
  assert.deepEqual(await readKeyRequest(request.pem), request);

  const order = { name: 'south', addresses: ['10.77.0.2'], kind: 'node' as const };
  const cert = Buffer.from(await signRequest(directory.path, request.pem, order));
  const parsed = new X509Certificate(cert);
  assert.equal(parsed.subject, 'CN=south');
  assert.deepEqual([parsed.checkIP('10.77.0.2'), parsed.checkHost('says-what-it-likes')], ['10.77.0.2', undefined]);
  const south = { cert, key: await readFile(keyFile), ca };
  assert.deepEqual(await shakeHands(south, south), { authorized: true, name: 'south' });
  assert.equal(fingerprintOf(ca.toString()), new X509Certificate(ca).fingerprint256.replaceAll(':', '').toLowerCase());
});

test('a request that is none, or whose signature does not fit, is refused', async () => {
  await using directory = await makeDirectory();
  const { pem } = await requestCertificate(join(directory.path, 'a.key'), 'a');
  const body = Buffer.from(pem.replaceAll(/-----[^-]+-----|\s/g, ''), 'base64');
  body[body.length - 3]! ^= 1;
  const forged = `-----BEGIN CERTIFICATE REQUEST-----\n${body.toString('base64')}\n-----END CERTIFICATE REQUEST-----\n`;
  for (const text of ['', 'nonsense', forged])
    await assert.rejects(readKeyRequest(text), (error) => isAppError(error, 'invalid'));
});
