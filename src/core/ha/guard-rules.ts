import { BrokenAssumption, unreachable } from '#base/assert.ts';
import { planClearing, planReleased, planReleasing } from '#core/ha/guard-release.ts';
import { planFreezing, planFrozen, planServing } from '#core/ha/guard-serve.ts';
import { planStarting } from '#core/ha/guard-start.ts';
import type { GuardFacts, GuardMode, GuardPlan, GuardState } from '#core/ha/guard-state.ts';
import { allFrozen, stopGroups, type GuardStep, type GuardView } from '#core/ha/guard-steps.ts';
import { foldAnswer, planCall, startStoreSide } from '#core/ha/guard-store.ts';
import type { GuardPhase } from '#core/ha/records.ts';
import type { Timing } from '#core/ha/timing.ts';

/** More moves than the longest way through the drawing: a step that goes round in circles is a broken assumption. */
const movesAtMost = 8;

/** How a guard begins, whatever it left behind: nothing is known until the record and the cgroup were looked at. */
export function startGuard(timing: Timing, nowBootMs: number): GuardState {
  return {
    mode: { kind: 'starting', sinceBootMs: nowBootMs, freezeAsked: false, rival: null },
    store: startStoreSide(timing, nowBootMs),
  };
}

/**
 * One step of the guard: from its state and the facts to the next state and the orders to carry out, in their order. `nowBootMs` is
 * read right before and compared with the limit before anything else is decided, so a guard that was paused begins by freezing.
 */
export function planGuard(state: GuardState, facts: GuardFacts, nowBootMs: number): GuardPlan {
  const folded = foldAnswer(state.store, facts, nowBootMs);
  let store = folded.store;
  let mode = state.mode;
  const because: string[] = [];
  for (let moves = 0; moves <= movesAtMost; moves += 1) {
    const step = planMode(mode, { facts, sight: store.sight, renewed: folded.renewed, nowBootMs });
    if ('stay' in step) {
      const call = planCall(store, step.wish, phaseOf(step.stay, facts), facts, nowBootMs);
      return { next: { mode: step.stay, store: call.store }, effects: [...step.effects, ...call.effects], because };
    }
    because.push(`${mode.kind} -> ${step.move.kind}: ${step.because}`);
    mode = step.move;
    if (step.forget === true) store = { ...store, sight: null };
  }
  throw new BrokenAssumption(`the guard's rules go round in circles: ${because.join('; ')}`);
}

function planMode(mode: GuardMode, view: GuardView): GuardStep {
  switch (mode.kind) {
    case 'starting':
      return planStarting(mode, view);
    case 'serving':
      return planServing(mode, view);
    case 'freezing':
      return planFreezing(mode, view);
    case 'frozen':
      return planFrozen(mode, view);
    case 'clearing':
      return planClearing(mode, view);
    case 'releasing':
      return planReleasing(mode, view);
    case 'released':
      return planReleased(mode, view);
    case 'doomed':
      // Never a pet again. The guests are lost with the host; killing them helps should the hardware fail us.
      return { stay: mode, effects: stopGroups(view.facts.groups), wish: null };
    default:
      return unreachable(mode, 'guard mode');
  }
}

function phaseOf(mode: GuardMode, facts: GuardFacts): GuardPhase {
  if (mode.kind === 'releasing') return 'releasing';
  const frozen = facts.groups.length > 0 && allFrozen(facts.groups);
  return mode.kind === 'freezing' || mode.kind === 'frozen' || (mode.kind === 'starting' && frozen) ? 'frozen' : 'serving';
}
