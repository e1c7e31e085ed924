import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import type { ManagerFacts, NodeFacts, OrderResult } from '#core/ha/manager/facts.ts';
import { emptyMemory, type GuestState, type ManagerMemory } from '#core/ha/manager/memory.ts';
import { plainFacts, plainGuest, plainNode, plainSettings } from '#core/ha/manager/round-cluster.ts';
import type { Rule } from '#core/ha/manager/rules.ts';
import { planRound, type RoundPlan } from '#core/ha/manager/round.ts';

function nodes(patches: Record<string, Partial<NodeFacts>> = {}): NodeFacts[] {
  return ['a', 'b', 'c'].map((name) => plainNode(name, patches[name]));
}

/** Runs a round and the next ones on the memory that each left. */
function run(...rounds: Partial<ManagerFacts>[]): RoundPlan {
  let memory: ManagerMemory = emptyMemory();
  let plan: RoundPlan | null = null;
  for (const [index, patch] of rounds.entries()) {
    plan = planRound(plainFacts({ nowMs: index * 1000, ...patch }), memory);
    memory = plan.memory;
  }
  assert.ok(plan !== null);
  return plan;
}

function stateOf(plan: RoundPlan, id: string): { node: string; state: GuestState } {
  const entry = plan.memory.guests.get(id);
  assert.ok(entry !== undefined, `guest ${id} is not managed`);
  return { node: entry.node, state: entry.state };
}

/** The result of the order that the guest has after `plan`. */
function resultFor(plan: RoundPlan, id: string, result: OrderResult): ReadonlyMap<number, OrderResult> {
  return new Map([[plan.memory.guests.get(id)?.orderId ?? -1, result]]);
}

const guests = [plainGuest('1', 'c')];
const lostC = (lostMs: number, permit: NodeFacts['permit']): NodeFacts[] => nodes({ c: { present: false, lostMs, permit } });

describe('a lost node', () => {
  test('its guests wait, then ask for the fence, and move on only once its permit is claimed', () => {
    const early = run({ guests }, { guests, nodes: lostC(14_000, 'held') });
    assert.equal(stateOf(early, '1').state.kind, 'active');
    const asked = run({ guests }, { guests, nodes: lostC(15_000, 'held') });
    assert.equal(stateOf(asked, '1').state.kind, 'awaiting-fence');
    assert.equal(asked.memory.nodes.get('c'), 'fencing');
    assert.deepEqual(asked.steps, []);
  });

  test('the claim is written before the guest gets its new home, in one round', () => {
    const plan = run({ guests }, { guests, nodes: lostC(15_000, 'claimable') });
    assert.deepEqual(
      plan.steps.map((step) => step.kind),
      ['claim', 'rehome'],
    );
    assert.deepEqual(stateOf(plan, '1'), { node: 'a', state: { kind: 'active', seenRunning: false, recovered: true } });
  });

  test('a revoked permit needs no claim', () => {
    const plan = run({ guests }, { guests, nodes: lostC(15_000, 'claimed') });
    assert.deepEqual(
      plan.steps.map((step) => step.kind),
      ['rehome'],
    );
  });

  test('a disabled guest is not recovered, a stopped one is recovered and not started', () => {
    const stopped = [plainGuest('1', 'c', { want: 'stopped' })];
    const first = run({ guests: stopped });
    const facts = plainFacts({ guests: stopped, nodes: lostC(15_000, 'claimable') });
    assert.deepEqual(stateOf(planRound(facts, first.memory), '1'), {
      node: 'a',
      state: { kind: 'stop-requested', timeoutMs: null },
    });
    const disabled = [plainGuest('1', 'c', { want: 'disabled' })];
    const adopted = run({ guests: disabled });
    const idle = planRound(plainFacts({ guests: disabled, results: resultFor(adopted, '1', 'ok') }), adopted.memory);
    const lost = planRound(plainFacts({ guests: disabled, nodes: lostC(60_000, 'claimable') }), idle.memory);
    assert.deepEqual([lost.steps, stateOf(lost, '1')], [[], { node: 'c', state: { kind: 'inactive' } }]);
  });

  test('a leader that does not see itself as up changes nothing', () => {
    const plan = run(
      { guests },
      { guests, nodes: nodes({ a: { present: false, lostMs: 1 }, c: { present: false, lostMs: 60_000 } }) },
    );
    assert.deepEqual(plan.steps, []);
    assert.equal(stateOf(plan, '1').state.kind, 'active');
  });
});

describe('recovery looks at copies', () => {
  const copy = (node: string, freshness: number, dataAgeMs: number): { node: string; freshness: number; dataAgeMs: number } => ({
    node,
    freshness,
    dataAgeMs,
  });

  test('the freshest verified copy decides, before load', () => {
    const guest = plainGuest('1', 'c', { copies: [copy('a', 1, 60_000), copy('b', 2, 5_000)] });
    const others = [plainGuest('2', 'b'), plainGuest('3', 'b')];
    const plan = run({ guests: [guest, ...others] }, { guests: [guest, ...others], nodes: lostC(15_000, 'claimed') });
    assert.equal(stateOf(plan, '1').node, 'b');
    assert.match(plan.steps[0]?.because ?? '', /freshest verified copy/);
  });

  test('no copy, or one that is older than the guest allows, is no place; the reason is told', () => {
    const old = plainGuest('1', 'c', { copies: [copy('a', 1, 60_000)], maxDataAgeMs: 30_000 });
    const plan = run({ guests: [old] }, { guests: [old], nodes: lostC(15_000, 'claimed') });
    assert.equal(stateOf(plan, '1').state.kind, 'awaiting-recovery');
    const decision = plan.decisions.find((entry) => entry.kind === 'no-recovery-target');
    assert.equal(decision?.because, 'a: its copy is 60000 ms old, the limit is 30000 ms');
  });

  test('it waits for a fresher copy on a node that is away for as long as the operator said', () => {
    const guest = plainGuest('1', 'c', { copies: [copy('a', 1, 60_000), copy('b', 2, 5_000)], betterCopyWaitMs: 10_000 });
    const lost = nodes({ b: { present: false, lostMs: 0 }, c: { present: false, lostMs: 15_000, permit: 'claimed' } });
    const waits = run({ guests: [guest] }, { guests: [guest], nodes: lost });
    assert.equal(stateOf(waits, '1').state.kind, 'awaiting-recovery');
    const later = planRound(plainFacts({ guests: [guest], nodes: lost, nowMs: 11_000 }), waits.memory);
    assert.equal(stateOf(later, '1').node, 'a');
  });

  test('memory that does not fit is no place where it must fit', () => {
    const settings = { ...plainSettings, memoryMustFit: true };
    const big = (id: string, home: string): typeof guests => [
      plainGuest(id, home, { claimed: { cores: 1, memoryBytes: 40 * 2 ** 30 } }),
    ];
    const all = [...big('1', 'c'), ...big('2', 'a'), ...big('3', 'b')];
    const plan = run({ guests: all, settings }, { guests: all, settings, nodes: lostC(15_000, 'claimed') });
    assert.equal(stateOf(plan, '1').state.kind, 'awaiting-recovery');
  });

  test('lower start orders take their turn first', () => {
    const rule: Rule = { id: 'r', enabled: true, guests: ['1', '2'], kind: 'keep-apart' };
    const both = [plainGuest('1', 'c', { startOrder: 2 }), plainGuest('2', 'b', { startOrder: 1 })];
    const lost = nodes({
      b: { present: false, lostMs: 15_000, permit: 'claimed' },
      c: { present: false, lostMs: 15_000, permit: 'claimed' },
    });
    const plan = run({ guests: both, rules: [rule] }, { guests: both, rules: [rule], nodes: lost });
    assert.equal(stateOf(plan, '2').node, 'a');
    assert.equal(stateOf(plan, '1').state.kind, 'awaiting-recovery');
  });
});

describe('commands', () => {
  test('a move is refused with a reason: unknown guest, target not up, already there, in the middle of something', () => {
    const first = run({ guests });
    const refusalOf = (guest: string, to: string, patch: Partial<ManagerFacts> = {}): string | null | undefined => {
      const facts = plainFacts({ guests, commands: [{ kind: 'move', guest, live: true, to }], ...patch });
      return planRound(facts, first.memory).decisions.find((decision) => decision.kind === 'command')?.refusal;
    };
    assert.equal(refusalOf('9', 'a'), 'not-managed');
    assert.equal(refusalOf('1', 'b', { nodes: nodes({ b: { present: false } }) }), 'target-not-up');
    assert.equal(refusalOf('1', 'c'), 'already-there');
    assert.equal(refusalOf('1', 'b', { nodes: nodes({ b: { refusal: 'is in quarantine' } }) }), 'target-unfit');
    assert.equal(refusalOf('1', 'b'), null);
  });

  test('what would have to wait is refused: the node of the guest is away, or the cluster is disarmed', () => {
    const first = run({ guests });
    const commands = [
      { kind: 'move', guest: '1', live: false, to: 'b' },
      { kind: 'stop', guest: '1', timeoutMs: null },
    ] as const;
    const away = planRound(
      plainFacts({ guests, commands: [...commands], nodes: nodes({ c: { present: false } }) }),
      first.memory,
    );
    assert.equal(away.memory.guests.get('1')?.command, null);
    const disarmed = run(
      { guests },
      { guests, commands: [{ kind: 'disarm', mode: 'hands-off' }] },
      { guests, commands: [...commands] },
    );
    assert.equal(disarmed.memory.guests.get('1')?.command, null);
    const stopping = [plainGuest('1', 'c', { want: 'stopped' })];
    const unwanted = planRound(plainFacts({ guests: stopping, commands: [...commands] }), first.memory);
    for (const plan of [away, disarmed, unwanted]) {
      const refusals = plan.decisions.flatMap((decision) => (decision.kind === 'command' ? [decision.refusal] : []));
      assert.deepEqual(refusals, ['not-now', 'not-now']);
    }
  });

  test('a stop of a guest that does not run is refused, also when it is asked for twice at once', () => {
    const stopped = [plainGuest('1', 'c', { want: 'stopped' })];
    const first = run({ guests: stopped });
    const rests = planRound(plainFacts({ guests: stopped, results: resultFor(first, '1', 'ok') }), first.memory);
    assert.equal(stateOf(rests, '1').state.kind, 'inactive');
    const twice = [1, 2].map(() => ({ kind: 'stop', guest: '1', timeoutMs: null }) as const);
    const asked = planRound(plainFacts({ guests: stopped, commands: twice }), rests.memory);
    const refusals = asked.decisions.flatMap((decision) => (decision.kind === 'command' ? [decision.refusal] : []));
    assert.deepEqual(refusals, ['wrong-state', 'wrong-state']);
  });

  test('a drained node is left and returned to; a move by hand in between ends that', () => {
    const drained = nodes({ c: { agentMode: 'maintenance' } });
    const leaves = run({ guests }, { guests, nodes: drained });
    assert.deepEqual(stateOf(leaves, '1').state, { kind: 'moving-live', to: 'a' });
    const results = resultFor(leaves, '1', 'ok');
    const there = planRound(plainFacts({ guests: [plainGuest('1', 'a')], nodes: drained, results }), leaves.memory);
    assert.equal(stateOf(there, '1').node, 'a');
    const back = planRound(plainFacts({ guests: [plainGuest('1', 'a')] }), there.memory);
    assert.deepEqual(stateOf(back, '1').state, { kind: 'moving-live', to: 'c' });
    const byHand = plainFacts({
      guests: [plainGuest('1', 'a')],
      nodes: drained,
      commands: [{ kind: 'move', guest: '1', live: true, to: 'b' }],
    });
    assert.equal(planRound(byHand, there.memory).memory.guests.get('1')?.returnTo, null);
  });

  test('a live move of a guest that cannot move live is done cold, and the answer says so', () => {
    const cold = [plainGuest('1', 'c', { movesLive: false })];
    const plan = run({ guests: cold }, { guests: cold, commands: [{ kind: 'move', guest: '1', live: true, to: 'b' }] });
    assert.deepEqual(stateOf(plan, '1').state, { kind: 'moving-cold', to: 'b' });
    const answer = plan.decisions.find((decision) => decision.kind === 'command');
    assert.deepEqual(
      [answer?.refusal, answer?.because],
      [null, 'it moves to b, stopped here and started there: it cannot move live'],
    );
  });

  test("a stop keeps its timeout and is written into the guest's wanted state", () => {
    const plan = run({ guests }, { guests, commands: [{ kind: 'stop', guest: '1', timeoutMs: 0 }] });
    assert.deepEqual(stateOf(plan, '1').state, { kind: 'stop-requested', timeoutMs: 0 });
    assert.deepEqual(
      plan.steps.map((step) => step.kind),
      ['want-stopped'],
    );
  });
});

describe('starts that fail', () => {
  test('another node is tried, then it has failed; only disabled clears that', () => {
    const first = run({ guests });
    const second = planRound(plainFacts({ guests, results: resultFor(first, '1', 'failed') }), first.memory);
    assert.equal(stateOf(second, '1').state.kind, 'moving-live');
    const arrived = planRound(
      plainFacts({ guests: [plainGuest('1', 'a')], results: resultFor(second, '1', 'ok') }),
      second.memory,
    );
    const failed = planRound(
      plainFacts({ guests: [plainGuest('1', 'a')], results: resultFor(arrived, '1', 'failed') }),
      arrived.memory,
    );
    assert.equal(stateOf(failed, '1').state.kind, 'failed');
    const still = planRound(plainFacts({ guests: [plainGuest('1', 'a')] }), failed.memory);
    assert.equal(stateOf(still, '1').state.kind, 'failed');
    const cleared = planRound(plainFacts({ guests: [plainGuest('1', 'a', { want: 'disabled' })] }), failed.memory);
    assert.equal(stateOf(cleared, '1').state.kind, 'inactive');
  });
});

describe('disarm', () => {
  test('agents are not let go before a recovery that has begun has started its guest', () => {
    const recovering = run(
      { guests },
      { guests, nodes: lostC(15_000, 'claimable') },
      { guests: [plainGuest('1', 'a')], nodes: lostC(16_000, 'claimed'), commands: [{ kind: 'disarm', mode: 'hands-off' }] },
    );
    assert.equal(recovering.memory.disarm?.stage, 'waiting');
    const facts = plainFacts({ guests: [plainGuest('1', 'a')], nodes: lostC(17_000, 'claimed') });
    const running = planRound({ ...facts, results: resultFor(recovering, '1', 'ok') }, recovering.memory);
    assert.equal(planRound(facts, running.memory).memory.disarm?.stage, 'in-force');
  });

  test('hold freezes, completes once all watchdogs are closed, and arm waits for the agents', () => {
    const held = run({ guests }, { guests, commands: [{ kind: 'disarm', mode: 'hold' }] });
    assert.equal(stateOf(held, '1').state.kind, 'frozen');
    assert.equal(held.memory.disarm?.stage, 'in-force');
    const closed = nodes({ a: { watchdogOpen: false }, b: { watchdogOpen: false }, c: { watchdogOpen: false } });
    const complete = planRound(plainFacts({ guests, nodes: closed }), held.memory);
    assert.equal(complete.memory.disarm?.stage, 'complete');
    const armed = planRound(
      plainFacts({ guests, nodes: nodes({ c: { agentMode: 'disarm' } }), commands: [{ kind: 'arm' }] }),
      complete.memory,
    );
    assert.equal(stateOf(armed, '1').state.kind, 'frozen');
    assert.equal(stateOf(planRound(plainFacts({ guests }), armed.memory), '1').state.kind, 'active');
  });

  test('who was held on a node that lets its guests go, or is drained, leaves it once armed', () => {
    const held = run({ guests }, { guests, commands: [{ kind: 'disarm', mode: 'hold' }] });
    for (const agentMode of ['shutdown', 'maintenance'] as const) {
      const armed = planRound(
        plainFacts({ guests, nodes: nodes({ c: { agentMode } }), commands: [{ kind: 'arm' }] }),
        held.memory,
      );
      assert.notEqual(stateOf(armed, '1').state.kind, 'frozen', agentMode);
    }
  });

  test('a node that was lost while disarmed is not claimed by its silence: its guests may run on, unguarded', () => {
    const armed = run(
      { guests },
      { guests, commands: [{ kind: 'disarm', mode: 'hands-off' }] },
      { guests, nodes: lostC(600_000, 'claimable'), commands: [{ kind: 'arm' }] },
    );
    assert.deepEqual([armed.steps, stateOf(armed, '1').state.kind], [[], 'awaiting-fence']);
    const off = nodes({ c: { present: false, lostMs: 600_000, permit: 'claimable', confirmedOff: true } });
    const plan = planRound(plainFacts({ guests, nodes: off }), armed.memory);
    assert.deepEqual(
      plan.steps.map((step) => step.kind),
      ['claim', 'rehome'],
    );
    const guarded = planRound(plainFacts({ guests }), armed.memory);
    assert.equal(guarded.memory.unguarded.has('c'), false);
  });

  test('a node lost while disarmed is left alone', () => {
    const plan = run(
      { guests },
      { guests, commands: [{ kind: 'disarm', mode: 'hands-off' }] },
      { guests, nodes: lostC(600_000, 'claimable') },
    );
    assert.deepEqual(plan.steps, []);
    assert.equal(stateOf(plan, '1').state.kind, 'active');
  });
});

test('the same facts and memory give the same plan, and a round leaves the memory that it was given as it was', () => {
  const first = run({ guests });
  const before = structuredClone(first.memory);
  const facts = plainFacts({ guests, nodes: lostC(15_000, 'claimable') });
  assert.deepEqual(planRound(facts, first.memory), planRound(facts, first.memory));
  assert.deepEqual(first.memory, before);
});
