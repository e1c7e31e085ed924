import { Type } from 'typebox';
import { Value } from 'typebox/value';
import { AppError } from '#base/error.ts';
import { keys } from '#core/ha/keys.ts';
import type { ClusterRecord } from '#core/ha/records.ts';
import type { Store } from '#ports/store.ts';

const clusterSchema = Type.Object({ id: Type.String({ minLength: 1 }), name: Type.String(), createdAtMs: Type.Number() });

/**
 * Reads which cluster the store belongs to and returns its record. Raises AppError conflict when it is another one than
 * `node` was set up for, missing when the store holds no cluster yet; and whatever the store raises.
 */
export async function checkClusterIdentity(
  store: Pick<Store, 'read'>,
  expected: { clusterId: string; node: string },
): Promise<ClusterRecord> {
  const entry = await store.read(keys.cluster);
  if (entry === null) {
    throw new AppError(
      'missing',
      `node ${expected.node}: the store holds no cluster (${keys.cluster} is absent); found cluster ${expected.clusterId} first, or check that the etcd endpoints lead to the right store`,
    );
  }
  const found = parseClusterRecord(entry.value);
  if (found.id !== expected.clusterId) {
    throw new AppError(
      'conflict',
      `node ${expected.node} was set up for cluster ${expected.clusterId}, but its store belongs to cluster ${found.id} (${found.name}); nothing was changed. Correct the etcd endpoints in this node's configuration, or join this node to ${found.name} anew`,
    );
  }
  return found;
}

/**
 * Writes the cluster's record into an empty store. Again with the same id it changes nothing. Returns the record that stands.
 * Raises AppError conflict when the store belongs to another cluster, unavailable when the outcome could not be learned.
 */
export async function foundCluster(store: Pick<Store, 'read' | 'commit'>, record: ClusterRecord): Promise<ClusterRecord> {
  const outcome = await store.commit(
    [{ key: keys.cluster, modRevision: 0n }],
    [{ key: keys.cluster, value: JSON.stringify(record) }],
  );
  if (outcome.kind === 'committed') return record;
  const entry = await store.read(keys.cluster);
  if (entry === null) {
    const cause = outcome.kind === 'maybe' ? outcome.cause : undefined;
    throw new AppError('unavailable', `found cluster ${record.id}: the store took nothing; try again`, { cause });
  }
  const found = parseClusterRecord(entry.value);
  if (found.id !== record.id) {
    throw new AppError(
      'conflict',
      `found cluster ${record.id}: this store belongs to cluster ${found.id} (${found.name}) already; nothing was changed. Use a store of its own, or join that cluster`,
    );
  }
  return found;
}

function parseClusterRecord(text: string): ClusterRecord {
  try {
    return Value.Parse(clusterSchema, JSON.parse(text));
  } catch (cause) {
    throw new AppError('invalid', `${keys.cluster} in the store is not a cluster's record; was it written by something else?`, {
      cause,
    });
  }
}
