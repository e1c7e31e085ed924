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
    assert.deepEqual(end(plan(moving, { orderOver: true, copies })), ['a', 'active']);
    assert.deepEqual(end(plan(moving, { orderOver: true, copies }, {}, { results: new Map([[7, 'ok']]) })), ['b', 'active']);
  });

  test('waits for its node while frozen, and gets a new order there once its agent is active', () => {
    const frozen = memoryIn({ kind: 'frozen' });
    assert.deepEqual(end(plan(frozen, { orderOver: true, copies }, { agentMode: 'restart' })), ['c', 'frozen']);
    const back = plan(frozen, { orderOver: true, copies });
    assert.deepEqual([end(back), stepKinds(back)], [['c', 'active'], []]);
  });

  test('rests when it is disabled', () => {
    assert.deepEqual(end(plan(memoryIn(active), { orderOver: true, want: 'disabled' })), ['c', 'inactive']);
  });
});

describe('a guest that its node gave up', () => {
  test('is recovered at once and not fenced, from every state in which it has a place; the reason names the node', () => {
    const states: GuestState[] = [active, { kind: 'stop-requested', timeoutMs: null }, { kind: 'frozen' }, { kind: 'inactive' }];
    for (const state of [...states, { kind: 'start-requested' } as const, { kind: 'awaiting-fence' } as const]) {
      const round = plan(memoryIn(state), { givenUp: true, copies }, { refusal: 'is about to end' });
      assert.deepEqual([end(round), stepKinds(round)], [['a', 'active'], ['rehome']], state.kind);
      const left = round.decisions.find((decision) => decision.kind === 'guest');
      assert.equal(left?.because, 'c gave it up', state.kind);
    }
  });

  test('stays where it is as long as nobody wants it to run', () => {
    assert.deepEqual(end(plan(memoryIn({ kind: 'inactive' }), { givenUp: true, want: 'stopped' })), ['c', 'inactive']);
    assert.deepEqual(end(plan(memoryIn({ kind: 'failed' }), { givenUp: true })), ['c', 'failed']);
  });

  test('in the middle of a move waits for the result of the move', () => {
    const moving = memoryIn({ kind: 'moving-live', to: 'b' });
    assert.deepEqual(end(plan(moving, { givenUp: true, copies })), ['c', 'moving-live']);
    assert.deepEqual(end(plan(moving, { givenUp: true, copies }, {}, { results: new Map([[7, 'ok']]) })), ['b', 'active']);
  });
});

describe('a node that is to be fenced and is seen again under a permit', () => {
  test('is up, and its guests have their place again, where orders stand', () => {
    const round = plan(memoryIn({ kind: 'awaiting-fence' }, 'fencing'), {});
    assert.deepEqual([end(round), round.memory.nodes.get('c'), stepKinds(round)], [['c', 'active'], 'up', []]);
  });

  test('is fenced all the same when a proof for its claim is at hand, and where agents obey fences', () => {
    const claimable = plan(memoryIn({ kind: 'awaiting-fence' }, 'fencing'), { copies }, { permit: 'claimable' });
    assert.deepEqual(stepKinds(claimable), ['claim', 'rehome']);
    const recorded = plan(memoryIn({ kind: 'awaiting-fence' }, 'fencing'), {}, {}, { settings: plainSettings });
    assert.deepEqual([end(recorded), recorded.memory.nodes.get('c')], [['c', 'awaiting-fence'], 'fencing']);
  });
});
