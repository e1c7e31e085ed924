import { assert } from '#base/assert.ts';
import { planClaim } from '#core/ha/claim.ts';
import { readLeft } from '#core/ha/guard-report.ts';
import { planGuard, startGuard } from '#core/ha/guard-rules.ts';
import type { GuardEffect, GuardFacts, GuardState, StoreAnswer } from '#core/ha/guard-state.ts';
import type { Fault, FaultKind } from '#core/ha/guard-world-faults.ts';
import { WorldHost, type Hands } from '#core/ha/guard-world-host.ts';
import { WorldManager } from '#core/ha/guard-world-manager.ts';
import { WorldStore } from '#core/ha/guard-world-store.ts';
import { keys } from '#core/ha/keys.ts';
import type { Heartbeat, Permit } from '#core/ha/records.ts';
import { createChance } from '#core/ha/seeded-chance.ts';
import { checkTiming } from '#core/ha/timing.ts';

/**
 * One host with its guard, guests, watchdog and a clock that runs wrong, one store whose answers are late or lost, and a manager that
 * is as eager as the rules let it be. Time here is true time. The rule: no guest executes under an epoch that the store does not
 * grant. The other node is the claim itself: from that instant on the guests run there too.
 */
export const timing = checkTiming({
  profile: 'test',
  renewMs: 200,
  softMs: 800,
  watchdogMs: 1_000,
  clockRatePercent: 1,
  resetMs: 200,
  claimMs: 2_100,
});
const node = 'n1';
export const stepMs = 10;

/** What decides in the world; whoever checks the checks puts a broken one in its place. */
export type WorldRules = { planGuard: typeof planGuard; planClaim: typeof planClaim };
export const shippedWorldRules: WorldRules = { planGuard, planClaim };

type Guard = {
  state: GuardState;
  hands: Hands;
  pausedUntilMs: number;
  steppedAtMs: number | null;
  late: GuardEffect[];
  answer: StoreAnswer | null;
  stop: boolean;
  handOver: boolean;
  /** Killed between two orders of its next step that has any; started again after that long. */
  dieInsideForMs: number | null;
};

export class World {
  nowMs = 0;
  readonly store: WorldStore;
  readonly host: WorldHost;
  readonly manager: WorldManager;
  guard: Guard | null = null;
  startGuardAtMs: number | null = null;
  readonly active = new Map<FaultKind, number>();
  disarms = 0;
  /** How long guests ran with no watchdog counting while the node's silence would have been counted. */
  unguardedMs = 0;
  readonly chance: () => number;
  readonly guardRate: number;
  readonly rules: WorldRules;

  constructor(seed: number, guardRate: number, rules: WorldRules = shippedWorldRules) {
    this.chance = createChance(seed);
    this.guardRate = guardRate;
    this.rules = rules;
    this.store = new WorldStore(node, this);
    this.host = new WorldHost(this, timing, this.chance() < 0.2);
    this.manager = new WorldManager(node, timing, this.store, this, rules.planClaim);
  }

  bootMs(): number {
    return Math.floor((this.nowMs * this.guardRate) / 10) * 10;
  }

  is(kind: FaultKind): boolean {
    return (this.active.get(kind) ?? -1) > this.nowMs;
  }

  step(): void {
    this.nowMs += stepMs;
    this.stepHost();
    this.store.step();
    this.stepAgent();
    this.stepGuard();
    this.manager.step(this.host.offSinceMs);
    this.check();
  }

  /** Steps for `forMs` of true time. */
  pass(forMs: number): void {
    for (let waitMs = 0; waitMs < forMs; waitMs += stepMs) this.step();
  }

  permit(): Permit | null {
    return this.store.read<Permit>(keys.nodePermit(node));
  }

  heartbeat(): Heartbeat | null {
    return this.store.read<Heartbeat>(keys.nodeHeartbeat(node));
  }

  private check(): void {
    const permit = this.permit();
    const isUnguarded = this.host.watchdog === null && this.heartbeat()?.phase !== 'disarmed';
    for (const [epoch, group] of this.host.groups) {
      if (!group.guests || group.frozen) continue;
      if (isUnguarded) this.unguardedMs += stepMs;
      const granted = permit?.state === 'granted' && permit.epoch === epoch;
      assert(granted, `at ${this.nowMs} ms a guest executes under epoch ${epoch}, the store says ${JSON.stringify(permit)}`);
    }
  }

  private stepHost(): void {
    const { host } = this;
    if (host.stepWatchdog()) this.checkReset();
    if (host.resetAtMs !== null && this.nowMs >= host.resetAtMs) this.losePower(500);
    host.stepGroups();
    if (this.startGuardAtMs !== null && this.nowMs >= this.startGuardAtMs) this.startGuard();
  }

  /** No host is reset under a guard that guards nothing and is at its work: then an open watchdog was left alone. */
  private checkReset(): void {
    const { guard, host } = this;
    if (guard?.state.mode.kind !== 'disarmed' || guard.steppedAtMs === null || host.hasExcuse) return;
    assert(this.nowMs - guard.steppedAtMs > 200, `at ${this.nowMs} ms the watchdog of a disarmed host runs out`);
  }

  private startGuard(): void {
    const { file } = this.host;
    const left = readLeft(file, file?.open ?? false);
    this.startGuardAtMs = null;
    this.host.offSinceMs = null;
    this.guard = {
      state: startGuard(timing, this.bootMs(), left),
      hands: { open: false, stuckArmed: false, failed: false, leftCounting: left.leftCounting },
      pausedUntilMs: 0,
      steppedAtMs: null,
      late: [],
      answer: null,
      stop: false,
      handOver: false,
      dieInsideForMs: null,
    };
  }

  private losePower(bootDelayMs: number): void {
    this.host.losePower();
    this.endGuard(bootDelayMs);
  }

  private endGuard(backInMs: number): void {
    this.guard = null;
    this.startGuardAtMs = this.nowMs + backInMs;
  }

  /** Knows nothing of epochs, starts a guest wherever there is a group: as bad as an agent can be. */
  private stepAgent(): void {
    for (const group of this.host.groups.values()) if (this.chance() < 0.05) group.guests = true;
  }

  private stepGuard(): void {
    const { guard } = this;
    if (guard === null || this.nowMs < guard.pausedUntilMs) return;
    if (guard.late.length > 0) {
      // A pause between the plan and its orders: the orders are older than the clock.
      const late = guard.late;
      guard.late = [];
      this.act(guard, late);
      return;
    }
    if (this.nowMs % 50 !== 0 && guard.answer === null) return;
    const before = guard.state.mode.kind;
    const plan = this.rules.planGuard(guard.state, this.facts(guard), this.bootMs());
    guard.answer = null;
    guard.state = plan.next;
    this.checkDisarmed(before, plan.next.mode.kind);
    if (this.is('pause') && this.chance() < 0.5) {
      guard.pausedUntilMs = this.active.get('pause') ?? 0;
      guard.late = plan.effects;
      return;
    }
    this.act(guard, plan.effects);
  }

  private checkDisarmed(before: string, after: string): void {
    if (after === 'disarmed' && before !== 'disarmed') this.disarms += 1;
    if (before !== 'disarmed') return;
    assert(after !== 'freezing' && after !== 'frozen' && after !== 'doomed', `at ${this.nowMs} ms a disarmed guard is ${after}`);
  }

  private facts(guard: Guard): GuardFacts {
    const { host } = this;
    return {
      self: { node, bootId: `boot${host.boots}`, timing },
      wallMs: 1_000_000 + this.nowMs,
      answer: guard.answer,
      groups: host.readGroups(),
      watchdog: host.readWatchdog(guard.hands),
      agent: { atBootMs: this.bootMs(), load: { guestsRunning: 0, memoryUsedMb: 0 } },
      releaseAsked: this.is('release-asked') ? 'shutdown' : null,
      stop: guard.stop,
      handOver: guard.handOver,
      fileSaysDisarmed: host.file?.phase === 'disarmed',
    };
  }

  /** Carries the orders out and then writes guard.json, unless the guard is killed on the way. */
  private act(guard: Guard, effects: GuardEffect[]): void {
    guard.steppedAtMs = this.nowMs;
    const { dieInsideForMs: dieForMs } = guard;
    const done = dieForMs === null || effects.length === 0 ? effects.length : Math.floor(this.chance() * (effects.length + 1));
    for (const effect of effects.slice(0, done)) {
      if ('notAfterBootMs' in effect && effect.notAfterBootMs !== null && this.bootMs() >= effect.notAfterBootMs) continue;
      this.performOne(guard, effect);
    }
    if (dieForMs !== null && effects.length > 0) return this.endGuard(dieForMs);
    if (this.is('file-stuck')) {
      this.host.hasExcuse = true;
      return;
    }
    const { mode } = guard.state;
    this.host.file = { phase: mode.kind, epoch: 'epoch' in mode ? mode.epoch : null, open: guard.hands.open };
  }

  private performOne(guard: Guard, effect: GuardEffect): void {
    const { host } = this;
    const isDisarmed = guard.state.mode.kind === 'disarmed';
    switch (effect.kind) {
      case 'look':
      case 'commit':
        return this.store.send(guard, effect);
      case 'exit':
        assert(
          !isDisarmed || guard.handOver || host.watchdog === null,
          'a guard that stops leaves a disarmed host to its watchdog',
        );
        // Whoever stops a guard that left nothing counting may take his time: long enough for a claim.
        return this.endGuard(isDisarmed && host.watchdog === null ? this.chance() * 2 * timing.claimMs : 100);
      case 'disarm':
        assert(isDisarmed || host.groups.size === 0, 'the watchdog is closed and there is a group');
        return host.perform(guard.hands, effect);
      default:
        return host.perform(guard.hands, effect);
    }
  }

  begin(fault: Fault): void {
    const { guard } = this;
    this.active.set(fault.kind, this.nowMs + fault.forMs);
    if (fault.kind === 'power-cut') this.losePower(fault.forMs);
    if (guard === null) return;
    if (fault.kind === 'pause' && this.chance() < 0.5) guard.pausedUntilMs = this.nowMs + fault.forMs;
    if (fault.kind === 'stopped') guard.stop = true;
    if (fault.kind === 'handed-over') guard.handOver = true;
    if (fault.kind === 'guard-killed') this.endGuard(fault.forMs);
    if (fault.kind === 'killed-inside') guard.dieInsideForMs = fault.forMs;
  }
}
