import assert from 'node:assert/strict';
import { resolve } from 'node:path';
import test from 'node:test';
import type { TestLine } from './test-driver.ts';
import { createLeafCounter, formatTally } from './test-tally.ts';

type Result = TestLine & { kind: 'result' };

function result(says: Partial<Result>): Result {
  const plain = { nesting: 0, suite: false, file: resolve('a.test.ts'), tookMs: 1, skip: null, error: null, failure: null };
  return { kind: 'result', outcome: 'passed', name: 'x', ...plain, ...says };
}

function outcomes(results: Result[]): (string | null)[] {
  const leafOf = createLeafCounter();
  return results.map((line) => leafOf(line)?.outcome ?? null);
}

test('only leaves count: a test that holds others does not', () => {
  const results = [result({ nesting: 1 }), result({ nesting: 1 }), result({}), result({})];
  assert.deepEqual(outcomes(results), ['passed', 'passed', null, 'passed']);
});

test('a parent that failed only through its children is not counted again; one with trouble of its own is', () => {
  const child = result({ nesting: 1, outcome: 'failed', failure: 'testCodeFailure' });
  assert.deepEqual(outcomes([child, result({ outcome: 'failed', failure: 'subtestsFailed' })]), ['failed', null]);
  assert.deepEqual(outcomes([result({ nesting: 1 }), result({ outcome: 'failed', failure: 'hookFailed' })]), [
    'passed',
    'failed',
  ]);
});

test('a suite is not a test, skipped is neither passed nor failed, a file without tests fails', () => {
  assert.deepEqual(outcomes([result({ suite: true })]), [null]);
  assert.deepEqual(outcomes([result({ skip: 'no /dev/kvm' })]), ['skipped']);
  assert.deepEqual(outcomes([result({ name: 'a.test.ts' })]), ['failed']);
});

test('the closing line', () => {
  assert.equal(formatTally({ passed: 3, failed: 0, skipped: 0 }), '3 passed, 0 failed');
  assert.equal(formatTally({ passed: 3, failed: 1, skipped: 2 }), '3 passed, 1 failed, 2 skipped');
});
