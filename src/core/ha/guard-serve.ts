import { planLetGo } from '#core/ha/guard-disarm.ts';
import type { GuardFacts, GuardMode } from '#core/ha/guard-state.ts';
import {
  allFrozen,
  freezeGroups,
  isBack,
  limitOf,
  planHold,
  planLoss,
  planReleaseAsked,
  planStop,
  planUnfit,
  serveAgain,
  stopGroups,
  type GuardStep,
  type GuardView,
} from '#core/ha/guard-steps.ts';

export function planServing(mode: Extract<GuardMode, { kind: 'serving' }>, view: GuardView): GuardStep {
  const { facts, renewed, nowBootMs } = view;
  const sent = renewed?.epoch === mode.epoch ? Math.max(mode.renewedBootMs, renewed.sentBootMs) : mode.renewedBootMs;
  const limit = limitOf(sent, facts.self.timing);
  if (nowBootMs >= limit) {
    return {
      move: { kind: 'freezing', sinceBootMs: nowBootMs, freezeAsked: false, epoch: mode.epoch },
      because: `no renewal sent in the last ${nowBootMs - sent} ms was acknowledged`,
    };
  }
  const end = planLetGo(mode.epoch, mode.thawedBootMs, view) ?? planEnd(mode.epoch, limit, view);
  if (end !== null) return end;
  const thaw = facts.groups.some((group) => group.epoch === mode.epoch && group.frozen);
  const stay = { ...mode, renewedBootMs: sent, thawedBootMs: thaw ? nowBootMs : mode.thawedBootMs };
  const effects = planHold(facts, limit);
  if (facts.handOver && facts.watchdog.kind === 'open') return { stay, effects: [...effects, { kind: 'exit' }], wish: null };
  if (thaw) effects.push({ kind: 'thaw', epoch: mode.epoch, notAfterBootMs: limit });
  const missing = !facts.groups.some((group) => group.epoch === mode.epoch);
  if (missing && facts.watchdog.kind === 'open') effects.push({ kind: 'create-group', epoch: mode.epoch, notAfterBootMs: limit });
  effects.push(...stopGroups(facts.groups.filter((group) => group.epoch !== mode.epoch)));
  return { stay, effects, wish: { kind: 'renew' } };
}

export function planFreezing(mode: Extract<GuardMode, { kind: 'freezing' }>, view: GuardView): GuardStep {
  const { facts, nowBootMs } = view;
  const lost = planLoss(mode.epoch, view);
  if (lost !== null) return lost;
  if (isBack(mode.epoch, view)) return { move: serveAgain(mode.epoch, view), because: 'renewed under the same epoch' };
  if (mode.freezeAsked && allFrozen(facts.groups)) {
    return {
      move: { kind: 'frozen', sinceBootMs: nowBootMs, epoch: mode.epoch },
      because: 'the kernel confirms the guests frozen',
    };
  }
  const waitedMs = nowBootMs - mode.sinceBootMs;
  if (waitedMs >= freezeBudgetMs(facts)) {
    return {
      move: { kind: 'doomed', sinceBootMs: nowBootMs },
      because: `the guests are not confirmed frozen after ${waitedMs} ms`,
    };
  }
  return { stay: { ...mode, freezeAsked: true }, effects: freezeGroups(facts.groups), wish: { kind: 'renew' } };
}

export function planFrozen(mode: Extract<GuardMode, { kind: 'frozen' }>, view: GuardView): GuardStep {
  const { facts, nowBootMs } = view;
  if (!allFrozen(facts.groups)) {
    return {
      move: { kind: 'freezing', sinceBootMs: nowBootMs, freezeAsked: false, epoch: mode.epoch },
      because: 'the guests are no longer confirmed frozen',
    };
  }
  const lost = planLoss(mode.epoch, view, { stilled: true });
  if (lost !== null) return lost;
  const end = planEnd(mode.epoch, null, view);
  if (end !== null) return end;
  if (isBack(mode.epoch, view)) return { move: serveAgain(mode.epoch, view), because: 'renewed under the same epoch' };
  return { stay: mode, effects: planHold(facts, null), wish: { kind: 'renew' } };
}

/** What ends serving or being frozen: the permit lost, the watchdog unfit, a release asked for, a clean stop. */
function planEnd(epoch: number, limitBootMs: number | null, view: GuardView): GuardStep | null {
  return planLoss(epoch, view) ?? planUnfit(view) ?? planReleaseAsked(view, limitBootMs) ?? planStop(view, limitBootMs);
}

/** Half the watchdog's time: later than that it is about to reset the host anyway. */
function freezeBudgetMs({ watchdog, self }: GuardFacts): number {
  const timeoutMs = watchdog.kind === 'open' ? Math.min(watchdog.timeoutMs, self.timing.watchdogMs) : self.timing.watchdogMs;
  return timeoutMs / 2;
}
