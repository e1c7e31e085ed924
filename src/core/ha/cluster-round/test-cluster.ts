import type { GuestRecord } from '#core/guest/guest-record.ts';
import { noEvidence } from '#core/ha/claim.ts';
import { type ClusterFacts, type Kept, readClusterFacts } from '#core/ha/cluster-round/facts.ts';
import { planClusterRound } from '#core/ha/cluster-round/round.ts';
import type { ClusterStep } from '#core/ha/cluster-round/steps.ts';
import { keepClaims } from '#core/ha/guard-store.ts';
import { keys } from '#core/ha/keys.ts';
import type { Command, OrderResult } from '#core/ha/manager/facts.ts';
import type { HaCommand, HaResource, HaStatus, Heartbeat, NodeInfo, Permit } from '#core/ha/records.ts';
import type { ReplicaRecord } from '#core/replica/records.ts';
import type { Silence } from '#core/ha/observer.ts';

/** A cluster's record in memory, for tests of the manager's rounds: nodes that serve, guests with copies, and rounds that take effect. */
export class TestCluster {
  readonly entries = new Map<string, Kept<unknown>>();
  readonly silentMs = new Map<string, number>();
  revision = 1n;
  nowMs = 100_000;
  balances = false;

  private readonly lists = new Map<string, { key: string; value: unknown; modRevision: bigint }[]>();
  private readonly self: string;

  /** `self` leads. */
  constructor(nodes: readonly string[], self = 'n2') {
    this.self = self;
    for (const name of nodes) this.addNode(name);
  }

  put(key: string, value: unknown): void {
    this.revision += 1n;
    for (const prefix of this.lists.keys()) if (key.startsWith(prefix)) this.lists.delete(prefix);
    if (value === null) this.entries.delete(key);
    else this.entries.set(key, { value, modRevision: this.revision });
  }

  read<T>(key: string): Kept<T> | null {
    return (this.entries.get(key) as Kept<T> | undefined) ?? null;
  }

  list<T>(prefix: string): { key: string; value: T; modRevision: bigint }[] {
    let found = this.lists.get(prefix);
    if (found === undefined) {
      const entries = [...this.entries].filter(([key]) => key.startsWith(prefix)).sort(([a], [b]) => (a < b ? -1 : 1));
      found = entries.map(([key, { value, modRevision }]) => ({ key, value, modRevision }));
      this.lists.set(prefix, found);
    }
    return found as { key: string; value: T; modRevision: bigint }[];
  }

  addNode(name: string, epoch = 1): void {
    this.grant(name, epoch);
    const info: NodeInfo = {
      name,
      address: name,
      relayPort: 1,
      bootId: `boot ${epoch}`,
      accelerator: 'tcg',
      qemuVersion: '7.2',
      cores: 4,
      memoryMb: 4096,
      watchdog: null,
      primaryCopies: [],
      problems: [],
    };
    this.put(keys.nodeInfo(name), info);
  }

  /** The node serves under the epoch, since a boot of its own. */
  grant(name: string, epoch: number): void {
    const bootId = `boot ${epoch}`;
    const before = this.read<Permit>(keys.nodePermit(name))?.value;
    const claims = before === undefined ? {} : keepClaims(before);
    this.put(keys.nodePermit(name), {
      state: 'granted',
      epoch,
      bootId,
      claimMs: 15_000,
      grantedAtMs: 0,
      ...claims,
    } satisfies Permit);
    this.beat(name, { epoch, bootId });
    this.silentMs.delete(name);
    const info = this.read<NodeInfo>(keys.nodeInfo(name));
    if (info !== null) this.put(keys.nodeInfo(name), { ...info.value, bootId });
  }

  beat(name: string, change: Partial<Heartbeat> = {}): void {
    const before = this.read<Heartbeat>(keys.nodeHeartbeat(name))?.value;
    const fresh: Heartbeat = {
      seq: 1,
      epoch: 1,
      bootId: 'boot 1',
      phase: 'serving',
      agentSilentMs: 0,
      load: null,
      sentAtMs: this.nowMs,
    };
    this.put(keys.nodeHeartbeat(name), { ...(before ?? fresh), ...change });
  }

  addGuest(vmid: number, home: string, resource: Partial<HaResource> = {}, memoryMb = 512): void {
    const record: GuestRecord = {
      vmid,
      name: `guest ${vmid}`,
      config: { cores: 1, memoryMb, disks: [], nics: [], boot: null },
      home,
      generation: 1,
      order: null,
    };
    this.put(keys.guest(vmid), record);
    this.put(keys.haResource(vmid), { vmid, want: 'started', maxDataAgeMs: null, ...resource } satisfies HaResource);
  }

  addCopy(vmid: number, node: string, seq: number, ageMs = 5_000, generation = 1): void {
    const record: ReplicaRecord = {
      vmid,
      node,
      source: this.guest(vmid).home,
      point: { generation, seq },
      pointAtMs: this.nowMs - ageMs,
      appliedAtMs: this.nowMs,
      lastCycle: { kind: 'delta', bytes: 1, tookMs: 1, pausedMs: 1 },
      leftBehind: [],
    };
    this.put(keys.replica(vmid, node), record);
  }

  guest(vmid: number): GuestRecord {
    const record = this.read<GuestRecord>(keys.guest(vmid));
    if (record === null) throw new RangeError(`no guest ${vmid}`);
    return record.value;
  }

  /** The home's agent tells how the guest's order ended. */
  tell(vmid: number, result: OrderResult): void {
    const { order, home, generation } = this.guest(vmid);
    if (order === null) throw new RangeError(`guest ${vmid} has no order`);
    const status: HaStatus = {
      vmid,
      node: home,
      generation,
      nodeEpoch: order.nodeEpoch,
      state: result === 'ok' && order.kind === 'run' ? 'running' : 'stopped',
      because: '',
      atMs: this.nowMs,
      qemuStartedAtMs: null,
      promoted: null,
      end: { orderId: order.id, result },
    };
    this.put(keys.haStatus(vmid), status);
  }

  command(command: Command): string {
    const id = `c${this.revision}`;
    const record: HaCommand = { id, command, createdAtMs: this.nowMs, state: 'waiting', because: '' };
    this.put(keys.haCommand(id), record);
    return id;
  }

  facts(): ClusterFacts {
    const sightOf = (node: string): { silence: Silence; lastSightBootMs: number } => {
      const silentMs = this.silentMs.get(node) ?? 100;
      return { silence: { kind: 'counted', silentMs }, lastSightBootMs: this.nowMs - silentMs };
    };
    return readClusterFacts(this, {
      self: this.self,
      managerEpoch: 1,
      timing: { renewMs: 1000, softMs: 6000, claimMs: 15_000 },
      readsApartMs: 500,
      agentSilentMs: 60_000,
      balances: this.balances,
      sightOf,
      evidenceOf: () => noEvidence,
    });
  }

  /** One round; its commits take effect as the store would have it. Returns its steps. */
  round(): ClusterStep[] {
    this.nowMs += 100;
    const { steps } = planClusterRound(this.facts(), this.nowMs, this.nowMs);
    for (const step of steps) {
      if (step.kind !== 'commit') continue;
      const holds = step.compares.every(({ key, modRevision }) => (this.entries.get(key)?.modRevision ?? 0n) === modRevision);
      if (!holds) throw new Error(`a commit of the round met a conflict: ${step.because}`);
      for (const { key, value } of step.writes) this.put(key, value === null ? null : JSON.parse(value));
    }
    return steps;
  }

  /** Rounds until one writes nothing; returns all their steps. Raises RangeError when that never comes. */
  settle(): ClusterStep[] {
    const all: ClusterStep[] = [];
    for (let rounds = 0; rounds < 20; rounds += 1) {
      const steps = this.round();
      all.push(...steps);
      if (steps.every((step) => step.kind !== 'commit')) return all;
    }
    throw new RangeError('the manager does not come to rest');
  }
}
