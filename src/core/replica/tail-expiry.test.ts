import assert from 'node:assert/strict';
import { test } from 'node:test';
import { findTailExpiry, listExpiredTails } from './tail-expiry.ts';

const dayMs = 86_400_000;
const tail = { name: 'left-behind-g1', generation: 1, sizeBytes: 5, fromAtMs: 0, untilAtMs: 0 };

test('a tail expires only where the job says so, never within a week, and not before it was measured', () => {
  const expired = (keepDays: number | null | undefined, atDay: number, change = {}) =>
    listExpiredTails([{ ...tail, ...change }], keepDays, atDay * dayMs).length;
  assert.deepEqual([expired(null, 1_000), expired(undefined, 1_000), expired(30, 29), expired(30, 31)], [0, 0, 0, 1]);
  assert.deepEqual([expired(1, 6), expired(1, 8)], [0, 1]);
  assert.deepEqual([expired(30, 99, { sizeBytes: null }), expired(30, 99, { untilAtMs: null })], [0, 0]);
});

test('whether and when a tail goes by itself can be told', () => {
  assert.equal(findTailExpiry(tail, 30), 30 * dayMs);
  assert.equal(findTailExpiry(tail, 1), 7 * dayMs);
  assert.deepEqual([findTailExpiry(tail, null), findTailExpiry({ ...tail, sizeBytes: null }, 30)], [null, null]);
});
