import type { GuestRecord } from '#core/guest/guest-record.ts';
import type { ClaimTiming, PowerEvidence } from '#core/ha/claim.ts';
import { keys, prefixes } from '#core/ha/keys.ts';
import type { Silence } from '#core/ha/observer.ts';
import type {
  AgentRecord,
  BmcRecord,
  DisarmOrder,
  HaCommand,
  HaMemory,
  HaResource,
  HaRule,
  HaSettings,
  HaStatus,
  Heartbeat,
  NodeInfo,
  NodeLoad,
  Permit,
  ReleaseOrder,
} from '#core/ha/records.ts';
import type { ReplicaRecord } from '#core/replica/records.ts';

/** A record as it was read: what is written because of it compares the revision. */
export type Kept<T> = { value: T; modRevision: bigint };

/** Any consistent reading of the cluster's record: the agent's followed view, or entries read once. */
export type RecordView = {
  read<T>(key: string): Kept<T> | null;
  list<T>(prefix: string): readonly { key: string; value: T; modRevision: bigint }[];
};

export type NodeRecordFacts = {
  name: string;
  info: NodeInfo | null;
  permit: Kept<Permit> | null;
  heartbeat: Kept<Heartbeat> | null;
  agent: AgentRecord | null;
  release: Kept<ReleaseOrder> | null;
  disarm: Kept<DisarmOrder> | null;
  /** What its guests use; null: nobody has said. */
  load: NodeLoad | null;
  silence: Silence;
  /** Boot-time clock of who leads at the last sight of a heartbeat. */
  lastSightBootMs: number;
  controller: { name: string; evidence: PowerEvidence } | null;
};

export type GuestRecordFacts = {
  record: GuestRecord;
  modRevision: bigint;
  resource: HaResource | null;
  /** 0n: there is no such record. */
  resourceRevision: bigint;
  status: HaStatus | null;
  /** Verified copies on other nodes. */
  replicas: ReplicaRecord[];
};

/** Everything that one round of the manager is told. */
export type ClusterFacts = {
  self: string;
  managerEpoch: number;
  nodes: NodeRecordFacts[];
  guests: GuestRecordFacts[];
  rules: HaRule[];
  commands: Kept<HaCommand>[];
  memory: Kept<HaMemory> | null;
  settings: HaSettings;
  timing: ClaimTiming;
  readsApartMs: number;
  agentSilentMs: number;
  /** A round that counts for the balance of loads; the others leave it alone, so that its rounds have a length. */
  balances: boolean;
  /** The record was read as it is after all that this manager and those before it wrote; left out: it was. */
  isCurrent?: boolean;
};

/** What the reader knows that is not in the record. */
export type RoundContext = Pick<
  ClusterFacts,
  'self' | 'managerEpoch' | 'timing' | 'readsApartMs' | 'agentSilentMs' | 'balances' | 'isCurrent'
> & {
  sightOf: (node: string) => { silence: Silence; lastSightBootMs: number };
  evidenceOf: (node: string) => PowerEvidence;
};

/** Gathers the facts of a round from one reading of the record. Pure. */
export function readClusterFacts(view: RecordView, context: RoundContext): ClusterFacts {
  const { sightOf, evidenceOf, ...rest } = context;
  const replicas = Map.groupBy(view.list<ReplicaRecord>(prefixes.replicas), (entry) => entry.value.vmid);
  return {
    ...rest,
    nodes: listNodeNames(view).map((name) => readNode(view, name, sightOf(name), evidenceOf)),
    guests: view.list<GuestRecord>(prefixes.guests).map((entry) => {
      const { vmid } = entry.value;
      const resource = view.read<HaResource>(keys.haResource(vmid));
      return {
        record: entry.value,
        modRevision: entry.modRevision,
        resource: resource?.value ?? null,
        resourceRevision: resource?.modRevision ?? 0n,
        status: view.read<HaStatus>(keys.haStatus(vmid))?.value ?? null,
        replicas: (replicas.get(vmid) ?? []).map((replica) => replica.value),
      };
    }),
    rules: view.list<HaRule>(prefixes.haRules).map((entry) => entry.value),
    commands: view.list<HaCommand>(prefixes.haCommands).map(({ value, modRevision }) => ({ value, modRevision })),
    memory: view.read<HaMemory>(keys.haMemory),
    settings: view.read<HaSettings>(keys.haSettings)?.value ?? {},
  };
}

function readNode(
  view: RecordView,
  name: string,
  sight: { silence: Silence; lastSightBootMs: number },
  evidenceOf: (node: string) => PowerEvidence,
): NodeRecordFacts {
  const bmc = view.read<BmcRecord>(keys.nodeBmc(name))?.value ?? null;
  return {
    name,
    info: view.read<NodeInfo>(keys.nodeInfo(name))?.value ?? null,
    permit: view.read<Permit>(keys.nodePermit(name)),
    heartbeat: view.read<Heartbeat>(keys.nodeHeartbeat(name)),
    agent: view.read<AgentRecord>(keys.nodeAgent(name))?.value ?? null,
    release: view.read<ReleaseOrder>(keys.nodeRelease(name)),
    disarm: view.read<DisarmOrder>(keys.nodeDisarm(name)),
    load: view.read<NodeLoad>(keys.nodeLoad(name))?.value ?? null,
    ...sight,
    controller: bmc === null ? null : { name: `${bmc.kind}:${bmc.address}`, evidence: evidenceOf(name) },
  };
}

/** Every node that has written anything. */
function listNodeNames(view: RecordView): string[] {
  const names = view.list(prefixes.nodes).map((entry) => entry.key.slice(prefixes.nodes.length).split('/')[0] ?? '');
  return [...new Set(names)].sort();
}
