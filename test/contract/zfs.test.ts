import { test } from 'node:test';
import { defineStorageSuite } from './checker/storage-suite.ts';
import { makeZfsBench, testPools, withoutPool } from './checker/zfs-bench.ts';

if (testPools === undefined) {
  test('the zfs driver keeps the rules of guest storage', { skip: withoutPool }, () => {});
} else {
  // Of the two kinds of disks: HOLDFAST_TEST_DISKS=volume tries one of them, in half the time.
  const kinds = (process.env['HOLDFAST_TEST_DISKS'] ?? 'file,volume').split(',');
  for (const kind of ['file', 'volume'] as const)
    if (kinds.includes(kind)) defineStorageSuite(`zfs ${kind}`, (name) => makeZfsBench(name, kind));
}
