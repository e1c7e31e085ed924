import assert from 'node:assert/strict';
import { test } from 'node:test';
import { type LeadFacts, planLead } from '#core/ha/lead.ts';
import type { Heartbeat } from '#core/ha/records.ts';

const timing = { renewMs: 1000, leadAgentSilentMs: 5000 };
const heartbeat: Heartbeat = { seq: 1, epoch: 1, bootId: 'b', phase: 'serving', agentSilentMs: 100, load: null, sentAtMs: 0 };

const facts = (change: Partial<LeadFacts> = {}): LeadFacts => ({
  self: 'n2',
  ownEpoch: null,
  record: { node: 'n1', epoch: 3, sinceAtMs: 0 },
  leader: {
    permit: { state: 'granted', epoch: 1, bootId: 'b', claimMs: 15_000, grantedAtMs: 0 },
    heartbeat,
    silence: { kind: 'counted', silentMs: 500 },
  },
  freshNodes: ['n2', 'n3'],
  ownSilence: { kind: 'counted', silentMs: 100 },
  recordKnownMs: 60_000,
  ...change,
});

test('a live leader is followed', () => assert.equal(planLead(facts(), timing).kind, 'follow'));

test('nobody without quorum takes the lead', () => {
  assert.equal(planLead(facts({ record: null, ownSilence: { kind: 'own-gap', gapMs: 9000 } }), timing).kind, 'follow');
});

test('the lead is taken under the next epoch when the leader’s heartbeats stop', () => {
  const lost = facts({ leader: { permit: null, heartbeat, silence: { kind: 'counted', silentMs: 4001 } } });
  assert.deepEqual({ ...planLead(lost, timing), because: '' }, { kind: 'take', epoch: 4, because: '' });
  // the next in order waits one renewal longer
  assert.equal(planLead({ ...lost, self: 'n3' }, timing).kind, 'follow');
});

test('a leader whose agent died is replaced although its guard renews', () => {
  const silent = { ...heartbeat, agentSilentMs: 5001 };
  const dead = facts({ leader: { permit: null, heartbeat: silent, silence: { kind: 'counted', silentMs: 200 } } });
  assert.equal(planLead(dead, timing).kind, 'take');
});

test('an agent that was restarted takes its own node’s lead again under a new epoch', () => {
  const restarted = facts({ self: 'n1', ownEpoch: null });
  assert.deepEqual({ ...planLead(restarted, timing), because: '' }, { kind: 'take', epoch: 4, because: '' });
  assert.equal(planLead(facts({ self: 'n1', ownEpoch: 3 }), timing).kind, 'lead');
});

test('a leader just named is given time to show its agent in a heartbeat', () => {
  const leader = {
    permit: null,
    heartbeat: { ...heartbeat, agentSilentMs: null },
    silence: { kind: 'counted', silentMs: 200 } as const,
  };
  assert.equal(planLead(facts({ leader, recordKnownMs: 3000 }), timing).kind, 'follow');
  assert.equal(planLead(facts({ leader, recordKnownMs: 5001 }), timing).kind, 'take');
});
