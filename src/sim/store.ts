import { AppError } from '#base/error.ts';
import type { StepEvent } from '#core/ha/cluster-round/steps.ts';
import type { HaRule } from '#core/ha/records.ts';
import type { Dice, Engine } from '#sim/engine.ts';
import type { Network } from '#sim/network.ts';
import { type Outcome, type Task, wait } from '#sim/process.ts';

/** One key. `value` is read by everybody and changed by nobody. */
export type SimEntry<T = unknown> = { key: string; text: string; value: T; modRevision: bigint };
export type SimChange = { key: string; entry: SimEntry | null };
export type SimCompare = { key: string; modRevision: bigint };
export type SimWrite = { key: string; value: string | null };
export type SimCommit = { kind: 'committed'; revision: bigint } | { kind: 'conflict' } | { kind: 'maybe' };

/** Who wrote, for the checkers only: a manager's lead, the events of its commit and the rules it planned by; when a guard sent its renewal. */
export type WriteTag = {
  node: string;
  leadEpoch?: number;
  events?: readonly StepEvent[];
  rules?: readonly HaRule[];
  sentAtMs?: number;
};

/** A machine with a member of the store. */
export type Member = { name: string; isMemberUp: () => boolean };

export type StoreWatch = { node: string; take: (changes: SimChange[], snapshot: boolean, revision: bigint) => void };
type Follower = StoreWatch & { revision: number; open: boolean; stalledUntilMs: number; pumping: boolean };

/** One error for all: thousands of calls are lost in a run, and making an error costs more than all the rest of a call. */
const noAnswer = { ok: false, error: new AppError('timeout', 'the store does not answer') } as const;

/** How long a call that reached a member waits inside it for a leader. */
const hangsInsideMs = 6_000;
const raftTickMs = 200;
/** History that a watch may still ask for; older than that it gets a snapshot (compaction). */
const keptChanges = 2_000;
/** Commits between two looks at what everybody has seen: what dies young costs the collector of garbage nothing. */
const trimEvery = 64;

/**
 * The store as its clients see it: one history of commits through a leader that needs a majority. An answer may be lost while the
 * commit is applied, at once or seconds later; a view of the history may lag for any time, but is never out of order.
 */
export class SimStore {
  readonly entries = new Map<string, SimEntry>();
  leader: string | null = null;
  answersLostUntilMs = 0;
  /** Until then its disks are slow: each commit takes up to many seconds. */
  slowUntilMs = 0;
  revision = 0;
  elections = 0;
  onApply: (changes: SimChange[], before: (SimEntry | null)[], tag: WriteTag) => void = () => {};
  /** What some open watch has not been given yet, newest last. */
  private history: SimChange[][] = [];
  /** How many commits back a watch is still given changes. */
  private reach = 0;
  private readonly followers = new Set<Follower>();
  private readonly engine: Engine;
  private readonly dice: Dice;
  private readonly network: Network;
  private readonly members: Member[];
  private readonly memberOf: ReadonlyMap<string, Member>;
  private electionAtMs = 0;
  /** When a leader that cannot commit any more will be given up. */
  private helplessAtMs: number | null = null;

  constructor(engine: Engine, dice: Dice, network: Network, members: Member[]) {
    this.engine = engine;
    this.dice = dice;
    this.network = network;
    this.members = members;
    this.memberOf = new Map(members.map((member) => [member.name, member]));
    this.tick();
  }

  read<T>(key: string): SimEntry<T> | null {
    return (this.entries.get(key) as SimEntry<T> | undefined) ?? null;
  }

  loseLeader(forMs: number): void {
    this.leader = null;
    this.electionAtMs = this.engine.nowMs + forMs;
  }

  /** A commit as a client sees it. `deadlineMs` is true time. */
  commit(
    node: string,
    compares: SimCompare[],
    writes: SimWrite[],
    deadlineMs: number,
    tag: WriteTag,
    resume: (outcome: SimCommit) => void,
  ): void {
    const apply = () => this.apply(compares, writes, tag);
    this.call<SimCommit>(node, deadlineMs, apply, true, (outcome) => resume(outcome.ok ? outcome.value : { kind: 'maybe' }));
  }

  *commitTask(node: string, compares: SimCompare[], writes: SimWrite[], deadlineMs: number, tag: WriteTag): Task<SimCommit> {
    return yield* wait<SimCommit>((resume) =>
      this.commit(node, compares, writes, deadlineMs, tag, (value) => resume({ ok: true, value })),
    );
  }

  /** A linearizable read of some keys at one revision. Raises AppError timeout. */
  fetch(node: string, keys: string[], deadlineMs: number, resume: (outcome: Outcome<SimEntry[]>) => void): void {
    const look = () => keys.flatMap((key) => this.entries.get(key) ?? []);
    this.call(node, deadlineMs, look, false, resume);
  }

  *readTask<T>(node: string, key: string, deadlineMs: number): Task<SimEntry<T> | null> {
    const [entry] = yield* wait<SimEntry[]>((resume) => this.fetch(node, [key], deadlineMs, resume));
    return (entry as SimEntry<T> | undefined) ?? null;
  }

  /** A person's write, at one instant; the checkers see it like any other. */
  write(writes: SimWrite[], tag: WriteTag): void {
    this.apply([], writes, tag);
  }

  watch(watch: StoreWatch): { close: () => void; stall: (untilMs: number) => void } {
    const follower: Follower = { ...watch, revision: -1, open: true, stalledUntilMs: 0, pumping: false };
    this.followers.add(follower);
    this.pumpSoon(follower);
    return {
      close: () => {
        follower.open = false;
        this.followers.delete(follower);
      },
      stall: (untilMs) => (follower.stalledUntilMs = untilMs),
    };
  }

  canCommit(): boolean {
    const leader = this.leader === null ? undefined : this.memberOf.get(this.leader);
    return leader !== undefined && leader.isMemberUp() && this.hasMajority(leader);
  }

  private hasMajority(member: Member): boolean {
    let near = 0;
    for (const other of this.members) {
      if (other.isMemberUp() && this.network.isOpenBoth('store', member.name, other.name)) near += 1;
    }
    return near * 2 > this.members.length;
  }

  /** Elections: a leader without a majority is given up after a while, and the next one takes its time. */
  private tick(): void {
    const { nowMs } = this.engine;
    if (this.leader === null || this.canCommit()) this.helplessAtMs = null;
    else this.helplessAtMs ??= nowMs + this.dice.between(700, 1_700);
    if (this.helplessAtMs !== null && nowMs >= this.helplessAtMs) {
      this.leader = null;
      this.electionAtMs = nowMs + this.dice.between(50, 600);
    }
    if (this.leader === null && nowMs >= this.electionAtMs) {
      const able = this.members.filter((member) => member.isMemberUp() && this.hasMajority(member));
      if (able.length > 0) {
        this.leader = this.dice.pick(able).name;
        this.elections += 1;
      }
    }
    this.engine.after(raftTickMs, () => this.tick());
  }

  private findMember(node: string): Member | null {
    const own = this.memberOf.get(node);
    if (own?.isMemberUp() === true) return own;
    const near = this.members.filter((member) => member.isMemberUp() && this.network.isOpenBoth('store', node, member.name));
    return near.length === 0 ? null : this.dice.pick(near);
  }

  private call<T>(
    node: string,
    deadlineMs: number,
    serve: () => T,
    writes: boolean,
    resume: (outcome: Outcome<T>) => void,
  ): void {
    const giveUpAtMs = this.engine.nowMs + deadlineMs;
    let over = false;
    const give = (outcome: Outcome<T>) => {
      if (over) return;
      over = true;
      this.engine.cancel(giveUp);
      resume(outcome);
    };
    const giveUp = this.engine.at(giveUpAtMs, () => give(noAnswer));
    const send = () => {
      if (over) return;
      const member = this.findMember(node);
      if (member === null) this.engine.after(50, send);
      else this.engine.after(this.network.delayMs(), () => this.serveInside(node, member, giveUpAtMs, serve, writes, give));
    };
    send();
  }

  /** The call lies with a member: it waits there for a leader, whatever its client thinks meanwhile. */
  private serveInside<T>(
    node: string,
    member: Member,
    giveUpAtMs: number,
    serve: () => T,
    writes: boolean,
    give: (outcome: Outcome<T>) => void,
  ): void {
    const { engine, dice, network } = this;
    const dropAtMs = engine.nowMs + hangsInsideMs;
    const attempt = () => {
      if (!member.isMemberUp()) return;
      if (!writes && engine.nowMs >= giveUpAtMs) return;
      const ready = this.canCommit() && this.leader !== null && network.isOpenBoth('store', member.name, this.leader);
      if (!ready) {
        if (engine.nowMs < dropAtMs) engine.after(100, attempt);
        return;
      }
      const fsyncMs = writes && engine.nowMs < this.slowUntilMs ? dice.between(0, dice.pick([200, 2_000, 20_000])) : 0;
      engine.after(network.delayMs() + fsyncMs, () => {
        // Proposed, and the majority went away meanwhile: it may come with the next leader, or never.
        if (!this.canCommit()) {
          if (writes && dice.yes(0.5)) engine.after(dice.between(100, 10_000), attempt);
          return;
        }
        const value = serve();
        if (engine.nowMs < this.answersLostUntilMs && dice.yes(0.6)) return;
        engine.after(network.delayMs(), () => {
          if (network.isOpenBoth('store', node, member.name)) give({ ok: true, value });
        });
      });
    };
    attempt();
  }

  private apply(compares: SimCompare[], writes: SimWrite[], tag: WriteTag): SimCommit {
    for (const { key, modRevision } of compares) {
      if ((this.entries.get(key)?.modRevision ?? 0n) !== modRevision) return { kind: 'conflict' };
    }
    this.revision += 1;
    const modRevision = BigInt(this.revision);
    const before: (SimEntry | null)[] = [];
    const changes = writes.map(({ key, value }): SimChange => {
      before.push(this.entries.get(key) ?? null);
      const entry = value === null ? null : { key, text: value, value: JSON.parse(value) as unknown, modRevision };
      if (entry === null) this.entries.delete(key);
      else this.entries.set(key, entry);
      return { key, entry };
    });
    this.remember(changes);
    this.onApply(changes, before, tag);
    for (const follower of this.followers) this.pumpSoon(follower);
    return { kind: 'committed', revision: modRevision };
  }

  private remember(changes: SimChange[]): void {
    this.reach = this.reach === 2 * keptChanges ? keptChanges : this.reach + 1;
    this.history.push(changes);
    if (this.history.length % trimEvery !== 0) return;
    let unseen = 1;
    for (const { revision } of this.followers) if (revision >= 0) unseen = Math.max(unseen, this.revision - revision);
    this.history = this.history.slice(-Math.min(unseen, this.reach));
  }

  private newest(commits: number): SimChange[] {
    const last = this.history[this.history.length - 1];
    return commits === 1 && last !== undefined ? last : this.history.slice(-commits).flat();
  }

  private pumpSoon(follower: Follower): void {
    if (follower.pumping) return;
    follower.pumping = true;
    this.engine.after(this.network.delayMs() * 2, () => {
      follower.pumping = false;
      this.pump(follower);
    });
  }

  private pump(follower: Follower): void {
    if (!follower.open || follower.revision === this.revision) return;
    const member = this.findMember(follower.node);
    const fed = member !== null && this.canCommit() && this.network.isOpenBoth('store', member.name, this.leader ?? '');
    if (!fed || this.engine.nowMs < follower.stalledUntilMs) {
      follower.pumping = true;
      this.engine.after(200, () => {
        follower.pumping = false;
        this.pump(follower);
      });
      return;
    }
    const behind = this.revision - follower.revision;
    const snapshot = follower.revision < 0 || behind > this.reach;
    const changes = snapshot ? [...this.entries.values()].map((entry) => ({ key: entry.key, entry })) : this.newest(behind);
    follower.revision = this.revision;
    follower.take(changes, snapshot, BigInt(this.revision));
  }
}
