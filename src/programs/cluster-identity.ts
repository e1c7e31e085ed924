import { AppError } from '#base/error.ts';
import { hasShape, numberShape, objectShape, textShape } from '#core/text/shape.ts';
import { keys } from '#core/ha/keys.ts';
import type { ClusterRecord } from '#core/ha/records.ts';
import type { Store } from '#ports/store.ts';

const clusterShape = objectShape({ id: textShape({ minLength: 1 }), name: textShape(), createdAtMs: numberShape() });

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

/** `/holdfast/nodes/NAME/machine`: the machine that bears the name. Another one may be let in under it when this one is dead. */
export type MachineRecord = { id: string; atMs: number };

/**
 * Holds the record of who bears a node's name (null: there is none) against this machine. Raises AppError conflict when it is another one: a
 * node that was replaced and comes back must not take the permit of the machine in its place.
 */
export function checkMachine(record: string | null, expected: { node: string; machine: string | null }): void {
  const found = record === null ? null : ((JSON.parse(record) as MachineRecord).id ?? '');
  if (found === expected.machine) return;
  const why =
    found === null ? `the cluster has forgotten ${expected.node}` : `another machine has taken the name ${expected.node}`;
  throw new AppError(
    'conflict',
    `${why}; this one is no node of the cluster any more. Install it anew and join it under another name`,
  );
}

/** Writes down which machine bears the name; again with the same one it changes nothing. Raises AppError conflict, unavailable. */
export async function recordMachine(store: Pick<Store, 'read' | 'commit'>, node: string, machine: MachineRecord): Promise<void> {
  const key = keys.nodeMachine(node);
  const outcome = await store.commit([{ key, modRevision: 0n }], [{ key, value: JSON.stringify(machine) }]);
  if (outcome.kind === 'committed') return;
  const entry = await store.read(key);
  if (entry === null) throw new AppError('unavailable', `recording the machine of ${node}: the store took nothing; try again`);
  checkMachine(entry.value, { node, machine: machine.id });
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
  const no = `${keys.cluster} in the store is not a cluster's record; was it written by something else?`;
  let record: unknown;
  try {
    record = JSON.parse(text);
  } catch (cause) {
    throw new AppError('invalid', no, { cause });
  }
  if (hasShape(clusterShape, record)) return record;
  throw new AppError('invalid', no);
}
