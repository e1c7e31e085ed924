import { BrokenAssumption, unreachable } from '#base/assert.ts';
import { planArming, planDisarmed } from '#core/ha/guard-disarm.ts';
import type { GuardLeft } from '#core/ha/guard-report.ts';
import { planClearing, planReleased, planReleasing } from '#core/ha/guard-release.ts';
import { planFreezing, planFrozen, planServing } from '#core/ha/guard-serve.ts';
import { planStarting } from '#core/ha/guard-start.ts';
import type { GuardFacts, GuardMode, GuardPlan, GuardState, RecordSight } from '#core/ha/guard-state.ts';
import { allFrozen, stopGroups, type GuardStep, type GuardView } from '#core/ha/guard-steps.ts';
import { foldAnswer, heldEpoch, planCall, startStoreSide, type StoreWish } from '#core/ha/guard-store.ts';
import type { GuardPhase } from '#core/ha/records.ts';
import type { Timing } from '#core/ha/timing.ts';

/** More moves than the longest way through the drawing: a step that goes round in circles is a broken assumption. */
const movesAtMost = 8;

/**
 * How a guard begins: nothing is known until the record and the cgroup were looked at, unless an earlier one of this boot ended disarmed.
 */
export function startGuard(timing: Timing, nowBootMs: number, { disarmedEpoch }: Pick<GuardLeft, 'disarmedEpoch'>): GuardState {
  const store = startStoreSide(timing, nowBootMs);
  if (disarmedEpoch !== null) {
    return { mode: { kind: 'disarmed', sinceBootMs: nowBootMs, epoch: disarmedEpoch, thawedBootMs: null }, store };
  }
  return { mode: { kind: 'starting', sinceBootMs: nowBootMs, freezeAsked: false, rival: null }, store };
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
    const { sight, lookedBootMs } = store;
    const step = planMode(mode, { facts, sight, renewed: folded.renewed, lookedBootMs, nowBootMs });
    if ('stay' in step) {
      const phase = phaseOf(step.stay, sight, facts);
      const wish = mayWrite(step.wish, phase, sight, facts) ? step.wish : ({ kind: 'look' } as const);
      const call = planCall(store, wish, phase, facts, nowBootMs);
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
    case 'disarmed':
      return planDisarmed(mode, view);
    case 'arming':
      return planArming(mode, view);
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

/**
 * Whoever reads a heartbeat that does not say `disarmed` counts on a watchdog. So none is sent over one that does before the watchdog is
 * open, nor while guard.json would make the next guard of this boot believe that nothing has to be guarded.
 */
function mayWrite(wish: StoreWish | null, phase: GuardPhase, sight: RecordSight | null, facts: GuardFacts): boolean {
  if (wish === null || wish.kind === 'look' || wish.kind === 'release' || phase === 'disarmed') return true;
  return !facts.fileSaysDisarmed && (sight?.heartbeat?.disarmed !== true || facts.watchdog.kind === 'open');
}

function phaseOf(mode: GuardMode, sight: RecordSight | null, facts: GuardFacts): GuardPhase {
  const disarm = sight !== null && sight.disarm !== null;
  const frozen = facts.groups.length > 0 && allFrozen(facts.groups);
  switch (mode.kind) {
    case 'disarmed':
      return 'disarmed';
    case 'serving':
    case 'arming':
      return disarm ? 'disarmed' : 'serving';
    case 'starting':
      // Guests that run under a permit of ours are taken up first, as on any day.
      if (disarm && heldEpoch(sight, facts.self.bootId) === null) return 'disarmed';
      return frozen ? 'frozen' : 'serving';
    case 'freezing':
    case 'frozen':
      return 'frozen';
    case 'releasing':
      return 'releasing';
    case 'clearing':
    case 'released':
    case 'doomed':
      return 'serving';
  }
}
