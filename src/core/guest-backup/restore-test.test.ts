import assert from 'node:assert/strict';
import { test } from 'node:test';
import { proberAddress, testVmid } from '#core/guest-backup/restore-test.ts';

test('whoever looks at a guest has an address beside it, never the first or the last of its network', () => {
  assert.equal(proberAddress('10.77.0.101/24'), '10.77.0.100/24');
  assert.equal(proberAddress('10.0.0.1/24'), '10.0.0.2/24');
  assert.equal(proberAddress('10.0.0.254/24'), '10.0.0.253/24');
  assert.equal(proberAddress('10.0.0.5/30'), '10.0.0.6/30');
  for (const bad of ['10.0.0.1', '10.0.0.1/31', 'x/24', '10.0.0.300/24']) assert.throws(() => proberAddress(bad), /address:/);
});

test('a guest under test has a number of its own', () => {
  assert.equal(testVmid(101), 900_000_101);
  assert.ok(testVmid(899_999_999) <= 999_999_999);
});
