import { createEtcdMembership } from '#adapters/etcd/etcd-membership.ts';
import { createEtcdStore } from '#adapters/etcd/etcd-store.ts';
import type { EtcdTls } from '#adapters/etcd/etcd-connection.ts';
import { AppError } from '#base/error.ts';
import type { Member, NodeUse } from '#core/cluster/membership.ts';
import type { GuestRecord } from '#core/guest/guest-record.ts';
import { keys, prefixes } from '#core/ha/keys.ts';
import type { HaMemory, Permit } from '#core/ha/records.ts';
import type { ReplicationJob } from '#core/replica/records.ts';
import type { Store, StoreHealth } from '#ports/store.ts';

/** Deletes of one commit: etcd takes 128 writes in a transaction. */
const deletesAtOnce = 100;

/** The members of the store with their health: who answers as itself. */
export async function readMembers(endpoints: string[], tls: EtcdTls | null): Promise<Member[]> {
  await using membership = createEtcdMembership({ endpoints, tls });
  const listed = await membership.list();
  const clients = listed.flatMap(({ clientUrls }) => clientUrls.slice(0, 1));
  await using store: StoreHealth & AsyncDisposable = createEtcdStore({ endpoints: clients, tls });
  const health = await store.listMembers();
  return listed.map((member) => ({
    ...member,
    healthy: health.some((entry) => entry.name === member.name && member.name !== '' && entry.healthy),
  }));
}

/** What the cluster's record says of a node's part in it. */
export async function readNodeUse(store: Pick<Store, 'read' | 'list'>, name: string): Promise<NodeUse> {
  const [guests, jobs, permit, memory, replicas] = await Promise.all([
    store.list(prefixes.guests),
    store.list(prefixes.replication),
    store.read(keys.nodePermit(name)),
    store.read(keys.haMemory),
    store.list(prefixes.replicas),
  ]);
  const holders = (vmid: number) =>
    replicas.entries
      .filter((entry) => entry.key.startsWith(`${prefixes.replicas}${vmid}/`))
      .map((entry) => entry.key.slice(entry.key.lastIndexOf('/') + 1));
  const parse = <T>(value: string) => JSON.parse(value) as T;
  return {
    homes: guests.entries
      .map((entry) => parse<GuestRecord>(entry.value))
      .filter((guest) => guest.home === name)
      .map((guest) => guest.vmid),
    onlyCopyOf: jobs.entries
      .map((entry) => parse<ReplicationJob>(entry.value))
      .filter((job) => job.enabled && holders(job.vmid).includes(name) && holders(job.vmid).length === 1)
      .map((job) => job.vmid),
    isDrained: memory !== null && parse<HaMemory>(memory.value).drains.includes(name),
    permit: permit === null ? 'none' : parse<Permit>(permit.value).state,
  };
}

/** Deletes everything that a node has written or is written about it. Again it finds nothing and is content. */
export async function deleteNodeRecords(store: Pick<Store, 'list' | 'commit'>, name: string): Promise<void> {
  const [nodes, replicas] = await Promise.all([store.list(`${prefixes.nodes}${name}/`), store.list(prefixes.replicas)]);
  const doomed = [
    ...nodes.entries.map((entry) => entry.key),
    ...replicas.entries.map((entry) => entry.key).filter((key) => key.endsWith(`/${name}`)),
  ];
  for (let from = 0; from < doomed.length; from += deletesAtOnce) {
    const writes = doomed.slice(from, from + deletesAtOnce).map((key) => ({ key, value: null }));
    const outcome = await store.commit([], writes);
    if (outcome.kind !== 'committed')
      throw new AppError('unavailable', `deleting the records of ${name}: the answer was lost; run the same command again`);
  }
}
