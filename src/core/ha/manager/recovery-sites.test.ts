import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import type { CopyFacts, GuestFacts, ManagerFacts, NodeFacts } from '#core/ha/manager/facts.ts';
import { emptyMemory, type GuestState, type ManagerMemory, type NodeState } from '#core/ha/manager/memory.ts';
import { plainFacts, plainGuest, plainNode, plainSettings } from '#core/ha/manager/round-cluster.ts';
import { planRound, type RoundPlan } from '#core/ha/manager/round.ts';
import type { Rule } from '#core/ha/manager/rules.ts';

/** Guest 1 awaits recovery since 0; its node was c, which is back, or as `c` says. */
const settings = { ...plainSettings, memoryMustFit: true, standingOrders: true };
const own: CopyFacts = { node: 'c', freshness: Infinity, dataAgeMs: 0 };
const copy = (node: string, freshness: number, dataAgeMs: number): CopyFacts => ({ node, freshness, dataAgeMs });

function waiting(c: NodeState = 'unreachable'): ManagerMemory {
  const state: GuestState = { kind: 'awaiting-recovery' };
  const entry = { state, node: 'c', orderId: 1, failedNodes: [], returnTo: null, command: null, sinceMs: 0, because: '' };
  const nodes = new Map<string, NodeState>([
    ['a', 'up'],
    ['b', 'up'],
    ['c', c],
  ]);
  return { ...emptyMemory(), nodes, guests: new Map([['1', entry]]), nextOrderId: 2 };
}

function plan(guest: Partial<GuestFacts>, c: Partial<NodeFacts> = {}, patch: Partial<ManagerFacts> = {}, memory = waiting()) {
  const nodes = [plainNode('a'), plainNode('b'), plainNode('c', c)];
  return planRound(plainFacts({ settings, nodes, guests: [plainGuest('1', 'c', guest)], ...patch }), memory);
}

function end(round: RoundPlan): [string | undefined, GuestState | undefined] {
  const entry = round.memory.guests.get('1');
  return [entry?.node, entry?.state];
}

const started: GuestState = { kind: 'active', seenRunning: false, recovered: true };
const becauseOf = (round: RoundPlan): string | undefined => round.memory.guests.get('1')?.because;

describe("a guest's own disks on its node that is back", () => {
  test('go before every copy: it starts where it was, whatever the node was taken for before', () => {
    for (const state of ['unreachable', 'fencing', 'up', 'removed'] as const) {
      const round = plan({ copies: [copy('a', 3, 10), own] }, {}, {}, waiting(state));
      assert.deepEqual(end(round), ['c', started], state);
      assert.match(becauseOf(round) ?? '', /its node is back/);
    }
  });

  test('are enough also where every copy is too old, and where its own claim fills the node', () => {
    const full = { claimed: { cores: 1, memoryBytes: 40 * 2 ** 30 } };
    const round = plan({ copies: [copy('a', 3, 90_000), own], maxDataAgeMs: 1_000, ...full });
    assert.deepEqual(end(round), ['c', started]);
  });

  test('are started from on a node that is drained; the guest leaves it once it runs, not before', () => {
    const drained = { agentMode: 'maintenance' } as const;
    const guest = { copies: [copy('a', 3, 10), own] };
    const back = plan(guest, drained);
    assert.deepEqual(end(back), ['c', started]);
    const waits = plan(guest, drained, {}, back.memory);
    assert.deepEqual(end(waits), ['c', started]);
    const results = new Map([[back.memory.guests.get('1')?.orderId ?? -1, 'ok' as const]]);
    assert.deepEqual(end(plan(guest, drained, { results }, back.memory)), ['c', { kind: 'moving-live', to: 'a' }]);
  });

  test('are left aside while the node is refused, or the rules forbid it', () => {
    assert.deepEqual(end(plan({ copies: [copy('a', 3, 10), own] }, { refusal: 'its agent is silent' })), ['a', started]);
    const rule: Rule = {
      id: 'p',
      enabled: true,
      kind: 'prefer-nodes',
      hard: true,
      guests: ['1'],
      nodes: [{ node: 'b', rank: 0 }],
    };
    const forbidden = plan({ copies: [copy('b', 3, 10), own] }, {}, { rules: [rule] });
    assert.deepEqual(end(forbidden), ['b', started]);
  });
});

describe('the wait for a fresher copy', () => {
  const guest = { copies: [copy('a', 3, 10), own], betterCopyWaitMs: 10_000 };
  const silent = { refusal: 'its agent is silent' };

  test('counts for its own disks too, as long as their node cannot serve', () => {
    assert.deepEqual(end(plan(guest, silent, { nowMs: 9_999 })), ['c', { kind: 'awaiting-recovery' }]);
    assert.deepEqual(end(plan(guest, silent, { nowMs: 10_000 })), ['a', started]);
    assert.deepEqual(end(plan(guest, {}, { nowMs: 5_000 })), ['c', started]);
  });

  test('is over when the fresher copy is on a node that the rules forbid', () => {
    const rule: Rule = {
      id: 'p',
      enabled: true,
      kind: 'prefer-nodes',
      hard: true,
      guests: ['1'],
      nodes: [{ node: 'a', rank: 0 }],
    };
    assert.deepEqual(end(plan(guest, silent, { rules: [rule] })), ['a', started]);
  });
});
