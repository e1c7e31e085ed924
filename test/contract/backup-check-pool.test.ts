import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { nodeBytes } from '#adapters/bytes/node-bytes.ts';
import { isAppError } from '#base/error.ts';
import { encodeBlob } from '#core/backup/blob.ts';
import { startCheckPool } from '#programs/backup/check-pool.ts';
import { checkContentHere, checkIncoming, type CheckContent } from '#programs/backup/incoming-chunk.ts';

const data = Buffer.from('a line of a log that repeats itself\n'.repeat(40_000));
const digest = createHash('sha256').update(data).digest();

function encode(compress: boolean): Buffer {
  return Buffer.from(encodeBlob(data, { compress, crypt: null }, nodeBytes));
}

async function judgeAll(checkContent: CheckContent): Promise<void> {
  const check = (claim: { digest: Uint8Array; sizeBytes: number }, encoded: Buffer): Promise<unknown> =>
    checkIncoming({ ...claim, encodedBytes: encoded.length }, encoded, checkContent);
  const refused = async (claim: { digest: Uint8Array; sizeBytes: number }, encoded: Buffer, words: RegExp): Promise<void> =>
    assert.rejects(check(claim, encoded), (error) => isAppError(error, 'invalid') && words.test(error.message));
  const right = { digest, sizeBytes: data.length };
  for (const compress of [true, false]) {
    await check(right, encode(compress));
    await refused({ ...right, sizeBytes: data.length - 1 }, encode(compress), /^size: /);
    await refused({ ...right, digest: new Uint8Array(32) }, encode(compress), /^digest: /);
  }
  const cut = encode(true);
  await refused(right, cut.subarray(0, cut.length - 9), /damaged or too long/);
  const shared = Buffer.from(new SharedArrayBuffer(cut.length));
  shared.set(cut);
  await check(right, shared);
}

test('chunks that come are judged alike in workers and in the thread that asks', async () => {
  const pool = startCheckPool(2);
  try {
    await judgeAll(checkContentHere);
    await judgeAll((claim, encoded, header) => pool.checkContent(claim, encoded, header));
  } finally {
    await pool.close();
  }
});

test('workers tell right from bad and missing files', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'holdfast-check-pool-'));
  const pool = startCheckPool(1);
  try {
    writeFileSync(join(folder, 'chunk'), encode(true));
    assert.equal((await pool.check(join(folder, 'chunk'), digest))?.kind, 'right');
    assert.equal((await pool.check(join(folder, 'chunk'), new Uint8Array(32)))?.kind, 'bad');
    assert.equal(await pool.check(join(folder, 'none'), digest), null);
    await assert.rejects(pool.check(folder, digest), (error) => isAppError(error, 'unavailable'));
  } finally {
    await pool.close();
    rmSync(folder, { recursive: true });
  }
});
