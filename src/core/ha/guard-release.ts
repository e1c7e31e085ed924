import { limits } from '#base/limits.ts';
import type { GuardEffect, GuardFacts, GuardMode, ReleasedUntil } from '#core/ha/guard-state.ts';
import { allFrozen, planPet, stopGroups, type GuardStep, type GuardView } from '#core/ha/guard-steps.ts';
import { heldEpoch } from '#core/ha/guard-store.ts';

/** The permit is lost: nothing of its epoch may be left before a new one is taken. Pets only for guests confirmed still. */
export function planClearing(mode: Extract<GuardMode, { kind: 'clearing' }>, { facts, nowBootMs }: GuardView): GuardStep {
  if (facts.groups.length === 0) {
    return {
      move: { kind: 'starting', sinceBootMs: nowBootMs, freezeAsked: false, rival: null },
      because: 'every older group is killed, empty and removed',
      forget: true,
    };
  }
  const stilled = mode.stilled || (mode.freezeAsked && allFrozen(facts.groups));
  const effects = [...(stilled ? planPet(facts, null) : []), ...stopGroups(facts.groups)];
  return { stay: { ...mode, stilled, freezeAsked: true }, effects, wish: null };
}

/**
 * Gives the permit back, with guests killed first or (a clean stop) none left. The group goes before the permit: once it is gone no
 * guest can start, so the permit that is given back carries nothing.
 */
export function planReleasing(mode: Extract<GuardMode, { kind: 'releasing' }>, view: GuardView): GuardStep {
  const { facts, sight, nowBootMs } = view;
  if (!mode.kill && facts.groups.some((group) => group.populated)) {
    return {
      move: { kind: 'starting', sinceBootMs: nowBootMs, freezeAsked: false, rival: null },
      because: 'a guest was started meanwhile',
      forget: true,
    };
  }
  if (facts.groups.length > 0) {
    const still = mode.freezeAsked && allFrozen(facts.groups);
    const carried = mode.limitBootMs !== null && nowBootMs < mode.limitBootMs;
    const hold = still ? planPet(facts, null) : carried ? planPet(facts, mode.limitBootMs) : [];
    const removal = facts.groups.map(({ epoch }): GuardEffect => ({ kind: 'remove-group', epoch }));
    const effects = [...hold, ...(mode.kill ? stopGroups(facts.groups) : removal)];
    return { stay: { ...mode, freezeAsked: mode.kill }, effects, wish: null };
  }
  const done = { kind: 'released', sinceBootMs: nowBootMs, reason: mode.reason, until: mode.until } as const;
  const held = heldEpoch(sight, facts.self.bootId);
  if (sight !== null && held === null) return { move: done, because: 'no group is left and the permit is given back' };
  if (mode.until === 'exit' && nowBootMs - mode.sinceBootMs >= limits.guardStopMs) {
    return { move: done, because: 'no group is left; the store does not answer, silence will end the permit' };
  }
  return { stay: mode, effects: planPet(facts, null), wish: { kind: 'release', reason: mode.reason } };
}

/** Nothing runs and no permit is held: disarm, then wait for the reason to go away. */
export function planReleased(mode: Extract<GuardMode, { kind: 'released' }>, { facts, nowBootMs }: GuardView): GuardStep {
  if (facts.stop && mode.until !== 'exit') return { move: { ...mode, until: 'exit' }, because: 'the guard was stopped' };
  if (isOver(mode, facts)) {
    return {
      move: { kind: 'starting', sinceBootMs: nowBootMs, freezeAsked: false, rival: null },
      because: 'the reason to stay away is gone',
      forget: true,
    };
  }
  const { watchdog } = facts;
  const armed = watchdog.kind === 'open' && !watchdog.stuckArmed;
  const effects: GuardEffect[] = stopGroups(facts.groups);
  if (armed && facts.groups.length === 0) effects.push({ kind: 'disarm' });
  if (!armed && watchdog.kind === 'open') effects.push({ kind: 'pet', notAfterBootMs: null });
  if (!armed && mode.until === 'exit') effects.push({ kind: 'exit' });
  return { stay: mode, effects, wish: null };
}

function isOver(mode: { until: ReleasedUntil; sinceBootMs: number }, facts: GuardFacts): boolean {
  switch (mode.until) {
    case 'request-gone':
      return facts.releaseAsked === null;
    case 'agent-back':
      return facts.agent !== null && facts.agent.atBootMs > mode.sinceBootMs;
    case 'restart':
    case 'exit':
      return false;
  }
}
