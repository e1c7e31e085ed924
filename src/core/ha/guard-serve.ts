import type { GuardFacts, GuardMode, RecordSight } from '#core/ha/guard-state.ts';
import {
  allFrozen,
  describeUnfit,
  freezeGroups,
  isBack,
  limitOf,
  planHold,
  planStop,
  serveAgain,
  stopGroups,
  type GuardStep,
  type GuardView,
} from '#core/ha/guard-steps.ts';
import { heldEpoch } from '#core/ha/guard-store.ts';

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
  const end = planEnd(mode.epoch, limit, view);
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
  const lost = describeLoss(view.sight, mode.epoch, facts.self.bootId);
  if (lost !== null)
    return { move: { kind: 'clearing', sinceBootMs: nowBootMs, freezeAsked: false, stilled: false }, because: lost };
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
  const lost = describeLoss(view.sight, mode.epoch, facts.self.bootId);
  if (lost !== null)
    return { move: { kind: 'clearing', sinceBootMs: nowBootMs, freezeAsked: false, stilled: true }, because: lost };
  const end = planEnd(mode.epoch, null, view);
  if (end !== null) return end;
  if (isBack(mode.epoch, view)) return { move: serveAgain(mode.epoch, view), because: 'renewed under the same epoch' };
  return { stay: mode, effects: planHold(facts, null), wish: { kind: 'renew' } };
}

/** What ends serving or being frozen: the permit lost, the watchdog unfit, a release asked for, a clean stop. */
function planEnd(epoch: number, limitBootMs: number | null, view: GuardView): GuardStep | null {
  const { facts, nowBootMs, sight } = view;
  const lost = describeLoss(sight, epoch, facts.self.bootId);
  if (lost !== null)
    return { move: { kind: 'clearing', sinceBootMs: nowBootMs, freezeAsked: false, stilled: false }, because: lost };
  const release = { kind: 'releasing', sinceBootMs: nowBootMs, freezeAsked: false, kill: true, limitBootMs } as const;
  const unfit = describeUnfit(facts);
  if (unfit !== null) return { move: { ...release, limitBootMs: null, reason: unfit, until: 'restart' }, because: unfit };
  if (facts.releaseAsked !== null) {
    return { move: { ...release, reason: facts.releaseAsked, until: 'request-gone' }, because: `asked: ${facts.releaseAsked}` };
  }
  const ordered = sight?.release?.reason ?? null;
  if (ordered !== null) return { move: { ...release, reason: ordered, until: 'agent-back' }, because: `ordered: ${ordered}` };
  return planStop(view, limitBootMs);
}

function describeLoss(sight: RecordSight | null, epoch: number, bootId: string): string | null {
  if (sight === null || heldEpoch(sight, bootId) === epoch) return null;
  const permit = sight.permit?.value;
  if (permit === undefined) return `the permit of epoch ${epoch} is gone from the store`;
  if (permit.state === 'revoked') return `epoch ${epoch} was revoked (${permit.proof.kind})`;
  return `the permit was granted to boot ${permit.bootId} under epoch ${permit.epoch}`;
}

/** Half the watchdog's time: later than that it is about to reset the host anyway. */
function freezeBudgetMs({ watchdog, self }: GuardFacts): number {
  const timeoutMs = watchdog.kind === 'open' ? Math.min(watchdog.timeoutMs, self.timing.watchdogMs) : self.timing.watchdogMs;
  return timeoutMs / 2;
}
