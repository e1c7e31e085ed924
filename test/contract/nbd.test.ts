import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { existsSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { connectNbd, flushExport } from '#adapters/nbd/nbd-client.ts';
import { isAppError } from '#base/error.ts';
import { makeWorkDirectory } from './checker/dir-rig.ts';
import { endProcess } from './checker/node-rig.ts';
import { until } from './checker/until.ts';

const mib = 1 << 20;

/** A real NBD server on a 64 MiB file that holds one MiB of data at 8 MiB. */
async function serve(readOnly: boolean) {
  const work = makeWorkDirectory('nbd');
  const file = join(work.path, 'disk.raw');
  writeFileSync(file, '');
  truncateSync(file, 64 * mib);
  const socket = join(work.path, 'nbd.sock');
  const child = spawn('qemu-nbd', ['-k', socket, '-f', 'raw', '-x', 'disk', '-e', '4', '-t', ...(readOnly ? ['-r'] : []), file], {
    stdio: 'ignore',
  });
  await until('qemu-nbd listens', 5_000, () => existsSync(socket));
  return {
    socket,
    child,
    async [Symbol.asyncDispose]() {
      await endProcess(child);
      work[Symbol.dispose]();
    },
  };
}

test('reads, writes, zeroes, holes and flush, many at a time', async () => {
  await using server = await serve(false);
  const nbd = await connectNbd(server.socket, 'disk', { deadlineMs: 2_000 });
  assert.equal(nbd.sizeBytes, 64 * mib);
  const pieces = Array.from({ length: 16 }, (_, index) => index);
  await Promise.all(pieces.map((index) => nbd.write(8 * mib + index * 65_536, new Uint8Array(65_536).fill(index + 1))));
  await nbd.writeZeroes(8 * mib + 65_536, 65_536);
  await nbd.flush();
  const read = await Promise.all(pieces.map((index) => nbd.read(8 * mib + index * 65_536, 65_536)));
  for (const [index, data] of read.entries()) {
    const expected = index === 1 ? 0 : index + 1;
    assert.ok(
      data.every((byte) => byte === expected),
      `piece ${index}`,
    );
  }
  const extents = await nbd.readExtents(0, 64 * mib);
  assert.deepEqual(extents[0], { offset: 0, length: 8 * mib, zero: true });
  const data = extents.filter((extent) => !extent.zero).reduce((sum, extent) => sum + extent.length, 0);
  assert.ok(data >= 15 * 65_536 && data <= mib, `${data} bytes of data`);
  nbd.close();
  await flushExport(server.socket, 'disk');
});

test('refusals, deaths and silence become errors, each for the calls that wait', async () => {
  await using server = await serve(true);
  await assert.rejects(connectNbd(server.socket, 'other', { deadlineMs: 2_000 }), (error) => isAppError(error, 'missing'));
  const nbd = await connectNbd(server.socket, 'disk', { deadlineMs: 2_000 });
  await assert.rejects(nbd.write(0, new Uint8Array(512)), (error) => isAppError(error, 'invalid'));
  assert.equal((await nbd.read(0, 512)).length, 512);
  server.child.kill('SIGSTOP');
  await assert.rejects(connectNbd(server.socket, 'disk', { deadlineMs: 200 }), (error) => isAppError(error, 'timeout'));
  const waiting = nbd.read(0, 512);
  server.child.kill('SIGKILL');
  await assert.rejects(waiting, (error) => isAppError(error, 'unavailable'));
  await assert.rejects(nbd.read(0, 512), (error) => isAppError(error, 'unavailable'));
});
