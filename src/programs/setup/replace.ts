import { createEtcdMembership } from '#adapters/etcd/etcd-membership.ts';
import { createEtcdStore } from '#adapters/etcd/etcd-store.ts';
import { AppError } from '#base/error.ts';
import { planReplace } from '#core/cluster/membership.ts';
import { keys } from '#core/ha/keys.ts';
import type { NodeInfo } from '#core/ha/records.ts';
import { readNodeConfig, type NodeConfig } from '#programs/node-config.ts';
import { readStoreEndpoints } from '#programs/store-endpoints.ts';
import { lookUntilSettled, refuse } from './leave.ts';
import { deleteNodeRecords, readMembers, readNodeUse } from './node-records.ts';
import { setupFiles } from './setup-file.ts';

/** `/holdfast/replaced/NAME`: a node that was declared dead; `info`: what it last said it had, its own copies of guests' disks among it. */
export type ReplacedRecord = { name: string; info: NodeInfo | null; atMs: number };

type Options = { config?: string; name: string };

/**
 * Declares a node dead, from another one: its member leaves the store and its name is free for a new machine. Its records stay until
 * somebody accounts for its disks (`forgetNode`). Safe to run again. Raises AppError missing, conflict with every reason against it.
 */
export async function replaceNode({ config, name }: Options): Promise<{ notes: string[]; disksOf: number[] }> {
  const self = readNodeConfig(config ?? setupFiles.nodeToml);
  await using store = openStore(self);
  const members = await readMembers(readStoreEndpoints(self), self.etcd.tls);
  const permit = await store.read(keys.nodePermit(name));
  const info = await store.read(keys.nodeInfo(name));
  if (permit === null && info === null && !members.some((member) => member.name === name)) {
    throw new AppError('missing', `node: there is no node or witness ${name}`);
  }
  const { removal } = await lookUntilSettled(async () => {
    const now = await readMembers(readStoreEndpoints(self), self.etcd.tls);
    return { removal: planReplace(name, self.node.name, now, await readNodeUse(store, name)) };
  });
  refuse(`${name} cannot be replaced`, removal);
  const known = info === null ? null : (JSON.parse(info.value) as NodeInfo);
  if (permit !== null) await markReplaced(store, { name, info: known, atMs: Date.now() }, permit.modRevision);
  if (removal.member !== null) {
    await using membership = createEtcdMembership({ endpoints: readStoreEndpoints(self), tls: self.etcd.tls });
    await membership.remove(removal.member.id);
  }
  return { notes: removal.notes, disksOf: known?.primaryCopies.map((copy) => copy.vmid) ?? [] };
}

type NodeStore = ReturnType<typeof createEtcdStore>;

function openStore(self: NodeConfig): NodeStore {
  return createEtcdStore({ endpoints: readStoreEndpoints(self), tls: self.etcd.tls });
}

/** Only while its permit is as it was judged: a node that comes back this moment is not dead. */
async function markReplaced(store: NodeStore, record: ReplacedRecord, permitRevision: bigint): Promise<void> {
  const key = keys.replacedNode(record.name);
  const there = await store.read(key);
  const compares = [
    { key, modRevision: there?.modRevision ?? 0n },
    { key: keys.nodePermit(record.name), modRevision: permitRevision },
  ];
  const outcome = await store.commit(compares, [{ key, value: JSON.stringify(record) }]);
  if (outcome.kind === 'committed') return;
  throw new AppError('conflict', `replacing ${record.name}: it changed meanwhile; look at holdfast status and try again`);
}

/**
 * The disks of a replaced node are accounted for. Deletes its records, or only the mark where a new machine has taken the name. Raises
 * AppError missing, conflict.
 */
export async function forgetNode({ config, name }: Options): Promise<void> {
  const self = readNodeConfig(config ?? setupFiles.nodeToml);
  await using store = openStore(self);
  const mark = await store.read(keys.replacedNode(name));
  if (mark === null) throw new AppError('missing', `node: ${name} was not replaced; see holdfast node list`);
  const use = await readNodeUse(store, name);
  if (use.permit !== 'granted') {
    if (use.homes.length > 0) {
      throw new AppError(
        'conflict',
        `forgetting ${name}: guests are at home there (${use.homes.join(', ')}); nothing was changed`,
      );
    }
    await deleteNodeRecords(store, name);
  }
  await store.commit([], [{ key: keys.replacedNode(name), value: null }]);
}
