import { assert } from '#base/assert.ts';
import type { GroupFact, GuardEffect, GuardMode, WatchdogFact } from '#core/ha/guard-state.ts';
import type { Surroundings } from '#core/ha/guard-world-faults.ts';
import type { Timing } from '#core/ha/timing.ts';

type Group = { guests: boolean; frozen: boolean; freezeAtMs: number | null; dieAtMs: number | null };
type HandEffect = Exclude<GuardEffect, { kind: 'look' | 'commit' | 'exit' }>;

/** One guard process's hold of the watchdog: what it opened, and what the device told it. */
export type Hands = { open: boolean; stuckArmed: boolean; failed: boolean; leftCounting: boolean };

/** The machine: power, the slowest watchdog and reset that the profile allows for, control groups, and guard.json on its tmpfs. */
export class WorldHost {
  groups = new Map<number, Group>();
  /** Counting since the last pet; null: it is closed. */
  watchdog: { petAtMs: number } | null = null;
  /** Since this boot the device failed, or guard.json could not be written: then a reset may be nobody's fault. */
  hasExcuse = false;
  file: { phase: GuardMode['kind']; epoch: number | null; open: boolean } | null = null;
  boots = 0;
  offSinceMs: number | null = null;
  resetAtMs: number | null = null;
  thaws = 0;
  resets = 0;
  /** The device refuses to be closed. */
  readonly nowayout: boolean;
  private readonly around: Surroundings;
  private readonly timing: Timing;

  constructor(around: Surroundings, timing: Timing, nowayout: boolean) {
    this.around = around;
    this.timing = timing;
    this.nowayout = nowayout;
  }

  /** True: the watchdog has run out at this instant. */
  stepWatchdog(): boolean {
    const { watchdog, around, timing } = this;
    if (watchdog === null || this.resetAtMs !== null) return false;
    if (around.nowMs - watchdog.petAtMs <= timing.watchdogMs * (1 + timing.clockRatePercent / 100)) return false;
    this.resetAtMs = around.nowMs + timing.resetMs - 10;
    return true;
  }

  stepGroups(): void {
    const { nowMs } = this.around;
    for (const group of this.groups.values()) {
      if (group.freezeAtMs !== null && nowMs >= group.freezeAtMs && !this.around.is('freeze-stuck')) {
        group.frozen = true;
        group.freezeAtMs = null;
      }
      if (group.dieAtMs !== null && nowMs >= group.dieAtMs && !this.around.is('kill-stuck')) {
        group.guests = false;
        group.dieAtMs = null;
      }
    }
  }

  losePower(): void {
    this.groups.clear();
    this.watchdog = null;
    this.hasExcuse = false;
    this.resetAtMs = null;
    this.file = null;
    this.boots += 1;
    this.resets += 1;
    this.offSinceMs = this.around.nowMs;
  }

  readWatchdog(hands: Hands): WatchdogFact {
    if (hands.failed) return { kind: 'failed', problem: 'gone' };
    if (!hands.open) return { kind: 'closed', leftCounting: hands.leftCounting };
    return { kind: 'open', timeoutMs: this.timing.watchdogMs, stuckArmed: hands.stuckArmed };
  }

  readGroups(): GroupFact[] {
    return [...this.groups].map(([epoch, { frozen, guests }]) => ({ epoch, frozen, populated: guests }));
  }

  perform(hands: Hands, effect: HandEffect): void {
    switch (effect.kind) {
      case 'open-watchdog':
      case 'pet':
      case 'disarm':
        return this.performOnWatchdog(hands, effect.kind);
      case 'create-group':
        assert(hands.open, 'a group without a watchdog');
        if (!this.groups.has(effect.epoch)) {
          this.groups.set(effect.epoch, { guests: false, frozen: false, freezeAtMs: null, dieAtMs: null });
        }
        return;
      case 'freeze':
      case 'thaw':
      case 'kill':
      case 'remove-group':
        return this.performOnGroup(effect.kind, effect.epoch);
    }
  }

  private performOnWatchdog(hands: Hands, kind: 'open-watchdog' | 'pet' | 'disarm'): void {
    const { nowMs } = this.around;
    if (this.around.is('watchdog-gone')) {
      hands.failed = true;
      this.hasExcuse = true;
      return;
    }
    if (kind === 'disarm') {
      hands.failed = false;
      if (this.nowayout && hands.open) hands.stuckArmed = true;
      else {
        if (hands.open) this.watchdog = null;
        hands.open = false;
      }
      return;
    }
    assert(kind === 'open-watchdog' || hands.open, 'petted a closed watchdog');
    this.watchdog = { petAtMs: nowMs };
    if (kind === 'open-watchdog') Object.assign(hands, { open: true, failed: false, leftCounting: false });
  }

  private performOnGroup(kind: 'freeze' | 'thaw' | 'kill' | 'remove-group', epoch: number): void {
    const group = this.groups.get(epoch);
    if (group === undefined) return;
    const { nowMs } = this.around;
    if (kind === 'freeze') group.freezeAtMs ??= group.frozen ? null : nowMs + Math.floor(this.around.chance() * 60);
    if (kind === 'kill') group.dieAtMs ??= nowMs + Math.floor(this.around.chance() * 60);
    if (kind === 'remove-group' && !group.guests) this.groups.delete(epoch);
    if (kind === 'thaw') {
      this.thaws += 1;
      group.frozen = false;
      group.freezeAtMs = null;
    }
  }
}
