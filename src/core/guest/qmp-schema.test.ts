import assert from 'node:assert/strict';
import { test } from 'node:test';
import { listLacking, readHypervisorFeatures } from '#core/guest/qmp-schema.ts';

const schema = [
  { name: 'blockdev-add', 'meta-type': 'command', 'arg-type': '7' },
  {
    name: '7',
    'meta-type': 'object',
    members: [{ name: 'driver' }],
    variants: [
      { case: 'raw', type: '8' },
      { case: 'copy-before-write', type: '9' },
    ],
  },
  { name: '8', 'meta-type': 'object', members: [] },
  { name: '9', 'meta-type': 'object', members: [{ name: 'target' }, { name: 'on-cbw-error' }] },
  { name: 'announce-self', 'meta-type': 'command', 'arg-type': '1' },
  { name: 'blockdev-backup', 'meta-type': 'event' },
];

test('a feature counts only where the schema says so: driver, member or command', () => {
  assert.deepEqual(readHypervisorFeatures(schema), {
    copyBeforeWrite: true,
    cbwTimeout: false,
    onCbwError: true,
    snapshotAccess: false,
    blockdevBackup: false,
    announceSelf: true,
    setAction: false,
  });
});

test('an empty schema has no features', () => {
  assert.equal(Object.values(readHypervisorFeatures([])).some(Boolean), false);
});

test('what a QEMU lacks is told in QEMU’s own words', () => {
  assert.deepEqual(listLacking(readHypervisorFeatures(schema)), [
    'cbw-timeout',
    'snapshot-access',
    'blockdev-backup',
    'set-action',
  ]);
});
