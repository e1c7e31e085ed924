import { AppError, isAppError } from '#base/error.ts';
import { limits } from '#base/limits.ts';
import { describeGuard, type GuardLeft } from '#core/ha/guard-report.ts';
import { planGuard, startGuard } from '#core/ha/guard-rules.ts';
import type { GuardFacts, GuardState, StoreAnswer } from '#core/ha/guard-state.ts';
import { limitOf } from '#core/ha/guard-steps.ts';
import type { Timing } from '#core/ha/timing.ts';
import type { Clock } from '#ports/clock.ts';
import { followAgentAlive, followReleaseRequest, writeGuardState } from '#programs/local-state.ts';
import type { GuardEvents } from './events.ts';
import type { NodeHands } from './node-hands.ts';
import type { StoreEffect } from './store-calls.ts';

export type GuardParts = {
  self: { node: string; bootId: string; timing: Timing };
  run: string;
  device: string;
  left: GuardLeft;
  clock: Clock;
  hands: NodeHands;
  callStore: (effect: StoreEffect) => Promise<StoreAnswer>;
  events: GuardEvents;
};

/** What the process was told by signals; `ring` wakes the loop. */
export type GuardOrders = { stop: boolean; handOver: boolean; ring: () => void };

/** Between two looks while something is to be confirmed in milliseconds. */
const shortTickMs = 20;
/** A step this much later than wanted is worth a line. */
const lateMs = 300;

type Loop = {
  state: GuardState;
  answer: StoreAnswer | null;
  trouble: { problem: string; sinceBootMs: number } | null;
  because: string;
  /** guard.json as it stands. */
  written: { text: string; saysDisarmed: boolean };
  readAgent: ReturnType<typeof followAgentAlive>;
  readRelease: ReturnType<typeof followReleaseRequest>;
};

/**
 * Runs the guard until its rules say exit. One synchronous step a tick: facts, clock, plan, orders. Calls of the store run beside it
 * and only ring. A step that fails pets nothing; the next one tries again, and the hardware judges.
 */
export async function runGuard(parts: GuardParts, orders: GuardOrders): Promise<void> {
  const { clock, events, left } = parts;
  const loop: Loop = {
    state: startGuard(parts.self.timing, clock.bootMs(), left),
    answer: null,
    trouble: null,
    because: 'the guard started',
    written: { text: '', saysDisarmed: left.disarmedEpoch !== null },
    readAgent: followAgentAlive(parts.run),
    readRelease: followReleaseRequest(parts.run),
  };
  for (;;) {
    const end = attemptStep(parts, orders, loop);
    if (end) return;
    const waitMs = nextWaitMs(loop.state, parts.self.timing, clock.bootMs());
    const before = clock.bootMs();
    if (waitMs > 0) await waitForBell(orders, waitMs);
    const late = clock.bootMs() - before - waitMs;
    if (late > lateMs) events.lateBy(late);
  }
}

function attemptStep(parts: GuardParts, orders: GuardOrders, loop: Loop): boolean {
  try {
    return stepGuard(parts, orders, loop);
  } catch (error) {
    if (!(error instanceof AppError)) throw error;
    parts.events.effectFailed('look', error);
    return false;
  }
}

/** One round. True: the guard has nothing more to do. */
function stepGuard(parts: GuardParts, orders: GuardOrders, loop: Loop): boolean {
  const facts = readFacts(parts, orders, loop);
  const nowBootMs = parts.clock.bootMs();
  const plan = planGuard(loop.state, facts, nowBootMs);
  noteAnswer(parts, loop, nowBootMs);
  loop.answer = null;
  loop.state = plan.next;
  let end = false;
  for (const effect of plan.effects) {
    if (effect.kind === 'exit') end = true;
    else if (effect.kind === 'look' || effect.kind === 'commit') sendCall(parts, orders, loop, effect);
    else parts.hands.perform(effect);
  }
  if (plan.because.length > 0) {
    loop.because = plan.because.at(-1) ?? '';
    const { mode } = plan.next;
    parts.events.moved(mode.kind, 'epoch' in mode ? mode.epoch : null, plan.because);
  }
  report(parts, loop, facts, nowBootMs);
  if (end) parts.events.ended(loop.because);
  return end;
}

function readFacts(parts: GuardParts, orders: GuardOrders, loop: Loop): GuardFacts {
  return {
    self: parts.self,
    wallMs: parts.clock.wallMs(),
    answer: loop.answer,
    groups: parts.hands.readGroups(),
    watchdog: parts.hands.readWatchdog(),
    agent: readLocal(parts, loop.readAgent),
    releaseAsked: readLocal(parts, loop.readRelease)?.reason ?? null,
    stop: orders.stop,
    handOver: orders.handOver,
    fileSaysDisarmed: loop.written.saysDisarmed,
  };
}

/** A file that cannot be understood is as good as none: it must not keep the guard from its work. */
function readLocal<T>(parts: GuardParts, read: () => T | null): T | null {
  try {
    return read();
  } catch (error) {
    if (!isAppError(error)) throw error;
    parts.events.effectFailed('look', error);
    return null;
  }
}

function sendCall(parts: GuardParts, orders: GuardOrders, loop: Loop, effect: StoreEffect): void {
  const deliver = (answer: StoreAnswer): void => {
    loop.answer = answer;
    orders.ring();
  };
  // What is not expected trouble is a broken assumption: it must end the process, not vanish with the promise.
  parts.callStore(effect).then(deliver, (error: unknown) => {
    setImmediate(() => {
      throw error;
    });
  });
}

function noteAnswer(parts: GuardParts, loop: Loop, nowBootMs: number): void {
  const { answer, state, trouble } = loop;
  if (answer === null) return;
  if (answer.kind === 'failed') {
    const { pending } = state.store;
    parts.events.storeFailed(pending?.kind ?? 'look', answer.problem, nowBootMs - (pending?.sentBootMs ?? nowBootMs));
    loop.trouble = { problem: answer.problem, sinceBootMs: trouble?.sinceBootMs ?? nowBootMs };
  } else if (trouble !== null) {
    parts.events.storeBack(nowBootMs - trouble.sinceBootMs);
    loop.trouble = null;
  }
}

function report(parts: GuardParts, loop: Loop, facts: GuardFacts, nowBootMs: number): void {
  const described = describeGuard(loop.state, facts, loop.trouble?.problem ?? null, nowBootMs);
  const watchdog = parts.hands.readWatchdog();
  const state = {
    bootId: parts.self.bootId,
    pid: process.pid,
    ...described,
    because: loop.because,
    watchdog: {
      device: parts.device,
      timeoutMs: watchdog.kind === 'open' ? watchdog.timeoutMs : null,
      wantedMs: parts.self.timing.watchdogMs,
    },
  };
  const text = JSON.stringify(state);
  if (text === loop.written.text) return;
  writeGuardState(parts.run, state);
  loop.written = { text, saysDisarmed: state.phase === 'disarmed' };
}

/** Serving: no longer than to the limit, so that the freeze is on time. 0: look again at once. */
function nextWaitMs({ mode }: GuardState, timing: Timing, nowBootMs: number): number {
  switch (mode.kind) {
    case 'serving':
      return Math.min(limits.guardTickMs, Math.max(0, limitOf(mode.renewedBootMs, timing) - nowBootMs));
    case 'freezing':
    case 'arming':
    case 'clearing':
    case 'releasing':
      return shortTickMs;
    default:
      return limits.guardTickMs;
  }
}

function waitForBell(orders: GuardOrders, waitMs: number): Promise<void> {
  const { promise, resolve } = Promise.withResolvers<void>();
  const timer = setTimeout(resolve, waitMs);
  orders.ring = resolve;
  return promise.finally(() => {
    clearTimeout(timer);
    orders.ring = () => {};
  });
}
