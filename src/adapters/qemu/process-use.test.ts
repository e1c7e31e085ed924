import assert from 'node:assert/strict';
import { test } from 'node:test';
import { parseProcessUse, readProcessUse } from './process-use.ts';

test('use is read from the fields after the name, whatever the name holds', () => {
  const fields = Array.from({ length: 50 }, (_, index) => String(index));
  const use = parseProcessUse(`7 (a) b (c)) S ${fields.slice(1).join(' ')}\n`);
  assert.deepEqual(use, { cpuMs: (11 + 12) * 10, memoryBytes: 21 * 4096 });
  assert.equal(parseProcessUse('nothing of the kind'), null);
});

test('this process has used something; one that is gone has not', () => {
  const own = readProcessUse(process.pid);
  assert.ok(own !== null && own.cpuMs > 0 && own.memoryBytes > 1 << 20);
  assert.ok(Math.abs(own.memoryBytes - process.memoryUsage().rss) < 64 << 20);
  assert.equal(readProcessUse(2 ** 30), null);
});
