import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { connect } from 'node:net';
import { join } from 'node:path';
import { test } from 'node:test';
import { promisify } from 'node:util';
import { connectNbd } from '#adapters/nbd/nbd-client.ts';
import { serveNbd } from '#adapters/nbd/nbd-server.ts';
import { isAppError } from '#base/error.ts';
import { makeWorkDirectory } from './checker/dir-rig.ts';

const run = promisify(execFile);
const mib = 1 << 20;

/** A disk of which each byte tells its place; what lies behind 3 MiB cannot be read. */
async function serve(path: string) {
  const read = async (at: number, bytes: number): Promise<Uint8Array> => {
    if (at + bytes > 3 * mib) throw new Error('bad');
    return Uint8Array.from({ length: bytes }, (_, index) => ((at + index) >> 9) & 0xff);
  };
  return await serveNbd(path, new Map([['disk0', { sizeBytes: 4 * mib, read }]]), null);
}

test('our client and QEMU read what is served; nothing is written, and a bad place costs nothing but its read', async () => {
  using work = makeWorkDirectory('nbd-server');
  const socket = join(work.path, 'below/nbd.sock');
  const server = await serve(socket);
  const nbd = await connectNbd(socket, 'disk0', { deadlineMs: 2_000 });
  assert.equal(nbd.sizeBytes, 4 * mib);
  const data = await Promise.all(Array.from({ length: 40 }, (_, at) => nbd.read(at * 512 + 3, 512)));
  for (const [at, read] of data.entries()) assert.deepEqual([read[0], read[511]], [at, at + 1]);
  await assert.rejects(nbd.read(3 * mib, 512), (error) => isAppError(error, 'invalid'));
  await assert.rejects(nbd.read(4 * mib - 100, 512), (error) => isAppError(error, 'invalid'));
  await assert.rejects(nbd.write(0, new Uint8Array(8192)), (error) => isAppError(error, 'invalid'));
  await nbd.flush();
  assert.equal((await nbd.read(1024, 1))[0], 2);
  nbd.close();
  await assert.rejects(connectNbd(socket, 'disk1', { deadlineMs: 2_000 }), (error) => isAppError(error, 'missing'));

  const url = `nbd+unix:///disk0?socket=${socket}`;
  const patterns = ['-c', 'read -P 0 0 512', '-c', 'read -P 7 3584 512', '-c', 'read -P 255 130560 512'];
  const { stdout } = await run('qemu-io', ['-r', '-f', 'raw', ...patterns, url]);
  assert.match(stdout, /read 512\/512 bytes at offset 130560/);
  assert.doesNotMatch(stdout, /verification failed/);
  const bad = await run('qemu-io', ['-r', '-f', 'raw', '-c', 'read 3145728 512', url]).catch(String);
  assert.match(JSON.stringify(bad), /Command failed|Input\/output error/);
  await server.close();
  await assert.rejects(connectNbd(socket, 'disk0', { deadlineMs: 2_000 }));
});

test('a client that speaks something else, or hangs up in the middle, is nobody else’s trouble', async () => {
  using work = makeWorkDirectory('nbd-server');
  const socket = join(work.path, 'nbd.sock');
  const server = await serve(socket);
  for (const words of ['GET / HTTP/1.1\r\n\r\n'.padEnd(200, ' '), '\0\0\0\u0003IHAVEOPT\0\0\0\u0007\xff\xff\xff\xff', '\0']) {
    const client = connect(socket);
    await new Promise((resolve) => client.once('data', resolve));
    client.end(Buffer.from(words, 'latin1'));
    await new Promise((resolve) => client.resume().once('close', resolve));
  }
  const nbd = await connectNbd(socket, 'disk0', { deadlineMs: 2_000 });
  assert.equal((await nbd.read(512, 1))[0], 1);
  nbd.close();
  const taken = await serve(socket); // the next process's server takes the place of one that was left
  const again = await connectNbd(socket, 'disk0', { deadlineMs: 2_000 });
  again.close();
  await taken.close();
  await server.close();
});
