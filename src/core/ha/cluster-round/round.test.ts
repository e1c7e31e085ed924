import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { limits } from '#base/limits.ts';
import type { GuestRecord } from '#core/guest/guest-record.ts';
import type { ClusterStep } from '#core/ha/cluster-round/steps.ts';
import { defers, lose, running, stateOf } from '#core/ha/cluster-round/running-cluster.ts';
import { TestCluster } from '#core/ha/cluster-round/test-cluster.ts';
import { keys, prefixes } from '#core/ha/keys.ts';
import type { HaCommand, HaMemory, HaResource, NodeInfo, Permit } from '#core/ha/records.ts';

const abouts = (steps: ClusterStep[]): string[] => steps.map((step) => (step.kind === 'commit' ? step.about.kind : step.kind));

describe('a quiet cluster', () => {
  test('a new guest is adopted and ordered to run on its home under the present epoch', () => {
    const cluster = running();
    const { order, home, generation } = cluster.guest(100);
    assert.deepEqual([home, generation, order?.kind, order?.nodeEpoch], ['n1', 1, 'run', 1]);
    assert.equal(stateOf(cluster), 'active');
  });

  test('valid orders that went well are left alone: nothing is written', () => {
    assert.deepEqual(running().round(), []);
  });

  test('the order numbers of guests count even when the memory is lost', () => {
    const cluster = running();
    const before = cluster.guest(100).order?.id ?? 0;
    cluster.put(keys.haMemory, null);
    cluster.addGuest(101, 'n2');
    cluster.settle();
    assert.ok((cluster.guest(101).order?.id ?? 0) > before);
  });
});

describe('a lost node', () => {
  test('is claimed first; its guests move only after the claim stands', () => {
    const cluster = running();
    lose(cluster, 'n1');
    const first = cluster.round();
    assert.equal(abouts(first)[0], 'claim');
    assert.equal(cluster.guest(100).home, 'n1');
    cluster.settle();
    const { home, generation, order } = cluster.guest(100);
    assert.deepEqual([home, generation], ['n3', 2]);
    assert.deepEqual(order?.promote, { generation: 1, seq: 8 });
    assert.deepEqual([order?.kind, order?.nodeEpoch], ['run', 1]);
  });

  test('the order compares the permits of both nodes, the record and the wish', () => {
    const cluster = running();
    lose(cluster, 'n1');
    const steps = cluster.settle();
    const order = steps.findLast((step) => step.kind === 'commit' && step.about.kind === 'guest');
    assert.ok(order?.kind === 'commit');
    const compared = order.compares.map((entry) => entry.key);
    for (const key of [keys.guest(100), keys.haResource(100), keys.nodePermit('n1'), keys.nodePermit('n3')])
      assert.ok(compared.includes(key), `${key} is compared`);
  });

  test('a node that is only late loses nothing', () => {
    const cluster = running();
    lose(cluster, 'n1', 9_000);
    cluster.settle();
    assert.equal(cluster.read<Permit>(keys.nodePermit('n1'))?.value.state, 'granted');
    assert.equal(cluster.guest(100).home, 'n1');
  });

  test('a disabled guest is not recovered, a stopped one is recovered and not started', () => {
    const disabled = running({ want: 'disabled' });
    disabled.tell(100, 'ok');
    lose(disabled, 'n1');
    disabled.settle();
    assert.equal(disabled.guest(100).home, 'n1');
    const stopped = running({ want: 'stopped' });
    stopped.tell(100, 'ok');
    stopped.settle();
    lose(stopped, 'n1');
    stopped.settle();
    assert.deepEqual([stopped.guest(100).home, stopped.guest(100).order?.kind], ['n3', 'stop']);
    assert.deepEqual(stopped.guest(100).order?.promote, { generation: 1, seq: 8 });
  });

  test('an ignored guest is none of the manager’s business', () => {
    const cluster = running({ want: 'ignored' });
    lose(cluster, 'n1');
    cluster.settle();
    assert.equal(cluster.guest(100).ha, undefined);
    assert.equal(cluster.guest(100).home, 'n1');
  });

  test('without a copy that may be used the guest waits, with every node’s reason, and goes as soon as one appears', () => {
    const cluster = running({ maxDataAgeMs: 1_000 });
    lose(cluster, 'n1');
    const steps = cluster.settle();
    assert.match(defers(steps).at(-1) ?? '', /n2: its copy is \d+ ms old, the limit is 1000 ms; n3/);
    assert.equal(stateOf(cluster), 'awaiting-recovery');
    cluster.put(keys.haResource(100), { vmid: 100, want: 'started', maxDataAgeMs: null } satisfies HaResource);
    cluster.settle();
    assert.equal(cluster.guest(100).home, 'n3');
  });

  test('it comes back under a new epoch before anybody took its guest: the guest runs on from its own disks', () => {
    const cluster = running();
    cluster.grant('n1', 3);
    cluster.settle();
    const { home, generation, order } = cluster.guest(100);
    assert.deepEqual([home, generation, order?.nodeEpoch, order?.promote], ['n1', 1, 3, null]);
  });

  test('it comes back while its guest awaits a place: its own disks are the freshest copy', () => {
    const cluster = running({ maxDataAgeMs: 1_000 });
    lose(cluster, 'n1');
    cluster.settle();
    cluster.grant('n1', 3);
    const info = cluster.read<NodeInfo>(keys.nodeInfo('n1'));
    cluster.put(keys.nodeInfo('n1'), { ...info?.value, primaryCopies: [{ vmid: 100, generation: 1 }] });
    cluster.settle();
    const { home, generation, order } = cluster.guest(100);
    assert.deepEqual([home, generation, order?.kind, order?.nodeEpoch, order?.promote], ['n1', 1, 'run', 3, null]);
  });

  test('a home whose agent does not answer gets no order under its new epoch yet', () => {
    const cluster = running();
    cluster.grant('n1', 3);
    cluster.beat('n1', { agentSilentMs: 30_000 });
    const steps = cluster.settle();
    assert.match(defers(steps).at(-1) ?? '', /its home n1 has an agent that does not answer/);
    assert.equal(cluster.guest(100).order?.nodeEpoch, 1);
  });

  test('an agent silent for a minute: its guard is asked to give the guests up, once', () => {
    const cluster = running();
    cluster.beat('n1', { agentSilentMs: 61_000 });
    cluster.settle();
    assert.ok(cluster.read(keys.nodeRelease('n1')) !== null);
    assert.equal(cluster.guest(100).home, 'n1');
  });
});

describe('a move', () => {
  function moving(): TestCluster {
    const cluster = running();
    cluster.command({ kind: 'move', guest: '100', live: false, to: 'n3' });
    cluster.settle();
    return cluster;
  }

  function giveUp(cluster: TestCluster): void {
    const record = cluster.guest(100);
    const givenUp: GuestRecord['givenUp'] = {
      node: 'n1',
      orderId: record.order?.id ?? null,
      point: { generation: 1, seq: 20 },
      copiedTo: ['n3'],
      atMs: cluster.nowMs,
      because: 'handed over',
    };
    cluster.put(keys.guest(100), { ...record, order: null, givenUp });
  }

  test('the home is ordered to hand the guest over, and the command is answered with the same commit', () => {
    const cluster = moving();
    const { order } = cluster.guest(100);
    assert.deepEqual([order?.kind, order?.to], ['move', 'n3']);
    assert.equal(cluster.list<HaCommand>(prefixes.haCommands)[0]?.value.state, 'accepted');
  });

  test('what was given up starts at the point that the target confirmed, though the target has not said so yet', () => {
    const cluster = moving();
    giveUp(cluster);
    cluster.settle();
    const { home, generation, order, givenUp } = cluster.guest(100);
    assert.deepEqual([home, generation, order?.kind], ['n3', 2, 'run']);
    assert.deepEqual(order?.promote, { generation: 1, seq: 20 });
    assert.equal(givenUp, undefined);
  });

  test('a target that is lost meanwhile: the old home runs it again', () => {
    const cluster = moving();
    giveUp(cluster);
    lose(cluster, 'n3');
    cluster.settle();
    const { home, generation, order } = cluster.guest(100);
    assert.deepEqual([home, generation, order?.kind], ['n1', 1, 'run']);
  });

  test('a target whose copy is unfit: the guest goes back to the node that handed it over, for that one still holds all of it', () => {
    const cluster = moving();
    cluster.addCopy(100, 'n1', 20);
    giveUp(cluster);
    cluster.settle();
    const there = cluster.guest(100);
    const declined = [{ node: 'n3', point: { generation: 1, seq: 20 }, lostAtMs: null, because: 'it does not verify' }];
    cluster.put(keys.guest(100), { ...there, order: null, declined });
    cluster.settle();
    const { home, generation, order } = cluster.guest(100);
    assert.deepEqual([home, generation, order?.kind, order?.promote], ['n1', 3, 'run', { generation: 1, seq: 20 }]);
    const onN3 = { id: 'r', enabled: true, guests: ['100'], kind: 'prefer-nodes', hard: true, nodes: [{ node: 'n3', rank: 0 }] };
    cluster.put(keys.haRule('r'), onN3);
    cluster.tell(100, 'ok');
    cluster.settle();
    assert.equal(stateOf(cluster), 'active', 'no rule takes it to that copy again');
    cluster.command({ kind: 'move', guest: '100', live: false, to: 'n3' });
    cluster.settle();
    assert.equal(stateOf(cluster), 'moving-cold', 'an operator does');
  });

  test('a failed move: it stays where it is, under a new order', () => {
    const cluster = moving();
    const moveId = cluster.guest(100).order?.id;
    cluster.tell(100, 'failed');
    cluster.settle();
    const { home, order } = cluster.guest(100);
    assert.deepEqual([home, order?.kind], ['n1', 'run']);
    assert.notEqual(order?.id, moveId);
  });

  test('the source is lost after it gave the guest up: the target takes it without waiting for the claim', () => {
    const cluster = moving();
    giveUp(cluster);
    lose(cluster, 'n1', 5_000);
    cluster.settle();
    assert.equal(cluster.guest(100).home, 'n3');
  });

  test('a node that a hard rule forbids is refused by name, and nothing moves', () => {
    const cluster = running();
    const nodes = [{ node: 'n1', rank: 1 }];
    cluster.put(keys.haRule('pin'), { id: 'pin', enabled: true, kind: 'prefer-nodes', hard: true, guests: ['100'], nodes });
    const id = cluster.command({ kind: 'move', guest: '100', live: false, to: 'n3' });
    cluster.settle();
    assert.match(cluster.read<HaCommand>(keys.haCommand(id))?.value.because ?? '', /its rule forbids n3/);
    assert.equal(cluster.guest(100).order?.kind, 'run');
  });

  test('a command that cannot be is refused with the reason, and nothing else is written', () => {
    const cluster = running();
    const id = cluster.command({ kind: 'move', guest: '100', live: false, to: 'n9' });
    cluster.settle();
    const answer = cluster.read<HaCommand>(keys.haCommand(id))?.value;
    assert.equal(answer?.state, 'refused');
    assert.match(answer.because, /n9 is not up/);
    assert.equal(cluster.guest(100).order?.kind, 'run');
  });
});

describe('stops, starts, failures', () => {
  test('a wish to stop becomes an order to stop, and back', () => {
    const cluster = running();
    cluster.put(keys.haResource(100), { vmid: 100, want: 'stopped', maxDataAgeMs: null } satisfies HaResource);
    cluster.settle();
    assert.equal(cluster.guest(100).order?.kind, 'stop');
    cluster.tell(100, 'ok');
    cluster.settle();
    assert.equal(stateOf(cluster), 'inactive');
    cluster.put(keys.haResource(100), { vmid: 100, want: 'started', maxDataAgeMs: null } satisfies HaResource);
    cluster.settle();
    assert.equal(cluster.guest(100).order?.kind, 'run');
  });

  test('an answer stays until it is read, whatever the clocks say; of those that nobody reads the newest stay', () => {
    const cluster = running();
    const first = cluster.command({ kind: 'move', guest: '100', live: false, to: 'n9' });
    cluster.round();
    cluster.nowMs += 3_600_000;
    cluster.settle();
    assert.equal(cluster.read<HaCommand>(keys.haCommand(first))?.value.state, 'refused');
    for (let count = 0; count < limits.commandAnswersKept; count += 1) cluster.command({ kind: 'arm' });
    cluster.settle();
    assert.equal(cluster.read(keys.haCommand(first)), null);
    assert.equal(cluster.list(prefixes.haCommands).length, limits.commandAnswersKept);
  });

  test('the stop command changes the wish in the same commit', () => {
    const cluster = running();
    cluster.command({ kind: 'stop', guest: '100', timeoutMs: 0 });
    cluster.settle();
    assert.equal(cluster.read<HaResource>(keys.haResource(100))?.value.want, 'stopped');
    assert.deepEqual([cluster.guest(100).order?.kind, cluster.guest(100).order?.timeoutMs], ['stop', 0]);
  });

  test('a start that failed goes to another node, then is given up: neither started nor stopped', () => {
    const cluster = running({ otherNodeTries: 0 });
    cluster.tell(100, 'failed');
    cluster.settle();
    assert.equal(stateOf(cluster), 'failed');
    assert.equal(cluster.guest(100).order?.kind, 'hold');
    assert.deepEqual(cluster.round(), []);
  });
});

describe('drain and disarm', () => {
  test('a drained node’s guests leave, and come back when it is undrained', () => {
    const cluster = running();
    cluster.command({ kind: 'drain', node: 'n1' });
    cluster.settle();
    assert.equal(cluster.guest(100).order?.kind, 'move');
    assert.deepEqual(cluster.read<HaMemory>(keys.haMemory)?.value.drains, ['n1']);
    assert.equal(cluster.guest(100).ha?.returnTo, 'n1');
  });

  test('the silent agent of a disarmed node costs no guest; armed, its guard is asked to give them up', () => {
    const cluster = running();
    cluster.command({ kind: 'disarm', mode: 'hands-off' });
    cluster.settle();
    cluster.beat('n1', { phase: 'disarmed', agentSilentMs: 600_000 });
    cluster.settle();
    assert.equal(cluster.read(keys.nodeRelease('n1')), null);
    cluster.command({ kind: 'arm' });
    cluster.settle();
    assert.ok(cluster.read(keys.nodeRelease('n1')) !== null);
  });

  test('disarmed: guards are told once nothing is under way, nobody is claimed; armed: the keys go', () => {
    const cluster = running();
    cluster.command({ kind: 'disarm', mode: 'hold' });
    cluster.settle();
    for (const node of ['n1', 'n2', 'n3']) assert.ok(cluster.read(keys.nodeDisarm(node)) !== null);
    for (const node of ['n1', 'n2', 'n3']) cluster.beat(node, { phase: 'disarmed' });
    cluster.settle();
    assert.equal(cluster.read<HaMemory>(keys.haMemory)?.value.disarm?.stage, 'complete');
    assert.equal(stateOf(cluster), 'frozen');
    lose(cluster, 'n1', 60_000);
    cluster.settle();
    assert.equal(cluster.read<Permit>(keys.nodePermit('n1'))?.value.state, 'granted');
    cluster.command({ kind: 'arm' });
    cluster.settle();
    for (const node of ['n1', 'n2', 'n3']) assert.equal(cluster.read(keys.nodeDisarm(node)), null);
  });
});
