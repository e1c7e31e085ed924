import { type AgentState, countActiveWork } from '#core/ha/manager/agent-state.ts';
import type { AgentMode } from '#core/ha/manager/facts.ts';
import type { ManagerMemory } from '#core/ha/manager/memory.ts';

/**
 * One round of an agent, in two halves with its work between them: first what it does about its permit, then, once the work is done,
 * whether it may let go.
 *
 *   mode ──> permit ──> work ──> let go, end
 */
export type AgentFacts = {
  self: string;
  quorate: boolean;
  storeReadable: boolean;
  /** The permit could be won or renewed now. */
  permitFree: boolean;
  /** What the manager wrote last, as far as this agent can read it. */
  manager: ManagerMemory;
};

export type PermitPlan = {
  next: AgentState;
  /** `hold`: win or renew it, then open or pet the watchdog. `keep`: touch neither. `release`: close the watchdog, give it back. */
  permit: 'hold' | 'keep' | 'release';
  /** What it works on in this round. */
  work: 'orders' | 'stop-all' | 'none';
  because: string;
};

/** First half. Nothing is lost when the caller dies after any step of it. */
export function planAgentPermit(state: AgentState, facts: AgentFacts): PermitPlan {
  const current = { ...state, mode: chooseMode(state, facts) };
  switch (current.phase) {
    case 'idle':
      return whenIdle(current, facts);
    case 'serving':
    case 'draining':
      return whenServing(current, facts);
    case 'lease-lost':
      return mayRenew(facts)
        ? hold(current, 'serving', facts, 'its permit is renewed again')
        : { next: current, permit: 'keep', work: 'none', because: 'it has no permit' };
  }
}

/** What was asked of this node itself goes before what the manager says of it. */
function chooseMode(state: AgentState, facts: AgentFacts): AgentMode {
  if (state.end !== null) return state.end.mode;
  if (!facts.storeReadable) return state.mode;
  if (facts.manager.drains.has(facts.self)) return 'maintenance';
  return isDisarmed(facts) ? 'disarm' : 'active';
}

function isDisarmed({ manager }: AgentFacts): boolean {
  return manager.disarm !== null && manager.disarm.stage !== 'waiting';
}

/** A fence request is never argued with. */
function mayRenew(facts: AgentFacts): boolean {
  return facts.quorate && facts.permitFree && facts.manager.nodes.get(facts.self) !== 'fencing';
}

function whenIdle(state: AgentState, facts: AgentFacts): PermitPlan {
  const idle = (because: string): PermitPlan => ({ next: state, permit: 'keep', work: 'none', because });
  if (state.end !== null) return idle('it ends');
  if (isDisarmed(facts)) return idle('disarmed');
  if (!facts.storeReadable) return idle('it cannot read its orders');
  if (countActiveWork(facts.manager, facts.self) === 0) return idle('there is no work for it');
  if (!mayRenew(facts)) return idle('its permit cannot be won now');
  return hold(state, 'serving', facts, 'there is work for it');
}

function whenServing(state: AgentState, facts: AgentFacts): PermitPlan {
  if (state.armed && !mayRenew(facts)) {
    const because = facts.manager.nodes.get(facts.self) === 'fencing' ? 'its fence was asked for' : 'its renewal failed';
    return { next: { ...state, phase: 'lease-lost' }, permit: 'keep', work: 'none', because };
  }
  if (state.mode === 'maintenance') return whenDraining(state, facts);
  if (!state.armed)
    return { next: { ...state, phase: 'idle' }, permit: 'keep', work: 'none', because: 'it is no longer drained' };
  // Orders are carried out at once, so none is in hand when a round begins.
  if (state.mode === 'disarm')
    return { next: { ...state, phase: 'idle', armed: false }, permit: 'release', work: 'none', because: 'disarmed' };
  return hold(state, 'serving', facts, 'its permit is renewed');
}

function whenDraining(state: AgentState, facts: AgentFacts): PermitPlan {
  const next: AgentState = { ...state, phase: 'draining' };
  if (state.armed) return hold(next, 'draining', facts, 'it drains');
  const mayWork = countActiveWork(facts.manager, facts.self) > 0 && mayRenew(facts);
  return mayWork
    ? hold(next, 'draining', facts, 'there is work to drain')
    : { next, permit: 'keep', work: 'none', because: 'it is drained' };
}

function hold(state: AgentState, phase: 'serving' | 'draining', facts: AgentFacts, because: string): PermitPlan {
  const stopsNow = state.end?.stopsGuests === true && state.stops !== 'done';
  const work = stopsNow ? 'stop-all' : facts.storeReadable && (state.end === null || phase === 'draining') ? 'orders' : 'none';
  return { next: { ...state, phase, armed: true }, permit: 'hold', work, because };
}

export type EndOfRound = { next: AgentState; letsGo: boolean; exits: boolean; because: string };

/** Second half, after the work. `letsGo`: close the watchdog and give the permit back. `exits`: the process ends. */
export function planAgentEnd(state: AgentState, facts: AgentFacts, runningHere: number): EndOfRound {
  const stay = (because: string): EndOfRound => ({ next: state, letsGo: false, exits: false, because });
  const go = (because: string): EndOfRound => ({
    next: { ...state, armed: false },
    letsGo: state.armed,
    exits: state.end !== null,
    because,
  });
  const idleHere = countActiveWork(facts.manager, facts.self) === 0;
  switch (state.phase) {
    case 'idle':
      return state.end === null ? stay('it waits for work') : go('it ends, holding nothing');
    case 'draining':
      return idleHere ? go('nothing is left to drain') : stay('it drains');
    case 'lease-lost':
      return state.end !== null && runningHere === 0 ? go('it ends; nothing runs here') : stay('it waits for its permit');
    case 'serving':
      if (state.end === null) return stay('it serves');
      if (state.end.stopsGuests && state.stops !== 'done') return stay('its guests are not all stopped');
      if (state.mode === 'restart' && !idleHere) return stay('its guests are not frozen yet');
      return go(state.end.because);
  }
}
