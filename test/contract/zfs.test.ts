import { test } from 'node:test';
import { defineStorageSuite } from './checker/storage-suite.ts';
import { makeZfsBench, testPools, withoutPool } from './checker/zfs-bench.ts';

if (testPools === undefined) {
  test('the zfs driver keeps the rules of guest storage', { skip: withoutPool }, () => {});
} else {
  defineStorageSuite('zfs file', (name) => makeZfsBench(name, 'file'));
  defineStorageSuite('zfs volume', (name) => makeZfsBench(name, 'volume'));
}
