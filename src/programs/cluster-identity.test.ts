import assert from 'node:assert/strict';
import { test } from 'node:test';
import { isAppError } from '#base/error.ts';
import { keys } from '#core/ha/keys.ts';
import { createMemoryStore } from '../../test/fakes/memory-store.ts';
import { checkClusterIdentity, foundCluster } from './cluster-identity.ts';

const clinic = { id: '11111111-1111-4111-8111-111111111111', name: 'clinic', createdAtMs: 1_700_000_000_000 };
const other = { id: '22222222-2222-4222-8222-222222222222', name: 'other', createdAtMs: 1_700_000_000_001 };

test('a founded cluster is recognised by its nodes', async () => {
  const store = createMemoryStore();
  assert.deepEqual(await foundCluster(store, clinic), clinic);
  assert.deepEqual(await checkClusterIdentity(store, { clusterId: clinic.id, node: 'north' }), clinic);
});

test('a store of another cluster is refused, naming both and changing nothing', async () => {
  const store = createMemoryStore();
  await foundCluster(store, clinic);
  const before = store.revision;
  await assert.rejects(
    checkClusterIdentity(store, { clusterId: other.id, node: 'north' }),
    (error) => isAppError(error, 'conflict') && error.message.includes(clinic.id) && error.message.includes(other.id),
  );
  await assert.rejects(
    foundCluster(store, other),
    (error) => isAppError(error, 'conflict') && error.message.includes(clinic.id) && error.message.includes(other.id),
  );
  assert.equal(store.revision, before);
});

test('an empty store is missing a cluster, not a reason to make one', async () => {
  const store = createMemoryStore();
  await assert.rejects(checkClusterIdentity(store, { clusterId: clinic.id, node: 'north' }), (error) =>
    isAppError(error, 'missing'),
  );
  assert.equal(await store.read(keys.cluster), null);
});

test('founding again changes nothing and returns what stands', async () => {
  const store = createMemoryStore();
  await foundCluster(store, clinic);
  assert.deepEqual(await foundCluster(store, { ...clinic, createdAtMs: 5 }), clinic);
});

test('founding learns by reading what became of a lost answer', async () => {
  const store = createMemoryStore();
  store.failCommits('maybe-lost', 'maybe-applied');
  await assert.rejects(foundCluster(store, clinic), (error) => isAppError(error, 'unavailable'));
  assert.deepEqual(await foundCluster(store, clinic), clinic);
});

test('a record that is none is invalid', async () => {
  const store = createMemoryStore();
  await store.commit([], [{ key: keys.cluster, value: '{"id":7}' }]);
  await assert.rejects(checkClusterIdentity(store, { clusterId: clinic.id, node: 'north' }), (error) =>
    isAppError(error, 'invalid'),
  );
});
