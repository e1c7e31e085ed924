import { test } from 'node:test';
import { defineStorageSuite } from './checker/storage-suite.ts';
import { makeZfsBench, testPool } from './checker/zfs-bench.ts';

const without = 'no pool for tests: set HOLDFAST_TEST_POOL on a machine with OpenZFS (the full lab does)';

if (testPool === undefined) {
  test('the zfs driver keeps the rules of guest storage', { skip: without }, () => {});
} else {
  defineStorageSuite('zfs file', (name) => makeZfsBench(name, 'file'));
  defineStorageSuite('zfs volume', (name) => makeZfsBench(name, 'volume'));
}
