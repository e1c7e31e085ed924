import assert from 'node:assert/strict';
import { test } from 'node:test';
import { TestCluster } from '#core/ha/cluster-round/test-cluster.ts';
import { keys } from '#core/ha/keys.ts';
import type { HaResource } from '#core/ha/records.ts';

test('a guest that rests where its rival runs is not started there: it waits with the reason as long as that is wanted, and goes when a node is free', () => {
  const cluster = new TestCluster(['n1', 'n2']);
  cluster.addGuest(100, 'n2');
  cluster.addGuest(101, 'n2', { want: 'stopped' });
  cluster.settle();
  cluster.tell(100, 'ok');
  cluster.tell(101, 'ok');
  cluster.settle();
  cluster.put(keys.haRule('apart'), { id: 'apart', enabled: true, kind: 'keep-apart', guests: ['100', '101'] });
  cluster.silentMs.set('n1', 9_000);
  cluster.put(keys.haResource(101), { vmid: 101, want: 'started', maxDataAgeMs: null } satisfies HaResource);
  const told = cluster.settle().flatMap((step) => (step.kind === 'defer' ? [step.because] : []));
  assert.match(told.at(-1) ?? '', /n2/);
  assert.notEqual(cluster.guest(101).order?.kind, 'run');
  assert.ok(cluster.round().every((step) => step.kind !== 'commit'));
  cluster.put(keys.haResource(101), { vmid: 101, want: 'disabled', maxDataAgeMs: null } satisfies HaResource);
  cluster.settle();
  assert.deepEqual([cluster.guest(101).ha?.state.kind, cluster.guest(101).order?.kind], ['inactive', 'stop']);
  cluster.put(keys.haResource(101), { vmid: 101, want: 'started', maxDataAgeMs: null } satisfies HaResource);
  cluster.silentMs.delete('n1');
  cluster.settle();
  assert.deepEqual([cluster.guest(101).order?.kind, cluster.guest(101).order?.to], ['move', 'n1']);
});

test('a guest that rests apart from its running companion goes to it before it starts, so that nobody who runs is moved', () => {
  const cluster = new TestCluster(['n1', 'n2']);
  cluster.addGuest(100, 'n2');
  cluster.addGuest(101, 'n1', { want: 'stopped' });
  cluster.settle();
  cluster.tell(100, 'ok');
  cluster.tell(101, 'ok');
  cluster.settle();
  cluster.put(keys.haRule('together'), { id: 'together', enabled: true, kind: 'keep-together', guests: ['100', '101'] });
  const wanted: HaResource = { vmid: 101, want: 'started', maxDataAgeMs: null, failback: false };
  cluster.put(keys.haResource(101), wanted);
  cluster.settle();
  assert.deepEqual([cluster.guest(101).order?.kind, cluster.guest(101).order?.to], ['move', 'n2']);
  assert.deepEqual([cluster.guest(100).ha?.state.kind, cluster.guest(100).ha?.node], ['active', 'n2']);
});
