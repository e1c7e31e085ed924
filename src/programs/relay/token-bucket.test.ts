import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { createTokenBucket } from './token-bucket.ts';

test('whatever the pieces, no more than the rate and one quarter second passes', () => {
  fc.assert(
    fc.property(
      fc.integer({ min: 1000, max: 1e8 }),
      fc.array(fc.integer({ min: 1, max: 1 << 20 }), { minLength: 1 }),
      (rate, pieces) => {
        const bucket = createTokenBucket(rate, 0);
        let [nowMs, sent] = [0, 0];
        for (const piece of pieces) {
          nowMs += bucket.take(piece, nowMs);
          sent += piece;
        }
        assert.ok(sent <= rate / 4 + (nowMs * rate) / 1000 + 1, `${sent} bytes in ${nowMs} ms at ${rate}`);
      },
    ),
  );
});

test('a link that was idle does not save up more than a quarter second', () => {
  const bucket = createTokenBucket(1000, 0);
  assert.equal(bucket.take(250, 100_000), 0);
  assert.equal(bucket.take(100, 100_000), 100);
});
