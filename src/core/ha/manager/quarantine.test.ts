import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import type { Command, GuestFacts, ManagerFacts, NodeFacts } from '#core/ha/manager/facts.ts';
import { emptyMemory, type GuestState, type ManagerMemory } from '#core/ha/manager/memory.ts';
import { plainFacts, plainGuest, plainNode, plainSettings } from '#core/ha/manager/round-cluster.ts';
import { planRound, type RoundPlan } from '#core/ha/manager/round.ts';
import type { Rule } from '#core/ha/manager/rules.ts';

const minuteMs = 60_000;
const settings = { ...plainSettings, standingOrders: true, quarantineAfter: 3, quarantineWindowMs: 60 * minuteMs };
const running: GuestState = { kind: 'active', seenRunning: true, recovered: false };
const lost = { present: false, lostMs: 60_000, permit: 'claimable' } as const;

function nodes(patches: Record<string, Partial<NodeFacts>> = {}): NodeFacts[] {
  return ['a', 'b', 'c'].map((name) => plainNode(name, patches[name]));
}

function round(memory: ManagerMemory, patch: Partial<ManagerFacts> = {}): RoundPlan {
  return planRound(plainFacts({ settings, ...patch }), memory);
}

/** The guests run on their nodes; c is quarantined. */
function quarantinedC(guests: GuestFacts[]): ManagerMemory {
  const { memory } = round(emptyMemory(), { guests });
  const entries = [...memory.guests].map(([id, entry]) => [id, { ...entry, state: running }] as const);
  const flaps = new Map([['c', { claimedAtMs: [0, 2 * minuteMs, 5 * minuteMs], quarantined: true }]]);
  return { ...memory, guests: new Map(entries), flaps };
}

function told(plan: RoundPlan): unknown[] {
  return plan.decisions.flatMap((decision) =>
    decision.kind === 'quarantine' ? [[decision.node, decision.quarantined, decision.because]] : [],
  );
}

const placeOf = (plan: RoundPlan, id = '1'): unknown => {
  const entry = plan.memory.guests.get(id);
  return [entry?.node, entry?.state.kind];
};

describe('claims of a node', () => {
  /** c is claimed and is back, at each of these minutes. */
  function flap(minutes: number[], patch: Partial<ManagerFacts> = {}): RoundPlan {
    const guests = [plainGuest('1', 'c', { copies: [] })];
    let plan = round(emptyMemory(), { guests });
    for (const minute of minutes) {
      const nowMs = minute * minuteMs;
      const wants = new Map([...plan.memory.guests].map(([id, entry]) => [id, { ...entry, state: running }]));
      const before = { ...plan.memory, guests: wants };
      plan = round(before, { guests, nodes: nodes({ c: lost }), nowMs, ...patch });
      if (minute !== minutes.at(-1)) plan = round(plan.memory, { guests, nowMs: nowMs + 1_000, ...patch });
    }
    return plan;
  }

  test('are noted with the claim; as many as the settings say within the window quarantine it, and that is told once', () => {
    const twice = flap([1, 10]);
    assert.deepEqual(twice.memory.flaps.get('c'), { claimedAtMs: [minuteMs, 10 * minuteMs], quarantined: false });
    const thrice = flap([1, 10, 20]);
    assert.equal(thrice.memory.flaps.get('c')?.quarantined, true);
    assert.deepEqual(told(thrice), [
      ['c', true, 'it was claimed 3 times in 19 min; it receives no guests until an operator releases it'],
    ]);
    assert.deepEqual(told(flap([1, 10, 20, 30])), []);
  });

  test('that lie further back than the window do not count', () => {
    assert.equal(flap([1, 10, 62]).memory.flaps.get('c')?.quarantined, false);
  });

  test('do not count when the settings say never', () => {
    assert.deepEqual(flap([1, 2, 3, 4], { settings: { ...settings, quarantineAfter: 0 } }).memory.flaps, new Map());
  });

  test('that the facts tell of count once, also beside the claim that this round or an earlier one planned', () => {
    const claimed = { present: false, lostMs: 60_000, permit: 'claimed', claimedAtMs: 10 * minuteMs } as const;
    const facts = { nodes: nodes({ c: claimed }), nowMs: 10 * minuteMs + 5_000 };
    const first = round(emptyMemory(), facts);
    assert.deepEqual(first.memory.flaps.get('c')?.claimedAtMs, [10 * minuteMs]);
    const again = round(first.memory, { ...facts, nowMs: 11 * minuteMs });
    assert.deepEqual(again.memory.flaps, first.memory.flaps);
    const planned = flap([10]);
    const told = round(planned.memory, {
      ...facts,
      nodes: nodes({ c: { ...claimed, claimedAtMs: 10 * minuteMs + 400 } }),
      guests: [plainGuest('1', 'c', { copies: [] })],
    });
    assert.deepEqual(told.memory.flaps, planned.memory.flaps);
  });
});

describe('a quarantined node', () => {
  test('keeps what runs there, receives nothing, and is not returned to', () => {
    const guests = [plainGuest('1', 'c'), plainGuest('2', 'a'), plainGuest('3', 'b')];
    const prefer: Rule = {
      id: 'p',
      enabled: true,
      kind: 'prefer-nodes',
      hard: false,
      guests: ['2'],
      nodes: [{ node: 'c', rank: 1 }],
    };
    const memory = quarantinedC(guests);
    const returns = memory.guests.get('3');
    assert.ok(returns !== undefined);
    const returning = { ...memory, guests: new Map([...memory.guests, ['3', { ...returns, returnTo: 'c' }]]) };
    const plan = round(returning, { guests, rules: [prefer] });
    assert.deepEqual(
      [placeOf(plan, '1'), placeOf(plan, '2'), placeOf(plan, '3')],
      [
        ['c', 'active'],
        ['a', 'active'],
        ['b', 'active'],
      ],
    );
    const drained = round(memory, { guests, nodes: nodes({ b: { agentMode: 'maintenance' } }) });
    assert.deepEqual(drained.memory.guests.get('3')?.state, { kind: 'moving-live', to: 'a' });
  });

  test('refuses moves by hand, with its claims', () => {
    const guests = [plainGuest('1', 'a')];
    const command: Command = { kind: 'move', guest: '1', live: true, to: 'c' };
    const answer = round(quarantinedC(guests), { guests, commands: [command] }).decisions.find(
      (entry) => entry.kind === 'command',
    );
    assert.deepEqual([answer?.refusal, answer?.because], ['target-unfit', 'c is quarantined: claimed 3 times in 5 min']);
  });

  test('is passed over by a recovery as long as another node will do, even from an older copy', () => {
    const copies = [
      { node: 'c', freshness: 2, dataAgeMs: 1_000 },
      { node: 'a', freshness: 1, dataAgeMs: 9_000 },
    ];
    const guests = [plainGuest('1', 'b', { copies, betterCopyWaitMs: 60_000 })];
    const plan = round(quarantinedC(guests), { guests, nodes: nodes({ b: lost }) });
    assert.deepEqual(placeOf(plan), ['a', 'active']);
  });

  test('takes a lost guest when no other node will do, and the reason says so', () => {
    const alone = nodes({ a: { refusal: 'its agent is silent' }, b: lost });
    const shared = [plainGuest('1', 'b')];
    const plan = round(quarantinedC(shared), { guests: shared, nodes: alone });
    assert.deepEqual(placeOf(plan), ['c', 'active']);
    assert.match(
      plan.memory.guests.get('1')?.because ?? '',
      /no other node will do, although c is quarantined: claimed 3 times in 5 min/,
    );
    const copied = [plainGuest('1', 'b', { copies: [{ node: 'c', freshness: 2, dataAgeMs: 1_000 }] })];
    assert.deepEqual(placeOf(round(quarantinedC(copied), { guests: copied, nodes: nodes({ b: lost }) })), ['c', 'active']);
  });

  test('is no last resort where the guest cannot start, and the reason is told', () => {
    const copies = [{ node: 'c', freshness: 2, dataAgeMs: 9_000 }];
    const guests = [plainGuest('1', 'b', { copies, maxDataAgeMs: 1_000 })];
    const plan = round(quarantinedC(guests), { guests, nodes: nodes({ b: lost }) });
    const reason = plan.decisions.find((decision) => decision.kind === 'no-recovery-target')?.because;
    assert.equal(reason, 'c: its copy is 9000 ms old, the limit is 1000 ms');
  });

  test('as a last resort is filled only as far as memory goes', () => {
    const big = { claimed: { cores: 1, memoryBytes: 40 * 2 ** 30 } };
    const guests = [plainGuest('1', 'b', big), plainGuest('2', 'b', big)];
    const mustFit = { ...settings, memoryMustFit: true };
    const patch = { guests, settings: mustFit, nodes: nodes({ a: { refusal: 'its agent is silent' }, b: lost }) };
    const plan = round(quarantinedC(guests), patch);
    assert.deepEqual(
      [placeOf(plan, '1'), placeOf(plan, '2')],
      [
        ['c', 'active'],
        ['b', 'awaiting-recovery'],
      ],
    );
  });
});

describe('the end of a quarantine', () => {
  const release: Command = { kind: 'release-quarantine', node: 'c' };

  test('comes by command only, not by a rejoin or by time; from then on the node receives guests', () => {
    const guests = [plainGuest('1', 'a')];
    const away = round(quarantinedC(guests), { guests, nodes: nodes({ c: { present: false, lostMs: 1_000 } }) });
    const back = round(away.memory, { guests, nowMs: 1_000 * minuteMs });
    assert.equal(back.memory.flaps.get('c')?.quarantined, true);
    const move: Command = { kind: 'move', guest: '1', live: true, to: 'c' };
    const released = round(back.memory, { guests, commands: [release, move] });
    assert.deepEqual(told(released), [['c', false, 'an operator released it']]);
    assert.deepEqual(released.memory.guests.get('1')?.state, { kind: 'moving-live', to: 'c' });
  });

  test('is refused for a node that is not quarantined', () => {
    const answer = round(emptyMemory(), { commands: [release] }).decisions.find((decision) => decision.kind === 'command');
    assert.equal(answer?.refusal, 'wrong-state');
  });

  test('does not make its last claim news again', () => {
    const guests = [plainGuest('1', 'a')];
    const patch = { guests, nodes: nodes({ c: { ...lost, permit: 'claimed', claimedAtMs: 5 * minuteMs } }) };
    const released = round(quarantinedC(guests), { ...patch, commands: [release], nowMs: 6 * minuteMs });
    const later = round(released.memory, { ...patch, nowMs: 7 * minuteMs });
    assert.deepEqual(later.memory.flaps.get('c'), { claimedAtMs: [5 * minuteMs], quarantined: false });
  });
});
