import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import { loadNativeZstd } from './native-zstd.ts';
import { createWorkerBytes, nodeBytes } from './node-bytes.ts';

test("a worker's zstd and Node's read each other, and both refuse what is damaged or too long", () => {
  const data = Buffer.from('a line of a log that repeats itself\n'.repeat(20_000));
  for (const worker of [createWorkerBytes(false), createWorkerBytes(true)]) {
    for (const [from, to] of [
      [worker, nodeBytes],
      [nodeBytes, worker],
      [worker, worker],
    ] as const) {
      const packed = from.zstdCompress(data);
      assert.ok(packed.length < data.length / 10);
      assert.ok(data.equals(to.zstdDecompress(packed, data.length) ?? Buffer.alloc(0)));
      assert.ok(data.equals(to.zstdDecompress(packed, data.length * 3) ?? Buffer.alloc(0)));
      assert.equal(to.zstdDecompress(packed, data.length - 1), null);
      const spoiled = Buffer.from(packed);
      spoiled[0]! ^= 1;
      assert.equal(to.zstdDecompress(spoiled, data.length), null);
      assert.equal(to.zstdDecompress(packed.subarray(0, packed.length - 5), data.length), null);
    }
    assert.equal(worker.zstdDecompress(worker.zstdCompress(new Uint8Array()), 0)?.length, 0);
  }
});

test("the zstd that is called directly is Node's own: with a second one in the process each would handle the other's contexts", () => {
  assert.notEqual(loadNativeZstd(), null);
  assert.doesNotMatch(readFileSync('/proc/self/maps', 'utf8'), /libzstd/);
});
