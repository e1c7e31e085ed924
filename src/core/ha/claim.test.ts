import assert from 'node:assert/strict';
import { test } from 'node:test';
import {
  type ClaimDecision,
  type NodeClaimFacts,
  noEvidence,
  planClaim,
  type PowerEvidence,
  suspectAfterMs,
} from '#core/ha/claim.ts';

const timing = { renewMs: 1000, softMs: 6000, claimMs: 15_000 };
const lastSightBootMs = 100_000;

function decide(silentMs: number, evidence: PowerEvidence | null, change: Partial<NodeClaimFacts> = {}): ClaimDecision {
  const facts: NodeClaimFacts = {
    name: 'n2',
    permit: { state: 'granted', epoch: 4, bootId: 'b', claimMs: 15_000, grantedAtMs: 0 },
    heartbeat: { seq: 7, epoch: 4, bootId: 'b', phase: 'serving', agentSilentMs: 0, load: null, sentAtMs: 0 },
    silence: { kind: 'counted', silentMs },
    lastSightBootMs,
    controller: evidence === null ? null : { name: 'bmc', evidence },
    ...change,
  };
  return planClaim(facts, timing, 500, 'n1', lastSightBootMs + silentMs);
}

const read = (power: 'on' | 'off', afterMs: number) => ({
  power,
  askedAtBootMs: lastSightBootMs + afterMs,
  answeredAtBootMs: lastSightBootMs + afterMs + 100,
});

test('without a controller only the whole silence deadline is proof', () => {
  assert.equal(decide(suspectAfterMs(timing) - 1, null).kind, 'none');
  assert.equal(decide(14_999, null).kind, 'wait');
  const claim = decide(15_000, null);
  assert.equal(claim.kind, 'claim');
  if (claim.kind === 'claim') {
    assert.deepEqual(claim.proof, { kind: 'silence', heartbeatSeq: 7, silentMs: 15_000, claimMs: 15_000, observer: 'n1' });
  }
});

test('an observer without quorum never claims, however long the silence', () => {
  assert.equal(decide(60_000, null, { silence: { kind: 'own-gap', gapMs: 60_000 } }).kind, 'wait');
  assert.equal(decide(60_000, null, { silence: { kind: 'never-seen' } }).kind, 'wait');
});

test('a permit that is revoked already is not claimed twice', () => {
  const permit = {
    state: 'revoked',
    epoch: 5,
    revokedEpoch: 4,
    proof: { kind: 'released', reason: 'x' },
    managerEpoch: 1,
    revokedAtMs: 0,
  } as const;
  assert.equal(decide(60_000, null, { permit }).kind, 'none');
});

test('a suspected node’s controller is read; two off answers far enough apart are proof', () => {
  assert.deepEqual({ ...decide(3000, noEvidence), because: '' }, { kind: 'ask', action: 'read', because: '' });
  const one = decide(4000, { ...noEvidence, reads: [read('off', 3000)] });
  assert.deepEqual({ ...one, because: '' }, { kind: 'ask', action: 'read', because: '' });
  const near = decide(4000, { ...noEvidence, reads: [read('off', 3000), read('off', 3200)] });
  assert.notEqual(near.kind, 'claim');
  const far = decide(5000, { ...noEvidence, reads: [read('off', 3000), read('off', 3700)] });
  assert.equal(far.kind, 'claim');
  if (far.kind === 'claim') assert.equal(far.proof.kind, 'power-off');
});

test('answers from before the last sight prove nothing', () => {
  const old = decide(5000, { ...noEvidence, reads: [read('off', -5000), read('off', -4000)] });
  assert.deepEqual({ ...old, because: '' }, { kind: 'ask', action: 'read', because: '' });
});

test('an on between two offs breaks the proof', () => {
  const broken = decide(6000, { ...noEvidence, reads: [read('off', 3000), read('on', 4000), read('off', 5000)] });
  assert.notEqual(broken.kind, 'claim');
});

test('power is cut only past the soft limit, once, and never without having read on', () => {
  assert.equal((decide(6999, { ...noEvidence, reads: [read('on', 6000)] }) as { action: string }).action, 'read');
  const cut = decide(7000, { ...noEvidence, reads: [read('on', 6000)] });
  assert.deepEqual({ ...cut, because: '' }, { kind: 'ask', action: 'off', because: '' });
  const again = decide(8000, { ...noEvidence, reads: [read('on', 6000)], offAskedAtBootMs: lastSightBootMs + 7000 });
  assert.deepEqual({ ...again, because: '' }, { kind: 'ask', action: 'read', because: '' });
});

test('a controller that hangs does not hold up the silence deadline', () => {
  assert.equal(decide(9000, { ...noEvidence, busy: true }).kind, 'wait');
  assert.equal(decide(15_000, { ...noEvidence, busy: true }).kind, 'claim');
});

test('a node whose own profile is slower is not claimed by the manager’s quicker one', () => {
  const permit = { state: 'granted', epoch: 4, bootId: 'b', claimMs: 28_000, grantedAtMs: 0 } as const;
  assert.equal(decide(27_999, null, { permit }).kind, 'wait');
  assert.equal(decide(28_000, null, { permit }).kind, 'claim');
});

test('the silence of a disarmed node proves nothing; its controller is read, may prove it off, and is never asked to cut it', () => {
  const disarmed = {
    heartbeat: { seq: 7, epoch: 4, bootId: 'b', phase: 'disarmed', agentSilentMs: 0, load: null, sentAtMs: 0 },
  } as const;
  const alone = decide(10_000_000, null, disarmed);
  assert(alone.kind === 'wait');
  assert.match(alone.because, /disarmed: its guests may run on, silence proves nothing; waiting for its return/);
  assert.equal(decide(10_000_000, { ...noEvidence, busy: true }, disarmed).kind, 'wait');
  const on = decide(20_000, { ...noEvidence, reads: [read('on', 6_000)] }, disarmed);
  assert.deepEqual({ ...on, because: '' }, { kind: 'ask', action: 'read', because: '' });
  const off = decide(5_000, { ...noEvidence, reads: [read('off', 3_000), read('off', 3_700)] }, disarmed);
  assert(off.kind === 'claim' && off.proof.kind === 'power-off');
});
