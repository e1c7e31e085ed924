import assert from 'node:assert/strict';
import { test } from 'node:test';
import { planClusterRound } from '#core/ha/cluster-round/round.ts';
import { TestCluster } from '#core/ha/cluster-round/test-cluster.ts';
import { keys } from '#core/ha/keys.ts';
import type { HaMemory } from '#core/ha/records.ts';

/** n1 is claimed and serves again under a new epoch, so often; the manager's view of the claim may be gone before its next round. */
function flap(times: number): TestCluster {
  const cluster = new TestCluster(['n1', 'n2', 'n3']);
  cluster.put(keys.haSettings, { quarantineAfter: 3 });
  cluster.settle();
  for (let epoch = 3; epoch < 3 + 2 * times; epoch += 2) {
    cluster.nowMs += 60_000;
    cluster.silentMs.set('n1', 15_000);
    cluster.round();
    cluster.grant('n1', epoch);
    cluster.settle();
  }
  return cluster;
}

const flapsOf = (cluster: TestCluster): HaMemory['flaps'] | undefined => cluster.read<HaMemory>(keys.haMemory)?.value.flaps;

test('each claim of a node is noted once in the record, and too many quarantine it until an operator releases it', () => {
  const twice = flap(2);
  assert.deepEqual([flapsOf(twice)?.['n1']?.claimedAtMs.length, flapsOf(twice)?.['n1']?.quarantined], [2, false]);
  const thrice = flap(3);
  assert.equal(flapsOf(thrice)?.['n1']?.quarantined, true);
  thrice.command({ kind: 'release-quarantine', node: 'n1' });
  thrice.settle();
  assert.equal(flapsOf(thrice)?.['n1']?.quarantined, false);
});

test('a claim whose permit stays revoked is noted once, whatever rounds follow', () => {
  const cluster = flap(1);
  cluster.nowMs += 60_000;
  cluster.silentMs.set('n1', 15_000);
  cluster.settle();
  cluster.nowMs += 60_000;
  cluster.addGuest(100, 'n2');
  cluster.settle();
  assert.equal(flapsOf(cluster)?.['n1']?.claimedAtMs.length, 2);
});

test('a claim that is only planned is not noted: the node may be back before it is written, and its next claim ends the same epoch', () => {
  const cluster = flap(0);
  cluster.nowMs += 60_000;
  cluster.silentMs.set('n1', 15_000);
  const { steps, round } = planClusterRound(cluster.facts(), cluster.nowMs, cluster.nowMs);
  assert.ok(steps.some((step) => step.kind === 'commit' && step.about.kind === 'claim'));
  assert.equal(round.memory.flaps.get('n1'), undefined);
});

test('a permit that the node gave back by itself is no claim', () => {
  const cluster = flap(0);
  const proof = { kind: 'released', reason: 'it ends' } as const;
  const permit = { state: 'revoked', epoch: 2, revokedEpoch: 1, proof, managerEpoch: 1, revokedAtMs: cluster.nowMs } as const;
  cluster.put(keys.nodePermit('n1'), permit);
  cluster.settle();
  assert.deepEqual(flapsOf(cluster), {});
});
