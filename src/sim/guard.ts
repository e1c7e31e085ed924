import { limits } from '#base/limits.ts';
import { describeGuard, readLeft, type GuardReport } from '#core/ha/guard-report.ts';
import type { GuardEffect, GuardFacts, GuardState, StoreAnswer, WatchdogFact } from '#core/ha/guard-state.ts';
import { limitOf } from '#core/ha/guard-steps.ts';
import { readSight } from '#core/ha/guard-store.ts';
import type { Timing } from '#core/ha/timing.ts';
import type { Cluster } from '#sim/cluster.ts';
import type { Host } from '#sim/host.ts';
import { keys } from '#sim/known-keys.ts';
import { Process } from '#sim/process.ts';
import { shippedRules } from '#sim/rules.ts';

/** As in the guard's own loop: between two looks while something is to be confirmed in milliseconds. */
const shortTickMs = 20;

/** The guard program of one boot: the loop of programs/guard around the real rules. */
export class GuardProcess extends Process {
  state: GuardState;
  stop = false;
  handOver = false;
  /** The next step is paused for this long between its plan and its orders. */
  pauseInsideMs = 0;
  private answer: StoreAnswer | null = null;
  private fact: WatchdogFact;
  private turn = 0;
  private written: GuardReport | null = null;
  private readonly cluster: Cluster;
  private readonly host: Host;
  private readonly skipsIdle: boolean;

  constructor(cluster: Cluster, host: Host) {
    super(
      cluster.processWorld(
        host,
        () => 0,
        () => {},
      ),
    );
    this.cluster = cluster;
    this.host = host;
    // What a broken rule would do in an idle step is not known here.
    this.skipsIdle = cluster.rules.skipIdleGuardTicks && cluster.rules.planGuard === shippedRules.planGuard;
    const left = readLeft(host.guardFile, host.watchdog !== null);
    this.state = cluster.rules.startGuard(cluster.timing, host.bootMs(), left);
    this.fact = { kind: 'closed', leftCounting: left.leftCounting };
  }

  /** The first step; the host knows the process by then. */
  begin(): void {
    this.step();
  }

  private ring(): void {
    this.deliver(() => this.step());
  }

  private step(): void {
    this.turn += 1;
    const turn = this.turn;
    if (this.skipsIdle && this.onlyPets()) {
      this.host.pet();
      this.cluster.checks.notePet(this.host);
      return this.stepLater(turn);
    }
    const facts = this.facts();
    const nowBootMs = this.host.bootMs();
    const plan = this.cluster.rules.planGuard(this.state, facts, nowBootMs);
    this.answer = null;
    if (plan.next.mode.kind !== this.state.mode.kind) this.cluster.checks.manager.noteInput();
    this.state = plan.next;
    for (const because of plan.because) this.cluster.say(`${this.host.name} guard: ${because}`);
    const act = () => {
      if (!this.perform(plan.effects)) return;
      this.report(facts);
      this.stepLater(turn);
    };
    if (this.pauseInsideMs > 0) {
      // The orders will be older than the clock.
      this.pausedUntilMs = this.cluster.engine.nowMs + this.pauseInsideMs;
      this.pauseInsideMs = 0;
    }
    this.deliver(act);
  }

  private stepLater(turn: number): void {
    this.after(this.nextWaitMs(), () => {
      if (this.turn === turn) this.step();
    });
  }

  /**
   * True when the rules could order nothing but a pet. Every step ends with a plan of its mode that stays, so while serving only what
   * `planServing` reads of the facts, and the two instants that it and `planCall` compare with, can make a difference.
   */
  private onlyPets(): boolean {
    const { mode, store } = this.state;
    if (mode.kind !== 'serving' || this.answer !== null || this.pauseInsideMs > 0) return false;
    const { host } = this;
    const asked = this.stop || this.handOver || host.releaseAsked !== null;
    if (asked || this.fact.kind !== 'open' || host.watchdogBroken) return false;
    if (host.groups.size !== 1 || host.groups.get(mode.epoch)?.frozen !== false) return false;
    const nowBootMs = host.bootMs();
    if (nowBootMs >= limitOf(mode.renewedBootMs, this.cluster.timing)) return false;
    return store.pending !== null || nowBootMs < store.nextCallBootMs;
  }

  private facts(): GuardFacts {
    const { host } = this;
    if (host.watchdogBroken && this.fact.kind === 'open') this.fact = { kind: 'failed', problem: 'the device does not answer' };
    return {
      self: { node: host.name, bootId: host.bootId, timing: this.cluster.timing },
      wallMs: host.wallMs(),
      answer: this.answer,
      groups: [...host.groups].map(([epoch, { frozen }]) => ({ epoch, frozen, populated: host.isPopulated(epoch) })),
      watchdog: this.fact,
      agent: host.agentAlive,
      releaseAsked: host.releaseAsked,
      stop: this.stop,
      handOver: this.handOver,
      fileSaysDisarmed: host.guardFile?.phase === 'disarmed',
    };
  }

  /** False: the guard has ended. */
  private perform(effects: GuardEffect[]): boolean {
    for (const effect of effects) {
      if ('notAfterBootMs' in effect && effect.notAfterBootMs !== null && this.host.bootMs() >= effect.notAfterBootMs) continue;
      if (effect.kind === 'exit') {
        this.end();
        return false;
      }
      this.performOne(effect);
    }
    return true;
  }

  private performOne(effect: Exclude<GuardEffect, { kind: 'exit' }>): void {
    const { host } = this;
    switch (effect.kind) {
      case 'open-watchdog':
        this.fact = { kind: 'open', timeoutMs: this.cluster.timing.watchdogMs, stuckArmed: false };
        host.pet();
        this.cluster.checks.notePet(host);
        return;
      case 'pet':
        if (!host.watchdogBroken) host.pet();
        this.cluster.checks.notePet(host);
        return;
      case 'disarm':
        this.fact = { kind: 'closed', leftCounting: false };
        host.watchdog = null;
        return this.cluster.touch();
      case 'create-group':
        if (!host.groups.has(effect.epoch)) host.groups.set(effect.epoch, { frozen: false, freezing: false });
        return;
      case 'freeze':
        return host.freeze(effect.epoch);
      case 'thaw':
        return host.thaw(effect.epoch);
      case 'kill':
        return host.killGroup(effect.epoch);
      case 'remove-group':
        if (!host.isPopulated(effect.epoch)) host.groups.delete(effect.epoch);
        return;
      case 'look':
      case 'commit':
        return this.send(effect);
    }
  }

  private send(effect: Extract<GuardEffect, { kind: 'look' | 'commit' }>): void {
    const { store } = this.cluster;
    const { name } = this.host;
    const deadlineMs = effect.deadlineMs / this.host.rate;
    const give = (answer: StoreAnswer) =>
      this.deliver(() => {
        this.answer = answer;
        this.ring();
      });
    const failed: StoreAnswer = { kind: 'failed', problem: 'no answer' };
    if (effect.kind === 'look') {
      const wanted = [keys.nodePermit(name), keys.nodeHeartbeat(name), keys.nodeRelease(name), keys.nodeDisarm(name)];
      store.fetch(name, wanted, deadlineMs, (outcome) => {
        if (!outcome.ok) return give(failed);
        const entries = outcome.value.map(({ key, text, modRevision }) => ({ key, value: text, modRevision }));
        give({ kind: 'sight', sight: readSight(name, entries) });
      });
      return;
    }
    const tag = { node: name, sentAtMs: this.cluster.engine.nowMs };
    store.commit(name, effect.compares, effect.writes, deadlineMs, tag, (outcome) => {
      give(outcome.kind === 'maybe' ? failed : outcome);
    });
  }

  /** guard.json. */
  private report(facts: GuardFacts): void {
    const report = describeGuard(this.state, facts, null, this.host.bootMs());
    if (this.written !== null && isSameReport(report, this.written)) return;
    this.written = report;
    this.host.guardFile = report;
    this.host.agent?.guardChangedSoon();
  }

  private nextWaitMs(): number {
    const { mode } = this.state;
    const { timing, swarm } = this.cluster;
    const nowBootMs = this.host.bootMs();
    if (mode.kind === 'serving') return Math.min(swarm.guardTickMs, Math.max(0, limitOf(mode.renewedBootMs, timing) - nowBootMs));
    return ['freezing', 'arming', 'clearing', 'releasing'].includes(mode.kind) ? shortTickMs : limits.guardTickMs;
  }

  private end(): void {
    this.alive = false;
    if (this.host.guard === this) this.host.guard = null;
    const clean = this.stop;
    this.cluster.say(`${this.host.name} guard: ended (${clean ? 'clean stop' : 'hand-over'})`);
    // A service that was stopped is started again by hand; a successor comes with the upgrade.
    this.cluster.startGuardLater(this.host, clean ? 20_000 : this.cluster.dice.between(100, 1_500));
  }
}

function isSameReport(a: GuardReport, b: GuardReport): boolean {
  const same = a.phase === b.phase && a.epoch === b.epoch && a.sinceBootMs === b.sinceBootMs && a.thawedBootMs === b.thawedBootMs;
  return same && a.problems.join() === b.problems.join();
}

/** The claim time of a profile in true time on the fastest clock. */
export function shortestClaimMs(timing: Timing): number {
  return timing.claimMs * (1 - timing.clockRatePercent / 100);
}
