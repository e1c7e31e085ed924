import assert from 'node:assert/strict';
import { test } from 'node:test';
import { isAllowed, type AclEntry } from './acl.ts';

const entry = (path: string, who: string, role: string, propagate = true): AclEntry => ({ path, who, role, propagate });
const entries = [
  entry('/datastore/a', 'u@pbs', 'DatastoreAdmin'),
  entry('/datastore/a/secret', 'u@pbs', 'NoAccess'),
  entry('/datastore/a', 'u@pbs!t', 'DatastoreBackup'),
  entry('/datastore/a/secret', 'u@pbs!t', 'DatastoreBackup'),
  entry('/datastore/b', 'v@pbs', 'DatastoreReader', false),
];

test('rights hold below a path unless a deeper one says otherwise', () => {
  assert.ok(isAllowed(entries, 'u@pbs', '/datastore/a/ns', 'Datastore.Prune'));
  assert.ok(!isAllowed(entries, 'u@pbs', '/datastore/a/secret/x', 'Datastore.Prune'));
  assert.ok(!isAllowed(entries, 'u@pbs', '/datastore/ab', 'Datastore.Prune'));
  assert.ok(isAllowed(entries, 'v@pbs', '/datastore/b', 'Datastore.Read'));
  assert.ok(!isAllowed(entries, 'v@pbs', '/datastore/b/ns', 'Datastore.Read'));
});

test('a token has its own rights, and never more than its user', () => {
  assert.ok(isAllowed(entries, 'u@pbs!t', '/datastore/a', 'Datastore.Backup'));
  assert.ok(!isAllowed(entries, 'u@pbs!t', '/datastore/a', 'Datastore.Prune'));
  assert.ok(!isAllowed(entries, 'u@pbs!t', '/datastore/a/secret', 'Datastore.Backup'));
  assert.ok(!isAllowed(entries, 'u@pbs!other', '/datastore/a', 'Datastore.Backup'));
  assert.ok(isAllowed([], 'root@pam', '/datastore/a', 'Datastore.Prune'));
  assert.ok(!isAllowed([], 'root@pam!t', '/datastore/a', 'Datastore.Prune'));
});
