import assert from 'node:assert/strict';
import { test } from 'node:test';
import { type Ask, type DoorFacts, type JoinCodeRecord, planAdmission, wrongTriesAllowed } from './admission.ts';

const record: JoinCodeRecord = {
  id: 'c1',
  role: 'node',
  secretHash: 'good',
  madeBy: 'n1',
  createdAtMs: 0,
  expiresAtMs: 1_000,
  wrongTries: 0,
  used: null,
};
const ask: Ask = { role: 'node', secretHash: 'good', name: 'n2', address: '10.0.0.2', keyHash: 'k2' };
const n1 = { name: 'n1', address: '10.0.0.1', isDead: false };
const facts: DoorFacts = { nowMs: 500, taken: [n1] };
const used = { name: 'n2', address: '10.0.0.2', keyHash: 'k2', atMs: 400 };

function refusal(kept: JoinCodeRecord | null, asked: Ask, known = facts): string {
  const admission = planAdmission(kept, asked, known);
  assert.equal(admission.kind, 'refused');
  return admission.kind === 'refused' ? admission.because : '';
}

test('the first key that uses a code is written down before it gets anything', () => {
  assert.deepEqual(planAdmission(record, ask, facts), { kind: 'admitted', record: { ...record, used: { ...used, atMs: 500 } } });
});

test('asking what one would join uses nothing up', () => {
  assert.deepEqual(planAdmission(record, { ...ask, keyHash: null }, facts), { kind: 'admitted', record: null });
});

test('the same machine with the same key may come again, nobody else may', () => {
  const once = { ...record, used };
  assert.deepEqual(planAdmission(once, ask, facts), { kind: 'admitted', record: null });
  assert.deepEqual(planAdmission(once, { ...ask, keyHash: null }, facts), { kind: 'admitted', record: null });
  // Its own half-made membership is no rival to it.
  const taken = [n1, { name: 'n2', address: '10.0.0.2', isDead: false }];
  assert.equal(planAdmission(once, ask, { ...facts, taken }).kind, 'admitted');
  assert.match(refusal(once, { ...ask, keyHash: 'other' }), /used already, by n2 at 10\.0\.0\.2/);
  assert.match(refusal(once, { ...ask, name: 'n3' }), /used already/);
});

test('unknown, expired, mistyped and worn-out codes get one and the same answer', () => {
  const answers = [
    refusal(null, ask),
    refusal(record, ask, { ...facts, nowMs: 1_000 }),
    refusal(record, { ...ask, secretHash: 'bad' }),
    refusal({ ...record, wrongTries: wrongTriesAllowed }, ask),
  ];
  assert.equal(new Set(answers).size, 1);
  assert.match(answers[0]!, /make a new one on a member with: holdfast join-code/);
});

test('wrong secrets are counted until the code is worn out', () => {
  let kept = record;
  for (let count = 0; count < wrongTriesAllowed; count += 1) {
    const admission = planAdmission(kept, { ...ask, secretHash: 'bad' }, facts);
    kept = admission.record ?? kept;
  }
  assert.equal(kept.wrongTries, wrongTriesAllowed);
  assert.equal(planAdmission(kept, ask, facts).kind, 'refused');
});

test('a witness’s code lets no node in, nor the other way round', () => {
  assert.match(refusal(record, { ...ask, role: 'witness' }), /for a node, not for a witness/);
  assert.match(refusal({ ...record, role: 'witness' }, ask), /for a witness, not for a node/);
});

test('a name or an address that the cluster has is refused, a dead node’s name is free', () => {
  const dead = { name: 'n2', address: null, isDead: true };
  assert.match(refusal(record, { ...ask, name: 'n1' }), /has a n1 already/);
  assert.match(refusal(record, { ...ask, address: '10.0.0.1' }), /the address of n1/);
  assert.match(refusal(record, ask, { ...facts, taken: [n1, { ...dead, isDead: false }] }), /has a n2 already/);
  assert.equal(planAdmission(record, ask, { ...facts, taken: [n1, dead] }).kind, 'admitted');
});
