import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import type { GuestRecord } from '#core/guest/guest-record.ts';
import { defers, lose, running, stateOf } from '#core/ha/cluster-round/running-cluster.ts';
import { toManagerFacts } from '#core/ha/cluster-round/to-manager.ts';
import { keys } from '#core/ha/keys.ts';
import type { HaResource, NodeInfo } from '#core/ha/records.ts';

test('a guest may be moved onto a copy that is newer than the one that was found unfit there', () => {
  const cluster = running();
  const declined = [{ node: 'n3', point: { generation: 1, seq: 8 }, lostAtMs: cluster.nowMs, because: 'does not verify' }];
  cluster.put(keys.guest(100), { ...cluster.guest(100), declined } satisfies GuestRecord);
  const unfit = () => toManagerFacts(cluster.facts(), cluster.nowMs).guests.find(({ id }) => id === '100')?.unfitNodes;
  assert.deepEqual(unfit(), ['n3']);
  cluster.put(keys.replica(100, 'n3'), null);
  assert.deepEqual(unfit(), ['n3']);
  cluster.addCopy(100, 'n3', 9);
  assert.deepEqual(unfit(), []);
});

describe('copies', () => {
  test('a copy that was declined is not used again until a newer point lies there', () => {
    const cluster = running();
    lose(cluster, 'n1');
    cluster.settle();
    const record = cluster.guest(100);
    const declined = [{ node: 'n3', point: { generation: 1, seq: 8 }, lostAtMs: cluster.nowMs, because: 'does not verify' }];
    cluster.put(keys.guest(100), { ...record, order: null, declined } satisfies GuestRecord);
    cluster.settle();
    assert.deepEqual([cluster.guest(100).home, cluster.guest(100).generation], ['n2', 3]);
    assert.deepEqual(cluster.guest(100).order?.promote, { generation: 1, seq: 7 });
  });

  test('a home that declined the guest gets no order for it, whatever people want in between', () => {
    const cluster = running();
    lose(cluster, 'n1');
    cluster.settle();
    cluster.put(keys.replica(100, 'n2'), null);
    const declined = [{ node: 'n3', point: { generation: 1, seq: 8 }, lostAtMs: cluster.nowMs, because: 'does not verify' }];
    cluster.put(keys.guest(100), { ...cluster.guest(100), order: null, declined } satisfies GuestRecord);
    for (const want of ['disabled', 'started', 'ignored', 'stopped', 'started'] as const) {
      cluster.put(keys.haResource(100), { vmid: 100, want, maxDataAgeMs: null } satisfies HaResource);
      cluster.settle();
      assert.equal(cluster.guest(100).order, null, want);
    }
    assert.equal(cluster.guest(100).ha?.state.kind, 'awaiting-recovery');
    cluster.addCopy(100, 'n2', 5);
    cluster.settle();
    assert.deepEqual([cluster.guest(100).home, cluster.guest(100).order?.kind], ['n2', 'run']);
  });

  test('a home that declined the guest, and boots anew, is not waited for: it holds no disks of it', () => {
    const cluster = running();
    lose(cluster, 'n1');
    cluster.settle();
    cluster.put(keys.replica(100, 'n2'), null);
    const declined = [{ node: 'n3', point: { generation: 1, seq: 8 }, lostAtMs: cluster.nowMs, because: 'does not verify' }];
    cluster.put(keys.guest(100), { ...cluster.guest(100), order: null, declined } satisfies GuestRecord);
    const info = cluster.read<NodeInfo>(keys.nodeInfo('n3'));
    cluster.grant('n3', 5);
    cluster.put(keys.nodeInfo('n3'), info?.value);
    const told = defers(cluster.settle());
    assert.ok(told.length > 0 && told.every((because) => !because.includes('waits for the fresher copy')), told.join('; '));
    assert.deepEqual([stateOf(cluster), cluster.guest(100).order], ['awaiting-recovery', null]);
  });

  test('a home that was lost before it promoted its copy, and comes back with the only one, finishes the promotion', () => {
    const cluster = running();
    cluster.put(keys.replica(100, 'n2'), null);
    lose(cluster, 'n1');
    cluster.settle();
    assert.equal(cluster.guest(100).home, 'n3');
    lose(cluster, 'n3');
    cluster.settle();
    assert.equal(stateOf(cluster), 'awaiting-recovery');
    cluster.grant('n3', 3);
    cluster.settle();
    const { home, generation, order } = cluster.guest(100);
    assert.deepEqual([home, generation, order?.kind, order?.nodeEpoch], ['n3', 2, 'run', 3]);
    assert.deepEqual(order?.promote, { generation: 1, seq: 8 });
  });

  test('a newer generation is fresher than any point of an older one', () => {
    const cluster = running();
    cluster.addCopy(100, 'n2', 1, 60_000, 2);
    lose(cluster, 'n1');
    cluster.settle();
    assert.equal(cluster.guest(100).home, 'n2');
  });

  test('a node without room is passed over with both figures', () => {
    const cluster = running();
    cluster.addGuest(101, 'n3', {}, 3_900);
    lose(cluster, 'n1');
    cluster.settle();
    assert.equal(cluster.guest(100).home, 'n2');
    assert.match(cluster.guest(100).ha?.because ?? '', /n3: \d+ MiB of memory free, 512 MiB needed/);
  });
});
