import assert from 'node:assert/strict';
import test from 'node:test';
import { judgeRows, makePayload, toRanges } from '#lab/db-load-rows.ts';

const rows = (...ids: number[]) => new Map(ids.map((id) => [id, makePayload(id)]));

test('payloads differ from row to row and have one length', () => {
  assert.notEqual(makePayload(1), makePayload(2));
  assert.deepEqual([makePayload(1).length, makePayload(1_000_000).length], [200, 200]);
});

test('numbers become ranges', () => {
  assert.deepEqual(toRanges([1, 2, 3, 7, 9, 10]), [
    { from: 1, to: 3 },
    { from: 7, to: 7 },
    { from: 9, to: 10 },
  ]);
});

test('acknowledged and missing is lost; unanswered is neither lost nor wrong', () => {
  const verdict = judgeRows([1, 2, 3, 4, 5, 6], new Set([1, 2, 3, 4]), rows(1, 2, 5));
  assert.deepEqual(verdict, {
    rowsCommitted: 4,
    rowsLost: 2,
    lost: [{ from: 3, to: 4 }],
    rowsCorrupt: 0,
    rowsUnanswered: 2,
    rowsUnansweredPresent: 1,
  });
});

test('a row that reads back differently is corrupt', () => {
  const present = rows(1);
  present.set(1, `${makePayload(1).slice(0, -1)}#`);
  assert.equal(judgeRows([1], new Set([1]), present).rowsCorrupt, 1);
});
