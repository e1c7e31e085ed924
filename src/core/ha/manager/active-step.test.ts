import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import type { ManagerFacts, NodeFacts, OrderResult } from '#core/ha/manager/facts.ts';
import { emptyMemory, type GuestEntry, type ManagerMemory } from '#core/ha/manager/memory.ts';
import { plainFacts, plainGuest, plainNode, plainSettings } from '#core/ha/manager/round-cluster.ts';
import { planRound } from '#core/ha/manager/round.ts';
import type { Rule } from '#core/ha/manager/rules.ts';

const guests = [plainGuest('1', 'c')];

function entryIn(memory: ManagerMemory, id = '1'): GuestEntry {
  const entry = memory.guests.get(id);
  assert.ok(entry !== undefined, `guest ${id} is not managed`);
  return entry;
}

/** The memory after a round in which the order of guest 1 ended so. */
function after(memory: ManagerMemory, result: OrderResult, patch: Partial<ManagerFacts> = {}): ManagerMemory {
  const results = new Map([[entryIn(memory).orderId, result]]);
  return planRound(plainFacts({ guests, results, ...patch }), memory).memory;
}

describe('an order that stands', () => {
  const settings = { ...plainSettings, standingOrders: true };
  const ordered = planRound(plainFacts({ guests, settings }), emptyMemory()).memory;

  test('is not given again once it went well: a quiet round changes nothing', () => {
    for (const result of ['ok', 'skipped'] as const) {
      const running = after(ordered, result, { settings });
      assert.equal(entryIn(running).orderId, entryIn(ordered).orderId, result);
      const quiet = after(running, result, { settings });
      assert.deepEqual(quiet, running, result);
    }
  });

  test('is replaced when it failed and the guest stays: the try counts under a new number', () => {
    const alone = {
      settings,
      nodes: plainFacts().nodes.map((node) => ({ ...node, refusal: node.name === 'c' ? null : 'is full' })),
    };
    const failed = after(ordered, 'failed', alone);
    assert.deepEqual(entryIn(failed).failedNodes, ['c']);
    assert.notEqual(entryIn(failed).orderId, entryIn(ordered).orderId);
  });

  test('may end again: a guest that ran and cannot be started any more is tried elsewhere', () => {
    const running = after(ordered, 'ok', { settings });
    assert.equal(entryIn(after(running, 'failed', { settings })).state.kind, 'moving-live');
  });
});

test('an order that is carried out once is given again after each good end', () => {
  const ordered = planRound(plainFacts({ guests }), emptyMemory()).memory;
  assert.notEqual(entryIn(after(ordered, 'ok')).orderId, entryIn(ordered).orderId);
});

describe('a guest that is to start where its rules forbid it', () => {
  const both = [plainGuest('1', 'c'), plainGuest('2', 'c')];
  const apart: Rule = { id: 'r', enabled: true, guests: ['1', '2'], kind: 'keep-apart' };
  const onlyA: Rule = {
    id: 'r',
    enabled: true,
    guests: ['1'],
    kind: 'prefer-nodes',
    hard: true,
    nodes: [{ node: 'a', rank: 0 }],
  };
  const onlyC = plainFacts().nodes.map((node) => ({ ...node, present: node.name === 'c' }));
  const first = planRound(plainFacts({ guests: [plainGuest('2', 'c')] }), emptyMemory()).memory;

  test('does not start while no other node will do, and the reason is told', () => {
    for (const rule of [apart, onlyA]) {
      const round = planRound(plainFacts({ guests: both, rules: [rule], nodes: onlyC, self: 'c' }), first);
      assert.equal(entryIn(round.memory).state.kind, 'start-requested');
      const told = round.decisions.flatMap((decision) => (decision.kind === 'cannot-start' ? [decision.because] : []));
      assert.deepEqual([...new Set(told)], ['c: the rules forbid it']);
    }
  });

  test('goes elsewhere first, without running there', () => {
    const round = planRound(plainFacts({ guests: both, rules: [onlyA] }), first);
    assert.deepEqual(entryIn(round.memory).state, { kind: 'moving-live', to: 'a' });
    const parted = planRound(plainFacts({ guests: both, rules: [apart] }), first);
    assert.equal(entryIn(parted.memory).state.kind, 'moving-live');
  });

  test('is not ordered to run there while its node is not reached, nor when that node is back from a boot', () => {
    const settings = { ...plainSettings, standingOrders: true, refusesForbiddenMoves: true };
    const nodesWith = (patch: Partial<NodeFacts>) =>
      plainFacts().nodes.map((node) => ({ ...node, ...(node.name === 'c' ? patch : { refusal: 'is full' }) }));
    const facts = (patch: Partial<NodeFacts>, want: 'started' | 'stopped' = 'started') =>
      plainFacts({
        guests: [{ ...plainGuest('1', 'c'), want }, plainGuest('2', 'c')],
        rules: [apart],
        settings,
        nodes: nodesWith(patch),
      });
    const atRest = planRound(facts({}, 'stopped'), first).memory;
    const stopped = planRound({ ...facts({}, 'stopped'), results: new Map([[entryIn(atRest).orderId, 'ok']]) }, atRest).memory;
    assert.equal(entryIn(stopped).state.kind, 'inactive');
    const away = planRound(facts({ present: false, lostMs: 1_000 }), stopped);
    assert.equal(entryIn(away.memory).state.kind, 'start-requested');
    const told = away.decisions.flatMap((decision) => (decision.kind === 'cannot-start' ? [decision.because] : []));
    assert.deepEqual([...new Set(told)], ['c is not reached, and the rules forbid it']);
    // Lost for long, both await the fence; one of them has the node when it is back.
    const fencing = planRound(facts({ present: false, lostMs: 60_000, watchdogOpen: false, permit: 'held' }), away.memory).memory;
    assert.deepEqual([entryIn(fencing).state.kind, entryIn(fencing, '2').state.kind], ['awaiting-fence', 'awaiting-fence']);
    const kindsWith = (orderOver: boolean) => {
      const now = facts({});
      const back = planRound({ ...now, guests: now.guests.map((guest) => ({ ...guest, orderOver })) }, fencing).memory;
      return ['1', '2'].map((id) => entryIn(back, id).state.kind).toSorted();
    };
    assert.deepEqual(kindsWith(true), ['active', 'awaiting-recovery']);
    assert.deepEqual(kindsWith(false), ['active', 'active'], 'they may have run on');
  });

  test('starts there when that move fails, but not beside a rival that has come meanwhile', () => {
    const settings = { ...plainSettings, standingOrders: true, refusesForbiddenMoves: true };
    const stopped = [{ ...plainGuest('1', 'c'), runs: false }, plainGuest('2', 'b')];
    const rules = [onlyA, { ...apart, id: 'apart' }];
    const leaving = planRound(plainFacts({ guests: stopped, rules, settings }), emptyMemory()).memory;
    assert.deepEqual(entryIn(leaving).state, { kind: 'start-requested-elsewhere', to: 'a' });
    const failed = after(leaving, 'failed', { guests: stopped, rules, settings });
    assert.deepEqual(entryIn(failed).state, { kind: 'active', seenRunning: false, recovered: false, moveFailed: true });
    const rival = { ...entryIn(leaving, '2'), node: 'c' };
    const met = { ...leaving, guests: new Map([...leaving.guests, ['2', rival]]) };
    const beside = after(met, 'failed', {
      guests: [stopped[0]!, plainGuest('2', 'c')],
      rules,
      settings,
      nodes: onlyC,
      self: 'c',
    });
    assert.deepEqual([entryIn(beside).state.kind, entryIn(beside).node], ['start-requested', 'c']);
  });
});

test('a recovered guest runs where its data is before it goes where it would be better off', () => {
  const settings = { ...plainSettings, standingOrders: true };
  const betterOnA: Rule = {
    id: 'r',
    enabled: true,
    guests: ['1'],
    kind: 'prefer-nodes',
    hard: false,
    nodes: [{ node: 'a', rank: 1 }],
  };
  const copied = [plainGuest('1', 'c', { copies: [{ node: 'b', freshness: 1, dataAgeMs: 0 }] })];
  const nodes = plainFacts().nodes.map((node) =>
    node.name === 'c' ? { ...node, present: false, lostMs: 60_000, permit: 'claimed' as const } : node,
  );
  const patch = { settings, guests: copied, nodes, rules: [betterOnA] };
  const lost = planRound(
    plainFacts(patch),
    after(planRound(plainFacts({ guests, settings }), emptyMemory()).memory, 'ok', { settings }),
  );
  assert.deepEqual([entryIn(lost.memory).node, entryIn(lost.memory).state.kind], ['b', 'active']);
  assert.deepEqual(entryIn(after(lost.memory, 'ok', { ...patch, guests: [plainGuest('1', 'b')] })).state, {
    kind: 'moving-live',
    to: 'a',
  });
});

test('a recovered guest starts first on its drained node; booted since, that node is left without a start', () => {
  const settings = { ...plainSettings, standingOrders: true };
  const copied = [plainGuest('1', 'c', { copies: [{ node: 'b', freshness: 1, dataAgeMs: 0 }] })];
  const nodesWith = (name: string, patch: Partial<NodeFacts>) =>
    plainFacts().nodes.map((node) => (node.name === name ? { ...node, ...patch } : node));
  const away = nodesWith('c', { present: false, lostMs: 60_000, permit: 'claimed' });
  const ran = after(planRound(plainFacts({ guests, settings }), emptyMemory()).memory, 'ok', { settings });
  const lost = planRound(plainFacts({ settings, guests: copied, nodes: away }), ran).memory;
  const draining = nodesWith('b', { agentMode: 'maintenance' });
  const next = (patch: object) =>
    entryIn(planRound(plainFacts({ settings, guests: [plainGuest('1', 'b', patch)], nodes: draining }), lost).memory).state;
  assert.deepEqual(next({}), { kind: 'active', seenRunning: false, recovered: true });
  assert.deepEqual(next({ orderOver: true }), { kind: 'moving-live', to: 'a' });
});

describe('a guest whose move failed', () => {
  const settings = { ...plainSettings, standingOrders: true };
  const onlyA: Rule = {
    id: 'r',
    enabled: true,
    guests: ['1'],
    kind: 'prefer-nodes',
    hard: true,
    nodes: [{ node: 'a', rank: 0 }],
  };
  const ran = after(planRound(plainFacts({ guests, settings }), emptyMemory()).memory, 'ok', { settings });
  const moving = after(ran, 'ok', { settings, rules: [onlyA] });
  const failed = after(moving, 'failed', { settings, rules: [onlyA], nowMs: 100_000 });
  const kindAt = (nowMs: number, patch: Partial<ManagerFacts> = {}) => {
    return entryIn(after(failed, 'ok', { settings, rules: [onlyA], nowMs, ...patch })).state.kind;
  };

  test('is left where it is for a while, then it is tried again', () => {
    assert.equal(entryIn(moving).state.kind, 'moving-live');
    assert.deepEqual(
      [100_000, 159_999, 160_000].map((nowMs) => kindAt(nowMs)),
      ['active', 'active', 'moving-live'],
    );
    assert.equal(kindAt(99_000), 'moving-live', 'a clock that was set back does not keep it');
  });

  test('goes at once when an operator says so, or when it cannot be started there', () => {
    assert.equal(kindAt(100_000, { commands: [{ kind: 'move', guest: '1', live: true, to: 'b' }] }), 'moving-live');
    assert.equal(entryIn(after(failed, 'failed', { settings, nowMs: 100_000 })).state.kind, 'moving-live');
  });
});

describe('a guest on a node that is up but refused', () => {
  const both = [plainGuest('1', 'c'), plainGuest('2', 'b')];
  const running = runningOn({ '1': 'c', '2': 'b' });
  const nodes = nodesWithC({ refusal: 'its agent is silent' });
  const rules: Rule[] = [
    { id: 'p', enabled: true, kind: 'prefer-nodes', hard: true, guests: ['1'], nodes: [{ node: 'a', rank: 1 }] },
    { id: 't', enabled: true, kind: 'keep-together', guests: ['1', '2'] },
    { id: 'x', enabled: true, kind: 'keep-apart', guests: ['1', '2'] },
  ];

  test('stays there, whatever the rules say, and its order stands', () => {
    for (const rule of rules) {
      const memory = rule.kind === 'keep-apart' ? runningOn({ '1': 'c', '2': 'c' }) : running;
      const round = planRound(plainFacts({ guests: both, rules: [rule], nodes }), memory);
      assert.deepEqual(entryIn(round.memory), entryIn(memory), rule.id);
    }
    const free = planRound(plainFacts({ guests: both, rules: rules.slice(0, 1) }), running);
    assert.equal(entryIn(free.memory).state.kind, 'moving-live');
  });

  test('is not pulled off it to even out the load, alone or with its set', () => {
    // Any move would do, also one that gains nothing.
    const autoRebalance = { threshold: 0, method: 'bruteforce', holdRounds: 1, minRelativeGain: -100 } as const;
    const settings = { ...plainSettings, placement: 'by-size', autoRebalance } as const;
    const swapped = [plainGuest('1', 'b'), plainGuest('2', 'c')];
    const facts = plainFacts({ guests: swapped, rules: rules.slice(1, 2), nodes, settings });
    const round = planRound(facts, runningOn({ '1': 'b', '2': 'c' }));
    assert.equal(
      round.decisions.find((decision) => decision.kind === 'rebalance'),
      undefined,
    );
  });

  test('leaves when the node is drained, when its start fails there, or when it is moved by hand', () => {
    const where = (round: ManagerMemory): unknown => entryIn(round).state;
    const drained = plainFacts({ guests, nodes: nodesWithC({ refusal: 'its agent is silent', agentMode: 'maintenance' }) });
    const alone = runningOn({ '1': 'c' });
    assert.deepEqual(where(planRound(drained, alone).memory), { kind: 'moving-live', to: 'a' });
    assert.deepEqual(where(after(alone, 'failed', { nodes })), { kind: 'moving-live', to: 'a' });
    const byHand = plainFacts({ guests, nodes, commands: [{ kind: 'move', guest: '1', live: true, to: 'b' }] });
    assert.deepEqual(where(planRound(byHand, alone).memory), { kind: 'moving-live', to: 'b' });
  });

  test('a node whose agent ends or restarts receives nothing either', () => {
    for (const agentMode of ['shutdown', 'restart'] as const) {
      const command = { kind: 'move', guest: '2', live: true, to: 'c' } as const;
      const round = planRound(plainFacts({ guests: both, nodes: nodesWithC({ agentMode }), commands: [command] }), running);
      const told = round.decisions.find((decision) => decision.kind === 'command');
      assert.equal(told?.refusal, 'target-unfit', agentMode);
    }
  });
});

function nodesWithC(patch: Partial<NodeFacts>): NodeFacts[] {
  return [plainNode('a'), plainNode('b'), plainNode('c', patch)];
}

/** All nodes up, every guest seen running on its node. */
function runningOn(places: Record<string, string>): ManagerMemory {
  const facts = plainFacts({ guests: Object.entries(places).map(([id, node]) => plainGuest(id, node)) });
  const ordered = planRound(facts, emptyMemory()).memory;
  const state = { kind: 'active', seenRunning: true, recovered: false } as const;
  return { ...ordered, guests: new Map([...ordered.guests].map(([id, entry]) => [id, { ...entry, state }])) };
}

test('a guest that started elsewhere keeps away from where it could not for an hour, then it goes back where it belongs', () => {
  const rule: Rule = {
    id: 'r',
    enabled: true,
    guests: ['1'],
    kind: 'prefer-nodes',
    hard: false,
    nodes: [{ node: 'c', rank: 1 }],
  };
  const settings = { ...plainSettings, standingOrders: true, refusesForbiddenMoves: true, avoidFailedMs: 3_600_000 };
  const at = (nowMs: number, home = 'a') => ({ settings, rules: [rule], nowMs, guests: [plainGuest('1', home)] });
  const ordered = planRound(plainFacts({ ...at(0, 'c') }), emptyMemory()).memory;
  const moving = after(ordered, 'failed', at(1_000, 'c'));
  assert.deepEqual(entryIn(moving).state, { kind: 'moving-live', to: 'a' });
  const arrived = after(moving, 'ok', at(2_000));
  assert.deepEqual([entryIn(arrived).node, entryIn(arrived).failedNodes], ['a', ['c']]);
  const runs = after(arrived, 'ok', at(3_000));
  assert.deepEqual([entryIn(runs).state.kind, entryIn(runs).failedNodes], ['active', []]);
  assert.deepEqual(entryIn(runs).avoids, { nodes: ['c'], sinceMs: 3_000 });
  assert.equal(entryIn(after(runs, 'ok', at(3_602_000))).state.kind, 'active');
  const back = entryIn(after(runs, 'ok', at(3_603_000)));
  assert.deepEqual([back.state, back.avoids], [{ kind: 'moving-live', to: 'c' }, null]);
});

test('a guest does not give way to a rival that leaves for a reason of its own; of two that only give way one leaves', () => {
  const settings = { ...plainSettings, standingOrders: true, refusesForbiddenMoves: true };
  const homes = { '1': 'c', '2': 'c', '3': 'b' };
  const placed = Object.entries(homes).map(([id, home]) => plainGuest(id, home));
  const together: Rule = { id: 't', enabled: true, guests: ['2', '3'], kind: 'keep-together' };
  const apart: Rule = { id: 'a', enabled: true, guests: ['1', '3'], kind: 'keep-apart' };
  const started = planRound(plainFacts({ guests: placed, settings }), emptyMemory()).memory;
  const results = new Map(placed.map(({ id }) => [entryIn(started, id).orderId, 'ok' as const]));
  const running = planRound(plainFacts({ guests: placed, settings, results }), started).memory;
  const next = (rules: Rule[]) => {
    const { memory } = planRound(plainFacts({ guests: placed, settings, results, rules }), running);
    return placed.map(({ id }) => entryIn(memory, id).state);
  };
  const [first, second, third] = next([together, apart]);
  assert.deepEqual([first?.kind, third?.kind], ['active', 'active']);
  assert.deepEqual(second, { kind: 'moving-live', to: 'b' });
  const pair: Rule = { id: 'p', enabled: true, guests: ['1', '2'], kind: 'keep-apart' };
  assert.deepEqual(
    next([pair]).map((state) => state.kind),
    ['moving-live', 'active', 'active'],
  );
});
