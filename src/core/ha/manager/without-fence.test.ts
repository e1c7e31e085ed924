import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import type { GuestFacts, ManagerFacts, NodeFacts } from '#core/ha/manager/facts.ts';
import { emptyMemory, type GuestState, type ManagerMemory, type NodeState } from '#core/ha/manager/memory.ts';
import { plainFacts, plainGuest, plainNode, plainSettings } from '#core/ha/manager/round-cluster.ts';
import { planRound, type RoundPlan } from '#core/ha/manager/round.ts';

const settings = { ...plainSettings, standingOrders: true };
const active: GuestState = { kind: 'active', seenRunning: true, recovered: false };

/** Guest 1 on node c in that state, its last order given before this round. */
function memoryIn(state: GuestState, c: NodeState = 'up'): ManagerMemory {
  const entry = { state, node: 'c', orderId: 7, failedNodes: [], returnTo: null, command: null, sinceMs: 0, because: '' };
  const nodes = new Map<string, NodeState>([
    ['a', 'up'],
    ['b', 'up'],
    ['c', c],
  ]);
  return { ...emptyMemory(), nodes, guests: new Map([['1', entry]]), nextOrderId: 8 };
}

function plan(memory: ManagerMemory, guest: Partial<GuestFacts>, c: Partial<NodeFacts> = {}, patch: Partial<ManagerFacts> = {}) {
  const nodes = [plainNode('a'), plainNode('b'), plainNode('c', c)];
  return planRound(plainFacts({ settings, nodes, guests: [plainGuest('1', 'c', guest)], ...patch }), memory);
}

function end(round: RoundPlan): [string | undefined, GuestState['kind'] | undefined] {
  const entry = round.memory.guests.get('1');
  return [entry?.node, entry?.state.kind];
}

/** The states that the guest went through. */
function path(round: RoundPlan): string[] {
  return round.decisions.flatMap((decision) => (decision.kind === 'guest' ? [decision.state.kind] : []));
}

const stepKinds = (round: RoundPlan): string[] => round.steps.map((step) => step.kind);
const copies = [{ node: 'a', freshness: 1, dataAgeMs: 0 }];

describe('a guest whose order is over', () => {
  test('is recovered without a fence of the node that came back under a new epoch', () => {
    const round = plan(memoryIn({ kind: 'awaiting-fence' }, 'fencing'), { orderOver: true, copies });
    assert.deepEqual([end(round), stepKinds(round)], [['a', 'active'], ['rehome']]);
    assert.equal(round.memory.nodes.get('c'), 'up');
  });

  test('is recovered at once when its node is claimed already, however short it is lost', () => {
    const round = plan(memoryIn(active), { orderOver: true, copies }, { present: false, lostMs: 2_000, permit: 'claimed' });
    assert.deepEqual([end(round), stepKinds(round)], [['a', 'active'], ['rehome']]);
  });

  test('is recovered although its node is lost for long and still holds a permit; that node is not set to fencing for it', () => {
    const round = plan(memoryIn(active), { orderOver: true, copies }, { present: false, lostMs: 60_000, permit: 'held' });
    assert.deepEqual(
      [end(round), path(round)],
      [
        ['a', 'active'],
        ['awaiting-recovery', 'active'],
      ],
    );
    assert.equal(round.memory.nodes.get('c'), 'unreachable');
  });

  test('does not run on after a move whose order ended without a result, and follows a result that is told', () => {
    const moving = memoryIn({ kind: 'moving-cold', to: 'b' });
    assert.deepEqual(
      end(plan(moving, { orderOver: true, givenUp: true, copies })),
      ['a', 'active'],
      'its home found its copy unfit',
    );
    const lost = { present: false, lostMs: 60_000, permit: 'held' } as const;
    assert.deepEqual(end(plan(moving, { orderOver: true, copies }, lost)), ['a', 'active']);
    assert.deepEqual(end(plan(moving, { orderOver: true, copies }, lost, { results: new Map([[7, 'ok']]) })), ['b', 'active']);
  });

  test('stays away for a while from where its copy was found unfit, though it belongs there', () => {
    const patch = { settings: { ...settings, avoidFailedMs: 3_600_000 }, nowMs: 5_000 };
    const declined = plan(memoryIn(active), { orderOver: true, givenUp: true, copies, unfitNodes: ['c'] }, {}, patch);
    assert.deepEqual(declined.memory.guests.get('1')?.avoids, { nodes: ['c'], sinceMs: 5_000 });
    assert.deepEqual(end(declined), ['a', 'active']);
  });

  test('waits for its node while frozen, and gets a new order there once its agent is active', () => {
    const frozen = memoryIn({ kind: 'frozen' });
    assert.deepEqual(end(plan(frozen, { orderOver: true, copies }, { agentMode: 'restart' })), ['c', 'frozen']);
    const back = plan(frozen, { orderOver: true, copies });
    assert.deepEqual([end(back), stepKinds(back)], [['c', 'active'], []]);
  });

  test('stays while its node serves: the order is given again there', () => {
    assert.deepEqual(end(plan(memoryIn(active), { orderOver: true, copies })), ['c', 'active']);
  });

  test('rests when it is disabled and its node is claimed', () => {
    const claimed = { present: false, lostMs: 2_000, permit: 'claimed' } as const;
    assert.deepEqual(end(plan(memoryIn(active), { orderOver: true, want: 'disabled' }, claimed)), ['c', 'inactive']);
  });
});
