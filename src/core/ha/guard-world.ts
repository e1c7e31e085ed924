import { assert } from '#base/assert.ts';
import { planGuard, startGuard } from '#core/ha/guard-rules.ts';
import type { GuardEffect, GuardFacts, GuardState, StoreAnswer } from '#core/ha/guard-state.ts';
import { readSight } from '#core/ha/guard-store.ts';
import { keys } from '#core/ha/keys.ts';
import type { Permit } from '#core/ha/records.ts';
import { createChance } from '#core/ha/seeded-chance.ts';
import { checkTiming } from '#core/ha/timing.ts';

/**
 * One host with its guard, guests, watchdog and a clock that runs wrong, one store whose answers are late or lost, and a manager that
 * is as eager as the rules let it be: it sees each heartbeat at once, on the fastest clock, and claims at the first instant it may.
 * Time here is true time. The rule: no guest executes under an epoch that the store does not grant.
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
export const node = 'n1';
export const stepMs = 10;

export const faultKinds = [
  'store-down',
  'answers-lost',
  'commits-lost',
  'store-slow',
  'pause',
  'guard-killed',
  'freeze-stuck',
  'kill-stuck',
] as const;
export const otherKinds = [
  'release-asked',
  'release-ordered',
  'stopped',
  'handed-over',
  'power-cut',
  'thawed-by-hand',
  'watchdog-gone',
] as const;
type FaultKind = (typeof faultKinds)[number] | (typeof otherKinds)[number];
export type Fault = { kind: FaultKind; afterMs: number; forMs: number };

type Group = { guests: boolean; frozen: boolean; freezeAtMs: number | null; dieAtMs: number | null };
type Guard = {
  state: GuardState;
  pausedUntilMs: number;
  late: GuardEffect[];
  answer: StoreAnswer | null;
  stop: boolean;
  handOver: boolean;
};
type Call = {
  effect: Extract<GuardEffect, { kind: 'look' | 'commit' }>;
  applyAtMs: number;
  answerAtMs: number;
  lost: boolean;
  result: StoreAnswer | null;
  guard: Guard;
};

export class World {
  nowMs = 0;
  revision = 1n;
  readonly record = new Map<string, { key: string; value: string; modRevision: bigint }>();
  groups = new Map<number, Group>();
  guard: Guard | null = null;
  calls: Call[] = [];
  boots = 0;
  bootAtMs = 0;
  resetAtMs: number | null = null;
  watchdog: { petAtMs: number; open: boolean; broken: boolean } | null = null;
  startGuardAtMs: number | null = null;
  seen = { revision: -1n, atMs: 0 };
  readonly active = new Map<FaultKind, number>();
  thaws = 0;
  resets = 0;
  claims = 0;
  readonly chance: () => number;
  readonly guardRate: number;

  constructor(seed: number, guardRate: number) {
    this.chance = createChance(seed);
    this.guardRate = guardRate;
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
    this.stepStore();
    this.stepAgent();
    this.stepGuard();
    this.stepManager();
    this.check();
  }

  check(): void {
    const permit = this.permit();
    for (const [epoch, group] of this.groups) {
      if (!group.guests || group.frozen) continue;
      const granted = permit?.state === 'granted' && permit.epoch === epoch;
      assert(granted, `at ${this.nowMs} ms a guest executes under epoch ${epoch}, the store says ${JSON.stringify(permit)}`);
    }
  }

  permit(): Permit | null {
    const entry = this.record.get(keys.nodePermit(node));
    return entry === undefined ? null : (JSON.parse(entry.value) as Permit);
  }

  stepHost(): void {
    const { watchdog } = this;
    // The slowest watchdog and the slowest reset that the profile allows for.
    if (watchdog !== null && this.resetAtMs === null && this.nowMs - watchdog.petAtMs > timing.watchdogMs * 1.01) {
      this.resetAtMs = this.nowMs + timing.resetMs - stepMs;
    }
    if (this.resetAtMs !== null && this.nowMs >= this.resetAtMs) this.losePower(500);
    for (const group of this.groups.values()) {
      if (group.freezeAtMs !== null && this.nowMs >= group.freezeAtMs && !this.is('freeze-stuck')) {
        group.frozen = true;
        group.freezeAtMs = null;
      }
      if (group.dieAtMs !== null && this.nowMs >= group.dieAtMs && !this.is('kill-stuck')) {
        group.guests = false;
        group.dieAtMs = null;
      }
    }
    if (this.startGuardAtMs !== null && this.nowMs >= this.startGuardAtMs) {
      this.startGuardAtMs = null;
      this.guard = {
        state: startGuard(timing, this.bootMs()),
        pausedUntilMs: 0,
        late: [],
        answer: null,
        stop: false,
        handOver: false,
      };
    }
  }

  losePower(bootDelayMs: number): void {
    this.groups.clear();
    this.guard = null;
    this.watchdog = null;
    this.resetAtMs = null;
    this.boots += 1;
    this.resets += 1;
    this.startGuardAtMs = this.nowMs + bootDelayMs;
  }

  /** Knows nothing of epochs, starts a guest wherever there is a group: as bad as an agent can be. */
  stepAgent(): void {
    for (const group of this.groups.values()) if (this.chance() < 0.05) group.guests = true;
  }

  stepStore(): void {
    const never = Number.POSITIVE_INFINITY;
    for (const call of this.calls) {
      if (this.nowMs >= call.applyAtMs) {
        call.applyAtMs = never;
        call.result = this.apply(call.effect);
      }
      if (this.nowMs >= call.answerAtMs) {
        call.answerAtMs = never;
        call.guard.answer = call.lost || call.result === null ? { kind: 'failed', problem: 'no answer' } : call.result;
      }
    }
    this.calls = this.calls.filter((call) => Math.min(call.applyAtMs, call.answerAtMs) < never);
  }

  apply(effect: Call['effect']): StoreAnswer {
    if (effect.kind === 'look') return { kind: 'sight', sight: readSight(node, [...this.record.values()]) };
    const holds = effect.compares.every(({ key, modRevision }) => (this.record.get(key)?.modRevision ?? 0n) === modRevision);
    if (!holds) return { kind: 'conflict' };
    this.write(effect.writes);
    return { kind: 'committed', revision: this.revision };
  }

  write(writes: { key: string; value: string | null }[]): void {
    this.revision += 1n;
    for (const { key, value } of writes) {
      if (value === null) this.record.delete(key);
      else this.record.set(key, { key, value, modRevision: this.revision });
    }
  }

  /** True: the fastest clock the profile allows, and no delay in seeing a heartbeat. */
  stepManager(): void {
    const heartbeat = this.record.get(keys.nodeHeartbeat(node));
    const permit = this.permit();
    if (heartbeat === undefined || permit === null) return;
    if (heartbeat.modRevision !== this.seen.revision) this.seen = { revision: heartbeat.modRevision, atMs: this.nowMs };
    if (this.is('release-ordered') && permit.state === 'granted' && this.record.get(keys.nodeRelease(node)) === undefined) {
      this.write([
        { key: keys.nodeRelease(node), value: JSON.stringify({ reason: 'agent silent', managerEpoch: 1, askedAtMs: 0 }) },
      ]);
    }
    if (permit.state !== 'granted' || (this.nowMs - this.seen.atMs) * 1.01 < timing.claimMs) return;
    const claimed = {
      state: 'revoked',
      epoch: permit.epoch + 1,
      revokedEpoch: permit.epoch,
      proof: { kind: 'silence', heartbeatSeq: 0, silentMs: 0, claimMs: timing.claimMs, observer: 'n2' },
      managerEpoch: 1,
      revokedAtMs: this.nowMs,
    } satisfies Permit;
    this.claims += 1;
    this.write([{ key: keys.nodePermit(node), value: JSON.stringify(claimed) }]);
  }

  stepGuard(): void {
    const { guard } = this;
    if (guard === null || this.nowMs < guard.pausedUntilMs) return;
    if (guard.late.length > 0) {
      // A pause between the plan and its orders: the orders are older than the clock.
      const late = guard.late;
      guard.late = [];
      this.perform(guard, late);
      return;
    }
    if (this.nowMs % 50 !== 0 && guard.answer === null) return;
    const plan = planGuard(guard.state, this.facts(guard), this.bootMs());
    guard.answer = null;
    guard.state = plan.next;
    if (this.is('pause') && this.chance() < 0.5) {
      guard.pausedUntilMs = this.active.get('pause') ?? 0;
      guard.late = plan.effects;
      return;
    }
    this.perform(guard, plan.effects);
  }

  facts(guard: Guard): GuardFacts {
    const { watchdog } = this;
    return {
      self: { node, bootId: `boot${this.boots}`, timing },
      wallMs: 1_000_000 + this.nowMs,
      answer: guard.answer,
      groups: [...this.groups].map(([epoch, { frozen, guests }]) => ({ epoch, frozen, populated: guests })),
      watchdog:
        watchdog === null || !watchdog.open
          ? { kind: 'closed' }
          : watchdog.broken
            ? { kind: 'failed', problem: 'gone' }
            : { kind: 'open', timeoutMs: timing.watchdogMs, stuckArmed: false },
      agent: { atBootMs: this.bootMs(), load: { guestsRunning: 0, memoryUsedMb: 0 } },
      releaseAsked: this.is('release-asked') ? 'shutdown' : null,
      stop: guard.stop,
      handOver: guard.handOver,
    };
  }

  perform(guard: Guard, effects: GuardEffect[]): void {
    for (const effect of effects) {
      if ('notAfterBootMs' in effect && effect.notAfterBootMs !== null && this.bootMs() >= effect.notAfterBootMs) continue;
      this.performOne(guard, effect);
    }
  }

  performOne(guard: Guard, effect: GuardEffect): void {
    switch (effect.kind) {
      case 'open-watchdog':
        this.watchdog = { petAtMs: this.nowMs, open: true, broken: false };
        return;
      case 'pet':
        assert(this.watchdog?.open === true, 'petted a closed watchdog');
        if (this.is('watchdog-gone')) this.watchdog.broken = true;
        else this.watchdog.petAtMs = this.nowMs;
        return;
      case 'disarm':
        assert(this.groups.size === 0, 'disarmed with a group');
        this.watchdog = null;
        return;
      case 'create-group':
        assert(this.watchdog?.open === true, 'a group without a watchdog');
        if (!this.groups.has(effect.epoch)) {
          this.groups.set(effect.epoch, { guests: false, frozen: false, freezeAtMs: null, dieAtMs: null });
        }
        return;
      case 'freeze':
      case 'thaw':
      case 'kill':
      case 'remove-group':
        this.performOnGroup(effect.kind, effect.epoch);
        return;
      case 'look':
      case 'commit':
        this.send(guard, effect);
        return;
      case 'exit':
        this.guard = null;
        if (this.watchdog !== null) this.watchdog.open = false;
        this.startGuardAtMs = this.nowMs + 100;
    }
  }

  performOnGroup(kind: 'freeze' | 'thaw' | 'kill' | 'remove-group', epoch: number): void {
    const group = this.groups.get(epoch);
    if (group === undefined) return;
    if (kind === 'freeze') group.freezeAtMs ??= group.frozen ? null : this.nowMs + Math.floor(this.chance() * 60);
    if (kind === 'kill') group.dieAtMs ??= this.nowMs + Math.floor(this.chance() * 60);
    if (kind === 'remove-group' && !group.guests) this.groups.delete(epoch);
    if (kind === 'thaw') {
      this.thaws += 1;
      group.frozen = false;
      group.freezeAtMs = null;
    }
  }

  send(guard: Guard, effect: Call['effect']): void {
    assert(!this.calls.some((call) => call.guard === guard && call.answerAtMs < Number.POSITIVE_INFINITY), 'two calls in flight');
    const commitLost = effect.kind === 'commit' && this.is('commits-lost');
    const lost = commitLost || this.is('store-down') || (this.is('answers-lost') && this.chance() < 0.7);
    // A call whose answer is lost may take effect at once, much later, or never.
    const never = commitLost || (lost && this.chance() < 0.4);
    const answerInMs = Math.min(effect.deadlineMs, (this.is('store-slow') ? 600 : 20) * this.chance());
    this.calls.push({
      effect,
      applyAtMs: never ? Number.POSITIVE_INFINITY : this.nowMs + this.chance() * (lost ? 4_000 : answerInMs),
      answerAtMs: this.nowMs + (lost ? effect.deadlineMs : answerInMs),
      lost,
      result: null,
      guard,
    });
  }

  begin(fault: Fault): void {
    const { guard } = this;
    this.active.set(fault.kind, this.nowMs + fault.forMs);
    if (fault.kind === 'pause' && guard !== null && this.chance() < 0.5) guard.pausedUntilMs = this.nowMs + fault.forMs;
    if (fault.kind === 'stopped' && guard !== null) guard.stop = true;
    if (fault.kind === 'handed-over' && guard !== null) guard.handOver = true;
    if (fault.kind === 'power-cut') this.losePower(fault.forMs);
    if (fault.kind === 'guard-killed' && guard !== null) {
      this.guard = null;
      if (this.watchdog !== null) this.watchdog.open = false;
      this.startGuardAtMs = this.nowMs + fault.forMs;
    }
  }
}
