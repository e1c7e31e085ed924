import assert from 'node:assert/strict';
import { test } from 'node:test';
import { TestCluster } from '#core/ha/cluster-round/test-cluster.ts';
import { toManagerFacts } from '#core/ha/cluster-round/to-manager.ts';
import { keys } from '#core/ha/keys.ts';
import type { HaMemory, HaSettings, NodeLoad } from '#core/ha/records.ts';

function loadedCluster(settings: HaSettings): TestCluster {
  const cluster = new TestCluster(['n1', 'n2', 'n3']);
  cluster.put(keys.haSettings, settings);
  for (const vmid of [100, 101, 102]) cluster.addGuest(vmid, 'n1');
  cluster.settle();
  for (const vmid of [100, 101, 102]) cluster.tell(vmid, 'ok');
  const guests = [100, 101, 102].map((vmid) => ({ vmid, cores: 0.9, memoryBytes: 300 * 2 ** 20 }));
  cluster.put(keys.nodeLoad('n1'), { atMs: 0, guests } satisfies NodeLoad);
  return cluster;
}

test('what a home says of a guest is its measured use; of others nothing is known', () => {
  const cluster = loadedCluster({});
  cluster.addGuest(103, 'n2');
  const measured = toManagerFacts(cluster.facts(), 0).guests.map((guest) => guest.measured);
  assert.deepEqual(measured.at(-1), null);
  assert.deepEqual(measured[0], { cores: 0.9, memoryBytes: 300 * 2 ** 20 });
});

test('by-load with rebalance on: an overloaded node hands a guest over after enough rounds that count, and rests then', () => {
  const autoRebalance = { threshold: 0.3, method: 'bruteforce', holdRounds: 3, minRelativeGain: 0.1 } as const;
  const cluster = loadedCluster({ placement: 'by-load', autoRebalance });
  cluster.settle();
  assert.equal(cluster.guest(100).order?.kind, 'run');
  cluster.balances = true;
  cluster.round();
  assert.equal(cluster.read<HaMemory>(keys.haMemory)?.value.imbalancedRounds, 1);
  const moving = () => [100, 101, 102].filter((vmid) => cluster.guest(vmid).order?.kind === 'move');
  for (let round = 0; round < 4 && moving().length === 0; round += 1) cluster.round();
  assert.equal(moving().length, 1);
});
