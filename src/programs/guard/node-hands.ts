import { AppError, isAppError } from '#base/error.ts';
import type { GroupFact, GuardEffect, WatchdogFact } from '#core/ha/guard-state.ts';
import type { Clock } from '#ports/clock.ts';
import type { GuestCgroup } from '#ports/guest-cgroup.ts';
import type { Watchdog } from '#ports/watchdog.ts';
import type { GuardEvents } from './events.ts';
import type { StoreEffect } from './store-calls.ts';

export type HandEffect = Exclude<GuardEffect, StoreEffect | { kind: 'exit' }>;
export type OpenWatchdog = (options: { whenRefused: 'disarm' | 'keep-armed' }) => Watchdog;

/** The guard's hands on its own node: watchdog and control group. Everything here is synchronous and short. */
export type NodeHands = {
  readGroups(): GroupFact[];
  readWatchdog(): WatchdogFact;
  /** Carries out one order; trouble is logged and shows in the next facts. Does nothing from `notAfterBootMs` on. */
  perform(effect: HandEffect): void;
  /** Closes the watchdog as it is, armed or not: it is a successor's from here on. */
  leave(): void;
};

/** `device.leftCounting`: an earlier guard of this boot ended with the device open. */
export function createNodeHands(
  clock: Clock,
  cgroup: GuestCgroup,
  device: { open: OpenWatchdog; wantedMs: number; leftCounting: boolean },
  events: GuardEvents,
): NodeHands {
  let watchdog: Watchdog | null = null;
  let { leftCounting } = device;
  let fact: WatchdogFact = { kind: 'closed', leftCounting };

  function attemptWatchdog(effect: HandEffect): void {
    try {
      performWatchdog(effect);
    } catch (error) {
      if (!(error instanceof AppError)) throw error;
      events.effectFailed(effect.kind, error);
      if (effect.kind === 'disarm' && watchdog !== null && isAppError(error, 'unsupported')) {
        fact = { kind: 'open', timeoutMs: watchdog.timeoutMs, stuckArmed: true };
      } else fact = { kind: 'failed', problem: error.message };
    }
  }

  function performWatchdog(effect: HandEffect): void {
    if (effect.kind === 'pet') watchdog?.pet();
    if (effect.kind === 'open-watchdog') {
      watchdog = device.open({ whenRefused: effect.whenRefused });
      leftCounting = false;
      fact = { kind: 'open', timeoutMs: watchdog.timeoutMs, stuckArmed: false };
      events.watchdogOpened({ timeoutMs: watchdog.timeoutMs, wantedMs: device.wantedMs });
    }
    if (effect.kind === 'disarm') {
      watchdog?.disarm();
      watchdog = null;
      fact = { kind: 'closed', leftCounting };
    }
  }

  return {
    readGroups: () => cgroup.listEpochs().map((epoch) => ({ epoch, ...cgroup.readState(epoch) })),
    readWatchdog: () => fact,
    leave: () => watchdog?.leave(),
    perform(effect) {
      // The clock once more, right before the act: the guard may have been paused since it planned.
      if ('notAfterBootMs' in effect && effect.notAfterBootMs !== null && clock.bootMs() >= effect.notAfterBootMs) return;
      switch (effect.kind) {
        case 'pet':
        case 'open-watchdog':
        case 'disarm':
          return attemptWatchdog(effect);
        default:
          return attemptGroup(cgroup, effect, events);
      }
    },
  };
}

type GroupEffect = Exclude<HandEffect, { kind: 'pet' | 'open-watchdog' | 'disarm' }>;

function attemptGroup(cgroup: GuestCgroup, effect: GroupEffect, events: GuardEvents): void {
  try {
    performGroup(cgroup, effect);
  } catch (error) {
    if (!(error instanceof AppError)) throw error;
    events.effectFailed(effect.kind, error);
  }
}

function performGroup(cgroup: GuestCgroup, { kind, epoch }: GroupEffect): void {
  switch (kind) {
    case 'create-group':
      return cgroup.createEpoch(epoch);
    case 'freeze':
      return cgroup.freeze(epoch);
    case 'thaw':
      return cgroup.thaw(epoch);
    case 'kill':
      return cgroup.kill(epoch);
    case 'remove-group':
      return cgroup.remove(epoch);
  }
}
