import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { ClusterStep } from '#core/ha/cluster-round/steps.ts';
import { TestCluster } from '#core/ha/cluster-round/test-cluster.ts';
import { keys } from '#core/ha/keys.ts';
import type { AgentRecord, NodeInfo, Permit } from '#core/ha/records.ts';

/** What people find in the timeline of guests that wait. */
const defers = (steps: ClusterStep[]): string[] => steps.flatMap((step) => (step.kind === 'defer' ? [step.because] : []));
const events = (steps: ClusterStep[]): string[] =>
  steps.flatMap((step) => (step.kind === 'commit' ? step.events.map((event) => event.text) : []));

test('a guest that a drain waits for is told of, with what every other node lacks', () => {
  const cluster = new TestCluster(['n1', 'n2', 'n3']);
  for (const [vmid, node] of [
    [100, 'n1'],
    [101, 'n2'],
    [102, 'n3'],
  ] as const)
    cluster.addGuest(vmid, node, {}, 3_072);
  cluster.settle();
  for (const vmid of [100, 101, 102]) cluster.tell(vmid, 'ok');
  cluster.settle();
  cluster.command({ kind: 'drain', node: 'n1' });
  const steps = cluster.settle();
  assert.equal(defers(steps).at(-1), 'n2: 1 GiB of memory free, 3 GiB needed; n3: 1 GiB of memory free, 3 GiB needed');
  assert.equal(cluster.guest(100).order?.kind, 'run');
});

test('a guest that starts after another says so in its record; guests in a circle start, and that is told', () => {
  const cluster = new TestCluster(['n1', 'n2', 'n3']);
  cluster.addGuest(100, 'n1', { startsAfter: [101] });
  cluster.addGuest(101, 'n1');
  cluster.settle();
  assert.deepEqual(cluster.guest(100).ha?.state, { kind: 'start-requested', waitsFor: ['101'] });
  assert.equal(cluster.guest(100).order, null);
  cluster.tell(101, 'ok');
  cluster.settle();
  assert.equal(cluster.guest(100).order?.kind, 'run');

  const circle = new TestCluster(['n1', 'n2', 'n3']);
  circle.addGuest(100, 'n1', { startsAfter: [101] });
  circle.addGuest(101, 'n1', { startsAfter: [100] });
  const told = events(circle.settle()).filter((text) => text.includes('circle'));
  assert.deepEqual(told, [
    'guest 100: 100, 101 start after each other in a circle; they do not wait for one another',
    'guest 101: 100, 101 start after each other in a circle; they do not wait for one another',
  ]);
});

test('a node that hands its guests over at its end is ordered to run them under its new epoch; where they wait for it or are moved it is not', () => {
  for (const [mode, kind, epoch] of [
    ['shutdown', 'run', 2],
    ['restart', 'run', 1],
    ['maintenance', 'move', 2],
  ] as const) {
    const cluster = new TestCluster(['n1', 'n2', 'n3']);
    cluster.addGuest(100, 'n1');
    cluster.settle();
    cluster.tell(100, 'ok');
    cluster.settle();
    // Its guard ended and came back; the machine did not boot, and is still to end.
    const info = cluster.read<NodeInfo>(keys.nodeInfo('n1'))!.value;
    const permit: Permit = { state: 'granted', epoch: 2, bootId: info.bootId, claimMs: 15_000, grantedAtMs: 0 };
    cluster.put(keys.nodePermit('n1'), permit);
    cluster.beat('n1', { epoch: 2 });
    cluster.put(keys.nodeAgent('n1'), { mode, bootId: info.bootId, because: 'power-off', atMs: 0 } satisfies AgentRecord);
    cluster.settle();
    const { order } = cluster.guest(100);
    assert.deepEqual([order?.kind, order?.nodeEpoch], [kind, epoch], mode);
  }
});
