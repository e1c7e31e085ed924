import type { GuardEffect, GuardMode } from '#core/ha/guard-state.ts';
import type { Log } from '#programs/log.ts';

/** Everything the guard says, one function an event. */
export type GuardEvents = {
  started(fields: { bootId: string; profile: string; device: string }): void;
  moved(kind: GuardMode['kind'], epoch: number | null, because: string[]): void;
  watchdogOpened(fields: { timeoutMs: number; wantedMs: number }): void;
  effectFailed(effect: GuardEffect['kind'], err: unknown): void;
  storeFailed(call: string, problem: string, tookMs: number): void;
  storeBack(afterMs: number): void;
  /** The guard was not running for much longer than its tick: paused, swapped out, or starved. */
  lateBy(lateMs: number): void;
  /** The former guard goes on, or what is left of it stays. */
  handOverFailed(why: string): void;
  ended(how: string): void;
};

const levels = {
  starting: 'info',
  serving: 'info',
  freezing: 'warn',
  frozen: 'warn',
  disarmed: 'warn',
  arming: 'info',
  clearing: 'warn',
  releasing: 'warn',
  released: 'info',
  doomed: 'error',
} as const satisfies Record<GuardMode['kind'], string>;

/** One line a second at most for what may repeat each tick. */
const repeatMs = 1_000;

export function createGuardEvents(log: Log, bootMs: () => number): GuardEvents {
  const saidBootMs = new Map<string, number>();
  const seldom = (what: string): boolean => {
    const now = bootMs();
    if (now - (saidBootMs.get(what) ?? Number.NEGATIVE_INFINITY) < repeatMs) return false;
    saidBootMs.set(what, now);
    return true;
  };
  return {
    started: (fields) => log.info({ event: 'guard.started', ...fields }, 'the guard looks at the record and the control group'),
    moved: (kind, epoch, because) => log[levels[kind]]({ event: `guard.${kind}`, epoch }, because.join('; ')),
    watchdogOpened: (fields) => log.info({ event: 'watchdog.opened', ...fields }, 'the watchdog is armed'),
    effectFailed(effect, err) {
      if (seldom(`effect ${effect}`)) log.error({ event: 'guard.effect-failed', effect, err }, 'is tried again where it may be');
    },
    storeFailed(call, problem, tookMs) {
      if (seldom(`store ${call}`)) log.warn({ event: 'store.call-failed', call, tookMs }, problem);
    },
    storeBack: (afterMs) => log.info({ event: 'store.answered-again', afterMs }, 'the store answers'),
    lateBy: (lateMs) => log.warn({ event: 'guard.paused', lateMs }, 'the guard did not run; it looks at the clock first'),
    handOverFailed: (why) => log.warn({ event: 'guard.hand-over-failed' }, why),
    ended: (how) => log.info({ event: 'guard.ended' }, how),
  };
}
