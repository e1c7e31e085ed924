import assert from 'node:assert/strict';
import { test } from 'node:test';
import { formatSize, parseSize } from '#core/text/size.ts';

test('sizes are binary and may carry a unit letter', () => {
  assert.equal(parseSize('512', 'disk0'), 512);
  assert.equal(parseSize('10M', 'disk0'), 10 * 1024 * 1024);
  assert.equal(parseSize('1.5 GiB', 'disk0'), 1.5 * 2 ** 30);
  assert.equal(parseSize('1.1K', 'disk0'), 1126);
  assert.equal(parseSize('2g', 'disk0'), 2 * 2 ** 30);
});

test('a size that is none is refused by the name of its field', () => {
  for (const bad of ['', '0', '-1', '10X', '0.3', '1e9', 'M', '9999999999T']) {
    assert.throws(() => parseSize(bad, 'disk0'), { kind: 'invalid', message: /^disk0: / }, bad);
  }
});

test('sizes are printed in the largest fitting unit', () => {
  assert.equal(formatSize(512), '512 B');
  assert.equal(formatSize(9.5 * 2 ** 20), '9.5 MiB');
  assert.equal(formatSize(2 ** 31), '2 GiB');
  assert.equal(formatSize(150.3 * 2 ** 20), '150 MiB');
});
