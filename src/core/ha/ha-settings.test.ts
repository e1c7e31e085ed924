import assert from 'node:assert/strict';
import { test } from 'node:test';
import { resourceWithDefaults, withDefaults } from '#core/ha/ha-settings.ts';

test('settings that nobody made have their defaults, those that were made hold', () => {
  assert.deepEqual(withDefaults(null), {
    placement: 'count',
    balanceOnStart: false,
    autoRebalance: null,
    shutdownPolicy: 'conditional',
    quarantineAfter: 5,
    quarantineWindowMs: 3_600_000,
  });
  assert.deepEqual(withDefaults({ quarantineAfter: 0, placement: 'by-size' }), {
    ...withDefaults(null),
    quarantineAfter: 0,
    placement: 'by-size',
  });
});

test('a guest nobody spoke of is ignored; a record of before the newer fields gets their defaults', () => {
  assert.equal(resourceWithDefaults(100, null).want, 'ignored');
  assert.deepEqual(resourceWithDefaults(100, { vmid: 100, want: 'started', maxDataAgeMs: 60_000 }), {
    vmid: 100,
    want: 'started',
    maxDataAgeMs: 60_000,
    localRetries: 1,
    otherNodeTries: 1,
    failback: true,
    betterCopyWaitMs: 0,
    startOrder: 0,
    startsAfter: [],
  });
});
