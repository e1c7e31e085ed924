import assert from 'node:assert/strict';
import { test } from 'node:test';
import { type Member, type NodeUse, planLeave, planMembership, planReplace, quorumOf, votersAtMost } from './membership.ts';

function member(name: string, options: Partial<Member> = {}): Member {
  const id = BigInt(name.charCodeAt(name.length - 1));
  return {
    id,
    name,
    peerUrls: [`https://${name}:2380`],
    clientUrls: [`https://${name}:2379`],
    isLearner: false,
    healthy: true,
    ...options,
  };
}

const idle: NodeUse = { homes: [], onlyCopyOf: [], isDrained: true, permit: 'granted' };
const three = [member('n1'), member('n2'), member('n3')];
const self = { peerUrl: 'https://n9:2380' };

test('a joining machine is added, started, promoted, one after the other', () => {
  assert.equal(planMembership(three, self, 'node').kind, 'add');
  const mine = member('n9', { name: '', isLearner: true });
  assert.equal(planMembership([...three, mine], self, 'node').kind, 'start');
  assert.equal(planMembership([...three, { ...mine, name: 'n9' }], self, 'node').kind, 'promote');
  assert.equal(planMembership([...three, { ...mine, name: 'n9', isLearner: false }], self, 'node').kind, 'done');
});

test('with enough voters a node is a client; a witness is always a member', () => {
  const many = Array.from({ length: votersAtMost }, (_, index) => member(`n${index + 1}`));
  assert.equal(planMembership(many, self, 'node').kind, 'client-only');
  assert.equal(planMembership(many, self, 'witness').kind, 'add');
});

test('a majority is more than half', () => {
  assert.deepEqual([1, 2, 3, 4, 5].map(quorumOf), [1, 2, 2, 3, 3]);
});

test('an idle, drained node may leave; what is then left is told', () => {
  const removal = planLeave('n3', three, idle);
  assert.equal(removal.kind, 'allowed');
  assert.match(removal.kind === 'allowed' ? removal.notes.join() : '', /2 members left the store stops at the next loss/);
  const four = planLeave('n4', [...three, member('n4')], idle);
  assert.deepEqual(four.kind === 'allowed' ? four.notes : null, []);
});

test('every reason against leaving is told at once', () => {
  const members = [member('n1'), member('n2', { healthy: false }), member('n3')];
  const removal = planLeave('n3', members, { ...idle, homes: [100, 101], onlyCopyOf: [102] });
  assert.equal(removal.kind, 'refused');
  const words = removal.kind === 'refused' ? removal.because.join('\n') : '';
  for (const reason of [/at home there \(100, 101\)/, /only copy of guests \(102\)/, /1 of 2 members answering: no majority/]) {
    assert.match(words, reason);
  }
  assert.equal(planLeave('n3', three, { ...idle, isDrained: false }).kind, 'refused');
  assert.equal(planLeave('n1', [member('n1')], idle).kind, 'refused', 'the last one');
});

test('only members that do not answer may pass: everything else stays until somebody acts', () => {
  const members = [member('n1'), member('n2', { healthy: false }), member('n3')];
  const mayPass = (use: NodeUse, of: Member[]) => {
    const removal = planLeave('n3', of, use);
    return removal.kind === 'refused' && removal.mayPass;
  };
  assert.equal(mayPass(idle, members), true);
  assert.equal(mayPass({ ...idle, homes: [100] }, members), false);
  assert.equal(mayPass(idle, [member('n3')]), false, 'the last one');
});

test('a learner counts for no majority', () => {
  const members = [member('n1'), member('n2', { healthy: false }), member('n3'), member('n4', { isLearner: true })];
  assert.equal(planLeave('n3', members, idle).kind, 'refused');
});

test('a node is replaced only when it is claimed, silent and without guests at home', () => {
  const dead = [member('n1'), member('n2', { healthy: false }), member('n3')];
  const claimed = { homes: [], permit: 'revoked' } as const;
  assert.equal(planReplace('n2', 'n1', dead, { ...claimed, homes: [] }).kind, 'allowed');
  const refused = (use: Pick<NodeUse, 'homes' | 'permit'>, members = dead, from = 'n1') => {
    const removal = planReplace('n2', from, members, use);
    return removal.kind === 'refused' ? removal.because.join() : 'allowed';
  };
  assert.match(refused({ homes: [], permit: 'granted' }), /its permit is not claimed/);
  assert.match(refused({ homes: [7], permit: 'revoked' }), /must be recovered first/);
  assert.match(refused({ homes: [], permit: 'revoked' }, three), /answers: it is not dead/);
  assert.match(refused({ homes: [], permit: 'revoked' }, dead, 'n2'), /this command runs on it/);
});
