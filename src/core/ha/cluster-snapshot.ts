import { AppError } from '#base/error.ts';
import type { GuestRecord } from '#core/guest/guest-record.ts';
import { keys, prefixes } from '#core/ha/keys.ts';
import type {
  AgentRecord,
  BmcRecord,
  ClusterRecord,
  DisarmOrder,
  HaMemory,
  HaResource,
  HaRule,
  HaSettings,
  HaStatus,
  Heartbeat,
  ManagerRecord,
  NodeInfo,
  Permit,
} from '#core/ha/records.ts';
import type { ReplicaRecord, ReplicationJob } from '#core/replica/records.ts';

/** Everything the cluster's record says of nodes, guests and copies, sorted by what it is about. */
export type ClusterSnapshot = {
  cluster: ClusterRecord | null;
  manager: ManagerRecord | null;
  /** null: no manager has written it yet. */
  memory: HaMemory | null;
  settings: HaSettings | null;
  rules: HaRule[];
  nodes: NodeRecords[];
  guests: GuestRecord[];
  resources: HaResource[];
  statuses: HaStatus[];
  jobs: ReplicationJob[];
  replicas: ReplicaRecord[];
};

export type NodeRecords = {
  name: string;
  info: NodeInfo | null;
  permit: Permit | null;
  heartbeat: Heartbeat | null;
  /** Revision of the heartbeat's last write: two reads with different ones prove that the guard is alive. */
  heartbeatRevision: bigint;
  bmc: BmcRecord | null;
  agent: AgentRecord | null;
  disarm: DisarmOrder | null;
};

export type RecordEntry = { key: string; value: string; modRevision: bigint };

/** The value of an entry as the record that its key promises. Raises AppError invalid, naming the key, when it is not JSON. */
export function parseRecord<T>(entry: { key: string; value: string }): T {
  try {
    return JSON.parse(entry.value) as T;
  } catch (cause) {
    throw new AppError('invalid', `the record ${entry.key} is not readable; nothing was changed`, { cause });
  }
}

/** Sorts entries read from the store; keys of other rooms are passed over. Nodes by name, guests by number. */
export function sortSnapshot(entries: readonly RecordEntry[]): ClusterSnapshot {
  const under = <T>(prefix: string) =>
    entries.filter((entry) => entry.key.startsWith(prefix)).map((entry) => parseRecord<T>(entry));
  const single = <T>(key: string) => {
    const entry = entries.find((candidate) => candidate.key === key);
    return entry === undefined ? null : parseRecord<T>(entry);
  };
  return {
    cluster: single<ClusterRecord>(keys.cluster),
    manager: single<ManagerRecord>(keys.manager),
    memory: single<HaMemory>(keys.haMemory),
    settings: single<HaSettings>(keys.haSettings),
    rules: under<HaRule>(prefixes.haRules),
    nodes: sortNodes(entries.filter((entry) => entry.key.startsWith(prefixes.nodes))),
    guests: under<GuestRecord>(prefixes.guests).sort(byVmid),
    resources: under<HaResource>(prefixes.haResources).sort(byVmid),
    statuses: under<HaStatus>(prefixes.haStatus).sort(byVmid),
    jobs: under<ReplicationJob>(prefixes.replication).sort(byVmid),
    replicas: under<ReplicaRecord>(prefixes.replicas).sort((a, b) => byVmid(a, b) || a.node.localeCompare(b.node)),
  };
}

function sortNodes(entries: readonly RecordEntry[]): NodeRecords[] {
  const nodes = new Map<string, NodeRecords>();
  for (const entry of entries) {
    const [name, part] = entry.key.slice(prefixes.nodes.length).split('/');
    if (name === undefined || part === undefined) continue;
    nodes.set(name, { ...(nodes.get(name) ?? unknownNode(name)), ...parseNodePart(entry, part) });
  }
  return [...nodes.values()].sort((a, b) => a.name.localeCompare(b.name));
}

function unknownNode(name: string): NodeRecords {
  return { name, info: null, permit: null, heartbeat: null, heartbeatRevision: 0n, bmc: null, agent: null, disarm: null };
}

function parseNodePart(entry: RecordEntry, part: string): Partial<NodeRecords> {
  switch (part) {
    case 'info':
      return { info: parseRecord<NodeInfo>(entry) };
    case 'permit':
      return { permit: parseRecord<Permit>(entry) };
    case 'heartbeat':
      return { heartbeat: parseRecord<Heartbeat>(entry), heartbeatRevision: entry.modRevision };
    case 'bmc':
      return { bmc: parseRecord<BmcRecord>(entry) };
    case 'agent':
      return { agent: parseRecord<AgentRecord>(entry) };
    case 'disarm':
      return { disarm: parseRecord<DisarmOrder>(entry) };
    default:
      return {};
  }
}

function byVmid(a: { vmid: number }, b: { vmid: number }): number {
  return a.vmid - b.vmid;
}
