import assert from 'node:assert/strict';
import { test } from 'node:test';
import {
  chunkPath,
  groupPath,
  parseArchiveName,
  parseBackupId,
  parseBackupTime,
  parseDatastoreName,
  parseNamespace,
  readSnapshotTime,
  snapshotPath,
} from './names.ts';

test('paths of groups, snapshots and chunks', () => {
  const group = { namespace: ['a', 'b'], type: 'vm', id: '100' } as const;
  assert.equal(groupPath(group), 'ns/a/ns/b/vm/100');
  assert.equal(snapshotPath({ ...group, namespace: [], atSeconds: 1_593_179_765 }), 'vm/100/2020-06-26T13:56:05Z');
  assert.equal(chunkPath('ab12'.padEnd(64, '0')), `.chunks/ab12/${'ab12'.padEnd(64, '0')}`);
});

test('only the exact form of a snapshot folder is one', () => {
  assert.equal(readSnapshotTime('2020-06-26T13:56:05Z'), 1_593_179_765);
  for (const bad of [
    '2020-06-26T13:56:05',
    '2020-06-26',
    '2020-02-30T00:00:00Z',
    '1970-01-01T00:00:00Z',
    'owner',
    '2020-06-26T13:56:61Z',
  ]) {
    assert.equal(readSnapshotTime(bad), null, bad);
  }
});

test('names that could be paths, options or hidden files are refused, naming the field', () => {
  for (const bad of ['', '.', '..', '.hidden', '-x', 'a/b', '../x', 'a\0', 'ä', 5, null, 'x'.repeat(256)]) {
    assert.throws(() => parseBackupId(bad), /backup-id/, String(bad));
  }
  for (const bad of ['a', '.fidx', 'a.img', '../a.blob', 'a.blob/'])
    assert.throws(() => parseArchiveName(bad), /archive-name/, bad);
  assert.deepEqual(parseArchiveName('drive-scsi0.img.fidx'), { name: 'drive-scsi0.img.fidx', kind: 'fixed' });
  assert.throws(() => parseDatastoreName('ab'), /shorter than 3/);
  for (const bad of [0, -1, 1.5, 1e15, '5']) assert.throws(() => parseBackupTime(bad), /backup-time/, String(bad));
});

test('namespaces have at most seven levels of at most 32 letters', () => {
  assert.deepEqual(parseNamespace(undefined), []);
  assert.deepEqual(parseNamespace('a/b'), ['a', 'b']);
  assert.throws(() => parseNamespace('a/b/c/d/e/f/g/h'), /deeper than 7/);
  for (const bad of ['a//b', '/a', 'a/', '..', 'x'.repeat(33)]) assert.throws(() => parseNamespace(bad), /ns/, bad);
});
