import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import type { GuestFacts, ManagerFacts, NodeFacts } from '#core/ha/manager/facts.ts';
import { emptyMemory, type GuestState, type ManagerMemory, type NodeState } from '#core/ha/manager/memory.ts';
import { plainFacts, plainGuest, plainNode, plainSettings } from '#core/ha/manager/round-cluster.ts';
import { planRound, type RoundPlan } from '#core/ha/manager/round.ts';

/** Guest 1 starts after guest 2. Both were on c, which is lost and claimed; since 0. */
const settings = { ...plainSettings, standingOrders: true, startsAfterWaitMs: 60_000 };
const awaiting: GuestState = { kind: 'awaiting-recovery' };
const running: GuestState = { kind: 'active', seenRunning: true, recovered: false };
const lost = plainNode('c', { present: false, lostMs: 60_000, permit: 'claimed' });

function memoryOf(states: Record<string, GuestState>, nodeOf: Record<string, string> = {}): ManagerMemory {
  const entries = Object.entries(states).map(([id, state], index) => {
    const rest = { failedNodes: [], returnTo: null, command: null, sinceMs: 0, because: 'c is fenced' };
    return [id, { state, node: nodeOf[id] ?? 'c', orderId: index + 1, ...rest }] as const;
  });
  const nodes = new Map<string, NodeState>(['a', 'b', 'c'].map((name) => [name, name === 'c' ? 'unreachable' : 'up']));
  return { ...emptyMemory(), nodes, guests: new Map(entries), nextOrderId: entries.length + 1 };
}

const needs2 = plainGuest('1', 'c', { startsAfter: ['2'] });

function plan(memory: ManagerMemory, guests: GuestFacts[], patch: Partial<ManagerFacts> = {}): RoundPlan {
  const nodes: NodeFacts[] = [plainNode('a'), plainNode('b'), lost];
  return planRound(plainFacts({ settings, nodes, guests, ...patch }), memory);
}

const stateOf = (round: RoundPlan, id = '1'): GuestState | undefined => round.memory.guests.get(id)?.state;
const told = (round: RoundPlan): unknown[] =>
  round.decisions.flatMap((decision) => (decision.kind === 'starts-after' ? [[decision.guest, decision.stage]] : []));

describe('a guest that starts after another', () => {
  const both = [needs2, plainGuest('2', 'c')];

  test('waits until that is seen running, and is then recovered; its reason names it', () => {
    const first = plan(memoryOf({ '1': awaiting, '2': awaiting }), both);
    assert.deepEqual(stateOf(first), { kind: 'awaiting-recovery', waitsFor: ['2'] });
    assert.equal(first.memory.guests.get('1')?.because, 'it waits until 2 runs, 1 min at most');
    assert.equal(stateOf(first, '2')?.kind, 'active');
    const moved = [needs2, plainGuest('2', 'a')];
    const quiet = plan(first.memory, moved, { nowMs: 1_000 });
    assert.deepEqual(quiet.memory, first.memory, 'a wait changes nothing from round to round');
    const results = new Map([[first.memory.guests.get('2')?.orderId ?? -1, 'ok' as const]]);
    const seen = plan(first.memory, moved, { results, nowMs: 2_000 });
    const next = plan(seen.memory, moved, { results, nowMs: 3_000 });
    assert.deepEqual(stateOf(next), { kind: 'active', seenRunning: false, recovered: true });
  });

  test('waits before its first start too', () => {
    const guests = [plainGuest('1', 'a', { startsAfter: ['2'] }), plainGuest('2', 'a')];
    const adopted = plan(emptyMemory(), guests);
    assert.deepEqual(stateOf(adopted), { kind: 'start-requested', waitsFor: ['2'] });
    const results = new Map([[adopted.memory.guests.get('2')?.orderId ?? -1, 'ok' as const]]);
    const seen = plan(adopted.memory, guests, { results });
    assert.equal(stateOf(plan(seen.memory, guests, { results }))?.kind, 'active');
  });

  test('waits no longer than the settings say, and tells that it starts without', () => {
    const memory = memoryOf({ '1': awaiting, '2': { kind: 'awaiting-fence' } }, { '2': 'b' });
    const guests = [needs2, plainGuest('2', 'b')];
    const nodes = [plainNode('a'), plainNode('b', { present: false, lostMs: 60_000 }), lost];
    assert.deepEqual(told(plan(memory, guests, { nodes, nowMs: 59_999 })), [['1', 'waits']]);
    const over = plan(memory, guests, { nodes, nowMs: 60_000 });
    assert.deepEqual([told(over), stateOf(over)?.kind], [[['1', 'over']], 'active']);
  });

  test('waits for one that was seen running on a node that is lost since', () => {
    const memory = memoryOf({ '1': awaiting, '2': running }, { '2': 'b' });
    const nodes = [plainNode('a'), plainNode('b', { present: false, lostMs: 1_000 }), lost];
    assert.deepEqual(stateOf(plan(memory, [needs2, plainGuest('2', 'b')], { nodes })), {
      kind: 'awaiting-recovery',
      waitsFor: ['2'],
    });
  });

  test('does not wait for one that runs, or that cannot come', () => {
    const cases: [string, GuestState, Partial<GuestFacts>][] = [
      ['it runs', running, {}],
      ['it failed', { kind: 'failed' }, {}],
      ['it rests', { kind: 'inactive' }, { want: 'stopped' }],
      ['it is stopping', { kind: 'stop-requested', timeoutMs: null }, { want: 'stopped' }],
      ['it is disabled', { kind: 'inactive' }, { want: 'disabled' }],
      ['it is not managed', running, { want: 'ignored' }],
      ['no node takes it', awaiting, { copies: [] }],
    ];
    for (const [name, state, patch] of cases) {
      const round = plan(memoryOf({ '1': awaiting, '2': state }, { '2': 'a' }), [needs2, plainGuest('2', 'a', patch)]);
      assert.deepEqual([stateOf(round)?.kind, told(round)], ['active', []], name);
    }
    assert.equal(stateOf(plan(memoryOf({ '1': awaiting }), [needs2]))?.kind, 'active', 'there is no such guest');
  });

  test('waits for one that itself waits for a fresher copy', () => {
    const copies = [
      { node: 'a', freshness: 1, dataAgeMs: 5_000 },
      { node: 'c', freshness: 2, dataAgeMs: 1_000 },
    ];
    const guests = [needs2, plainGuest('2', 'c', { copies, betterCopyWaitMs: 30_000 })];
    assert.deepEqual(told(plan(memoryOf({ '1': awaiting, '2': awaiting }), guests)), [['1', 'waits']]);
  });
});

test('who would wait for each other in a circle does not wait, and is told so; others wait for them as usual', () => {
  const guests = [
    plainGuest('1', 'c', { startsAfter: ['2'] }),
    plainGuest('2', 'c', { startsAfter: ['1'] }),
    plainGuest('3', 'c', { startsAfter: ['1'] }),
  ];
  const round = plan(memoryOf({ '1': awaiting, '2': awaiting, '3': awaiting }), guests);
  assert.deepEqual(
    ['1', '2', '3'].map((id) => stateOf(round, id)?.kind),
    ['active', 'active', 'awaiting-recovery'],
  );
  assert.deepEqual(told(round).slice(0, 3), [
    ['1', 'circle'],
    ['2', 'circle'],
    ['3', 'waits'],
  ]);
});

test('a wait that is over because the other failed leaves nothing behind in the state', () => {
  const guests = [plainGuest('1', 'c', { startsAfter: ['2'], copies: [] }), plainGuest('2', 'a')];
  const waits: GuestState = { kind: 'awaiting-recovery', waitsFor: ['2'] };
  const round = plan(memoryOf({ '1': waits, '2': { kind: 'failed' } }, { '2': 'a' }), guests);
  assert.deepEqual(stateOf(round), { kind: 'awaiting-recovery' });
});
