import type { Heartbeat, ManagerRecord, Permit } from '#core/ha/records.ts';
import type { Silence } from '#core/ha/observer.ts';

/**
 * Who leads. The lead is a record changed only by compare-and-set at a takeover; it is not a lease. Its holder counts as alive
 * while its node's heartbeats advance and its agent says it is alive, so a lost leader is noticed by the same warm timers.
 * A deposed leader that does not know it yet is harmless: each of its writes compares the record's revision.
 */
export type LeadFacts = {
  self: string;
  /** The epoch under which this very process took the lead; null: it has not. */
  ownEpoch: number | null;
  record: ManagerRecord | null;
  leader: { permit: Permit | null; heartbeat: Heartbeat | null; silence: Silence } | null;
  /** Names of nodes whose heartbeats are fresh, in order; decides who tries first. */
  freshNodes: string[];
  ownSilence: Silence;
  /** How long this observer has known the record as it is: a leader just named needs a heartbeat to show its agent. */
  recordKnownMs: number;
};

export type LeadTiming = { renewMs: number; leadAgentSilentMs: number };

export type LeadDecision =
  | { kind: 'lead' }
  | { kind: 'follow'; because: string }
  | { kind: 'take'; epoch: number; because: string };

/** Pure: lead, follow, or try to take the lead now. */
export function planLead(facts: LeadFacts, timing: LeadTiming): LeadDecision {
  if (facts.ownSilence.kind !== 'counted') return { kind: 'follow', because: 'this node has no quorum of its own' };
  if (facts.record === null) return { kind: 'take', epoch: 1, because: 'nobody leads yet' };
  if (facts.record.node === facts.self) {
    if (facts.ownEpoch === facts.record.epoch) return { kind: 'lead' };
    return { kind: 'take', epoch: facts.record.epoch + 1, because: 'this node led before its agent was restarted' };
  }
  const lost = whyLost(facts, timing);
  if (lost === null) return { kind: 'follow', because: `${facts.record.node} leads` };
  return { kind: 'take', epoch: facts.record.epoch + 1, because: `the leader ${facts.record.node} ${lost}` };
}

function whyLost(facts: LeadFacts, timing: LeadTiming): string | null {
  const leader = facts.leader;
  if (leader === null || leader.heartbeat === null) return 'has no heartbeat';
  if (leader.permit?.state === 'revoked') return 'has lost its permit';
  if (leader.silence.kind !== 'counted') return null;
  // The first in order tries after four missed renewals, each further node one renewal later; compare-and-set settles the rest.
  const rank = Math.max(0, facts.freshNodes.filter((name) => name !== facts.record?.node).indexOf(facts.self));
  const patienceMs = (4 + rank) * timing.renewMs;
  if (leader.silence.silentMs > patienceMs) return `is silent for ${leader.silence.silentMs} ms`;
  const agentPatienceMs = timing.leadAgentSilentMs + rank * timing.renewMs;
  if (facts.recordKnownMs <= agentPatienceMs) return null;
  const agentSilentMs = leader.heartbeat.agentSilentMs;
  if (agentSilentMs === null) return 'has no agent';
  return agentSilentMs > agentPatienceMs ? `has an agent that is silent for ${agentSilentMs} ms` : null;
}
