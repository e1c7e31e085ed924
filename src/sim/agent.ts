import { limits } from '#base/limits.ts';
import { suspectAfterMs } from '#core/ha/claim.ts';
import type { GuardReport } from '#core/ha/guard-report.ts';
import { createObserver, observeHeartbeat, type Observer } from '#core/ha/observer.ts';
import type { Heartbeat, NodeInfo } from '#core/ha/records.ts';
import type { Cluster } from '#sim/cluster.ts';
import { SimControllers } from '#sim/controllers.ts';
import { GuestLoop } from '#sim/guest-loop.ts';
import type { Host } from '#sim/host.ts';
import { keys, nodeOfHeartbeat, wakesLoops } from '#sim/known-keys.ts';
import { runManagerLoop } from '#sim/manager-loop.ts';
import { tryOnce, writeOwned } from '#sim/owned-record.ts';
import { NodeEnd } from '#sim/node-end.ts';
import { Process, SimBell, type Task } from '#sim/process.ts';
import { Replication } from '#sim/replication.ts';
import { dropDeletedCopies, runRequests } from '#sim/requests.ts';
import type { SimChange, SimCommit, SimEntry, SimWrite, SimCompare, WriteTag } from '#sim/store.ts';

/** The agent program of a node: its view of the record, its warm timers, and its loops as in programs/agent. */
export class AgentProcess extends Process {
  readonly cluster: Cluster;
  readonly host: Host;
  readonly bells = { guests: new SimBell(), manager: new SimBell(), info: new SimBell(), requests: new SimBell() };
  readonly guests: GuestLoop;
  readonly replication: Replication;
  readonly controllers: SimControllers;
  readonly nodeEnd: NodeEnd;
  readonly peers: string[];
  observer: Observer;
  ready = false;
  viewRevision = 0n;
  private readonly view = new Map<string, SimEntry>();
  private readonly lists = new Map<string, SimEntry[]>();
  private ownInfo: { text: string; bootId: string; file: GuardReport | null; roles: number } | null = null;
  private readonly feed: { close: () => void; stall: (untilMs: number) => void };
  private epoch: number | null = null;
  private looking = false;

  constructor(cluster: Cluster, host: Host) {
    super(
      cluster.processWorld(
        host,
        () => this.crashChance(),
        () => this.crash('between two steps'),
      ),
    );
    this.cluster = cluster;
    this.host = host;
    this.peers = cluster.hosts.map((other) => other.name).filter((name) => name !== host.name);
    this.observer = createObserver(host.name, cluster.timing.softMs);
    this.controllers = new SimControllers(cluster, this);
    this.replication = new Replication(this);
    this.guests = new GuestLoop(this);
    this.nodeEnd = new NodeEnd(this);
    this.feed = cluster.store.watch({
      node: host.name,
      take: (changes, snapshot, revision) => this.deliver(() => this.take(changes, snapshot, revision)),
    });
  }

  /** Starts its loops; the host knows the process by then. */
  begin(): void {
    this.lookAtGuard();
    this.run(this.sayAlive());
    this.run(this.publishInfo());
    this.run(this.replication.announceOften());
    this.run(this.nodeEnd.load());
    this.run(this.guests.run());
    this.run(runManagerLoop(this));
    this.run(runRequests(this));
  }

  /** A task that has to go on for the life of the process. */
  run(task: Task<void>): void {
    this.start(task, (error) => {
      if (error !== null) throw error;
    });
  }

  read<T>(key: string): SimEntry<T> | null {
    return (this.view.get(key) as SimEntry<T> | undefined) ?? null;
  }

  /** In the order of the keys, and good until the next yield: the list is kept, and a record in it gives way to its successor. */
  list<T>(prefix: string): readonly SimEntry<T>[] {
    let found = this.lists.get(prefix);
    if (found === undefined) {
      found = [...this.view.values()].filter(({ key }) => key.startsWith(prefix)).sort((a, b) => (a.key < b.key ? -1 : 1));
      this.lists.set(prefix, found);
    }
    return found as SimEntry<T>[];
  }

  /** `manager`: what the checkers are told of a manager's write. */
  *commit(compares: SimCompare[], writes: SimWrite[], manager?: Omit<WriteTag, 'node'>): Task<SimCommit> {
    const tag: WriteTag = { ...manager, node: this.host.name };
    return yield* this.cluster.store.commitTask(this.host.name, compares, writes, limits.etcdCallMs, tag);
  }

  /** A linearizable read. Raises AppError timeout. */
  *readNow<T>(key: string): Task<SimEntry<T> | null> {
    return yield* this.cluster.store.readTask<T>(this.host.name, key, limits.etcdCallMs);
  }

  readEpoch(): number | null {
    return this.nodeEnd.isLoaded() ? this.epoch : null;
  }

  stallView(untilMs: number): void {
    this.feed.stall(untilMs);
  }

  ringAll(): void {
    this.bells.guests.ring();
    this.bells.manager.ring();
    this.bells.info.ring();
    this.bells.requests.ring();
  }

  /** guard.json changed: the agent sees it at its next look. */
  guardChangedSoon(): void {
    if (this.looking) return;
    this.looking = true;
    this.after(this.cluster.dice.between(1, limits.guardLookMs), () => {
      this.looking = false;
      this.lookAtGuard();
      this.ringAll();
    });
  }

  end(): void {
    this.alive = false;
    this.feed.close();
    this.host.disk.forgetSessions();
  }

  crash(why: string): void {
    if (!this.alive) return;
    this.cluster.say(`${this.host.name} agent: dies ${why}`);
    this.end();
    this.host.agent = null;
    this.cluster.startAgentLater(this.host, this.cluster.dice.between(500, 4_000));
  }

  private crashChance(): number {
    const { agentCrashChance, moveCrashChance } = this.cluster.swarm;
    return this.guests.isHandingOver() ? Math.max(moveCrashChance, agentCrashChance) : agentCrashChance;
  }

  private lookAtGuard(): void {
    const file = this.host.guardFile;
    this.epoch = file?.phase === 'serving' ? file.epoch : null;
  }

  private take(changes: SimChange[], snapshot: boolean, revision: bigint): void {
    if (snapshot) {
      this.view.clear();
      this.lists.clear();
    }
    let rings = snapshot;
    for (const { key, entry } of changes) {
      this.changeLists(this.view.get(key) ?? null, key, entry);
      if (entry === null) this.view.delete(key);
      else this.view.set(key, entry);
      const node = nodeOfHeartbeat(key);
      if (node !== null) this.see(node, entry as SimEntry<Heartbeat> | null);
      else if (!rings) rings = wakesLoops(key);
    }
    this.viewRevision = revision;
    this.ready = true;
    if (rings) this.ringAll();
  }

  private changeLists(before: SimEntry | null, key: string, entry: SimEntry | null): void {
    for (const [prefix, list] of this.lists) {
      if (!key.startsWith(prefix)) continue;
      const index = before === null || entry === null ? -1 : list.indexOf(before);
      if (index === -1 || entry === null) this.lists.delete(prefix);
      else list[index] = entry;
    }
  }

  private see(node: string, heartbeat: SimEntry<Heartbeat> | null): void {
    if (heartbeat === null) return;
    const atBootMs = this.host.bootMs();
    const before = this.observer.nodes[node];
    if (before !== undefined && atBootMs - before.lastSightBootMs > suspectAfterMs(this.cluster.timing)) {
      this.replication.notePeerBack(node);
    }
    this.observer = observeHeartbeat(this.observer, node, heartbeat.value, heartbeat.modRevision, atBootMs);
    this.controllers.forget(node);
  }

  private *sayAlive(): Task<void> {
    for (;;) {
      const running = this.guests.running().length;
      this.host.agentAlive = { atBootMs: this.host.bootMs(), load: { guestsRunning: running, memoryUsedMb: 0 } };
      yield* this.sleep(limits.agentAliveMs);
    }
  }

  private *publishInfo(): Task<void> {
    for (;;) {
      const key = keys.nodeInfo(this.host.name);
      // The real one asks the store each time; what its own view shows is as good and cheaper here.
      if (this.read(key)?.text !== this.infoText()) yield* tryOnce(writeOwned(this, key, this.describe()));
      yield* tryOnce(this.nodeEnd.assure());
      if (this.ready) yield* tryOnce(dropDeletedCopies(this));
      yield* this.bells.info.next(this, limits.agentRoundMs);
    }
  }

  /** What it says of itself, written out again only when something in it has changed. */
  private infoText(): string {
    const { bootId, guardFile, disk } = this.host;
    const { roles } = disk;
    if (this.ownInfo?.bootId !== bootId || this.ownInfo.file !== guardFile || this.ownInfo.roles !== roles) {
      this.ownInfo = { text: JSON.stringify(this.describe()), bootId, file: guardFile, roles };
    }
    return this.ownInfo.text;
  }

  private describe(): NodeInfo {
    const { host } = this;
    return {
      name: host.name,
      address: host.name,
      relayPort: 7711,
      bootId: host.bootId,
      accelerator: 'tcg',
      qemuVersion: 'simulated',
      cores: 2,
      memoryMb: this.cluster.swarm.nodeMemoryMb,
      watchdog: null,
      primaryCopies: host.disk.listPrimaries(),
      problems: host.guardFile === null ? ['its guard has not reported'] : host.guardFile.problems,
    };
  }
}
