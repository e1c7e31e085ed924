import { assert } from '#base/assert.ts';
import type { GuardEffect, StoreAnswer } from '#core/ha/guard-state.ts';
import { readSight } from '#core/ha/guard-store.ts';
import type { Surroundings } from '#core/ha/guard-world-faults.ts';

export type StoreEffect = Extract<GuardEffect, { kind: 'look' | 'commit' }>;
type Caller = { answer: StoreAnswer | null };
type Call = {
  effect: StoreEffect;
  applyAtMs: number;
  answerAtMs: number;
  lost: boolean;
  result: StoreAnswer | null;
  caller: Caller;
};

const never = Number.POSITIVE_INFINITY;

/** The store as one node's guard meets it: answers are late or lost, and what was given up may take effect much later. */
export class WorldStore {
  revision = 1n;
  readonly record = new Map<string, { key: string; value: string; modRevision: bigint }>();
  private calls: Call[] = [];
  private readonly around: Surroundings;
  private readonly node: string;

  constructor(node: string, around: Surroundings) {
    this.node = node;
    this.around = around;
  }

  step(): void {
    const { nowMs } = this.around;
    for (const call of this.calls) {
      if (nowMs >= call.applyAtMs) {
        call.applyAtMs = never;
        call.result = this.apply(call.effect);
      }
      if (nowMs >= call.answerAtMs) {
        call.answerAtMs = never;
        call.caller.answer = call.lost || call.result === null ? { kind: 'failed', problem: 'no answer' } : call.result;
      }
    }
    this.calls = this.calls.filter((call) => Math.min(call.applyAtMs, call.answerAtMs) < never);
  }

  send(caller: Caller, effect: StoreEffect): void {
    const { around } = this;
    assert(!this.calls.some((call) => call.caller === caller && call.answerAtMs < never), 'two calls in flight');
    const commitLost = effect.kind === 'commit' && around.is('commits-lost');
    const lost = commitLost || around.is('store-down') || (around.is('answers-lost') && around.chance() < 0.7);
    // A call whose answer is lost may take effect at once, much later, or never.
    const isNever = commitLost || (lost && around.chance() < 0.4);
    const answerInMs = Math.min(effect.deadlineMs, (around.is('store-slow') ? 600 : 20) * around.chance());
    this.calls.push({
      effect,
      applyAtMs: isNever ? never : around.nowMs + around.chance() * (lost ? 4_000 : answerInMs),
      answerAtMs: around.nowMs + (lost ? effect.deadlineMs : answerInMs),
      lost,
      result: null,
      caller,
    });
  }

  write(writes: { key: string; value: string | null }[]): void {
    this.revision += 1n;
    for (const { key, value } of writes) {
      if (value === null) this.record.delete(key);
      else this.record.set(key, { key, value, modRevision: this.revision });
    }
  }

  read<T>(key: string): T | null {
    const entry = this.record.get(key);
    return entry === undefined ? null : (JSON.parse(entry.value) as T);
  }

  private apply(effect: StoreEffect): StoreAnswer {
    if (effect.kind === 'look') return { kind: 'sight', sight: readSight(this.node, [...this.record.values()]) };
    const holds = effect.compares.every(({ key, modRevision }) => (this.record.get(key)?.modRevision ?? 0n) === modRevision);
    if (!holds) return { kind: 'conflict' };
    this.write(effect.writes);
    return { kind: 'committed', revision: this.revision };
  }
}
