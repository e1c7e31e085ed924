import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { createChunkBook, encodeChunkMap, isInChunkMap } from './chunk-book.ts';

test('what somebody waits for comes first, and what follows it next', () => {
  const book = createChunkBook(8, (chunk) => chunk === 0);
  assert.equal(book.begin(0), 1);
  book.want(5);
  assert.deepEqual([book.begin(0), book.begin(0), book.begin(0)], [5, 6, 7]);
  assert.deepEqual([book.begin(0), book.begin(0), book.begin(0), book.begin(0)], [2, 3, 4, null]);
  assert.equal(book.here, 1);
});

test('a chunk that cannot be had holds nothing up and is asked for again later', () => {
  const book = createChunkBook(3, () => false);
  assert.equal(book.begin(0), 0);
  book.owe(0);
  book.failed(0, 100);
  assert.deepEqual([book.begin(0), book.begin(0), book.begin(99)], [1, 2, null]);
  book.arrived(1);
  book.arrived(2);
  assert.deepEqual([book.bad, book.owed, book.begin(100)], [1, 1, 0]);
  book.arrived(0);
  assert.deepEqual([book.bad, book.owed, book.here, book.begin(200)], [0, 0, 3, null]);
});

test('what was lost on its way is missing again, and stays wanted', () => {
  const book = createChunkBook(4, () => false);
  book.want(2);
  assert.equal(book.begin(0, true), 2);
  assert.equal(book.begin(0, true), null);
  book.lost(2);
  assert.equal(book.begin(0, true), 2);
});

test('whatever happens, every chunk is fetched in the end and none twice', () => {
  const step = fc.record({ chunk: fc.nat(19), act: fc.constantFrom('want', 'owe', 'fail', 'lose', 'arrive') });
  fc.assert(
    fc.property(fc.array(step, { maxLength: 80 }), (steps) => {
      const book = createChunkBook(20, (chunk) => chunk % 7 === 0);
      const underWay = new Set<number>();
      let nowMs = 0;
      const begin = (): void => {
        const chunk = book.begin(nowMs);
        if (chunk === null) return;
        assert.ok(!underWay.has(chunk) && !book.isHere(chunk));
        underWay.add(chunk);
      };
      for (const { chunk, act } of steps) {
        nowMs += 1;
        begin();
        if (act === 'want') book.want(chunk);
        else if (act === 'owe') book.owe(chunk);
        else if (underWay.delete(chunk)) {
          if (act === 'fail') book.failed(chunk, nowMs + 10);
          else if (act === 'lose') book.lost(chunk);
          else book.arrived(chunk);
        }
      }
      for (let round = 0; round < 100 && book.here < book.count; round += 1) {
        nowMs += 10;
        begin();
        for (const chunk of underWay) book.arrived(chunk);
        underWay.clear();
      }
      assert.deepEqual([book.here, book.owed, book.bad, book.begin(nowMs + 100)], [20, 0, 0, null]);
    }),
  );
});

test('a map of what is there says the same when it is read again, and a part of it less, never more', () => {
  fc.assert(
    fc.property(fc.array(fc.boolean(), { minLength: 1, maxLength: 60 }), fc.nat(8), (here, cut) => {
      const book = createChunkBook(here.length, (chunk) => here[chunk] === true);
      const map = encodeChunkMap(book, 0, here.length);
      assert.deepEqual(
        here.map((_, at) => isInChunkMap(map, at)),
        here,
      );
      const part = map.subarray(0, Math.max(0, map.length - cut));
      assert.ok(here.every((is, at) => is || !isInChunkMap(part, at)));
    }),
  );
});
