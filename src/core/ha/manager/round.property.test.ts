import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import type { AgentMode, Command, CopyFacts, GuestFacts, ManagerFacts, NodeFacts, OrderResult } from '#core/ha/manager/facts.ts';
import { emptyMemory, type ManagerMemory } from '#core/ha/manager/memory.ts';
import { plainFacts, plainGuest, plainNode, plainSettings } from '#core/ha/manager/round-cluster.ts';
import { planRound, type RoundPlan } from '#core/ha/manager/round.ts';
import type { Rule } from '#core/ha/manager/rules.ts';

/** Rounds on facts of every kind, also such as no cluster would ever report: what must hold of each plan, whatever it was told. */
const names = ['a', 'b', 'c', 'd'];
const ids = ['1', '2', '3', '4', '5'];
const node = fc.constantFrom(...names);
const guest = fc.constantFrom(...ids);

const nodePatch = fc.record({
  present: fc.boolean(),
  lostMs: fc.constantFrom(1_000, 60_000, Infinity),
  agentMode: fc.constantFrom<AgentMode>('active', 'active', 'active', 'maintenance', 'restart', 'shutdown', 'disarm'),
  permit: fc.constantFrom<NodeFacts['permit']>('held', 'held', 'claimable', 'claimed'),
  confirmedOff: fc.boolean(),
  watchdogOpen: fc.boolean(),
  refusal: fc.constantFrom(null, null, 'its agent is silent'),
});

const copies = fc.array(
  fc.record({
    node,
    freshness: fc.constantFrom(1, 2, Infinity),
    dataAgeMs: fc.constantFrom(0, 5_000),
  }) satisfies fc.Arbitrary<CopyFacts>,
  { maxLength: 3 },
);

const guestPatch = fc.record({
  want: fc.constantFrom<GuestFacts['want']>('started', 'started', 'started', 'stopped', 'disabled'),
  movesLive: fc.boolean(),
  claimed: fc.record({ cores: fc.constant(1), memoryBytes: fc.constantFrom(4 * 2 ** 30, 30 * 2 ** 30) }),
  copies: fc.option(copies, { nil: undefined }).map((list) => list ?? []),
  startsAfter: fc.array(guest, { maxLength: 2 }),
  orderOver: fc.boolean(),
  givenUp: fc.constantFrom(false, false, true),
});

const command = fc.oneof(
  fc.record({ kind: fc.constant('move' as const), guest, live: fc.boolean(), to: node }),
  fc.record({ kind: fc.constant('stop' as const), guest, timeoutMs: fc.constant(null) }),
  fc.record({ kind: fc.constantFrom('drain' as const, 'undrain' as const, 'release-quarantine' as const), node }),
  fc.record({ kind: fc.constant('disarm' as const), mode: fc.constantFrom('hold' as const, 'hands-off' as const) }),
  fc.record({ kind: fc.constant('arm' as const) }),
) satisfies fc.Arbitrary<Command>;

const rule = fc.oneof(
  fc.record({
    kind: fc.constantFrom('keep-together' as const, 'keep-apart' as const),
    guests: fc.uniqueArray(guest, { maxLength: 3 }),
  }),
  fc.record({
    kind: fc.constant('prefer-nodes' as const),
    hard: fc.boolean(),
    guests: fc.uniqueArray(guest, { maxLength: 2 }),
    nodes: fc.array(fc.record({ node, rank: fc.constantFrom(1, 2) }), { minLength: 1, maxLength: 2 }),
  }),
);

const told = fc.record({
  nodes: fc.tuple(nodePatch, nodePatch, nodePatch),
  guests: fc.tuple(guestPatch, guestPatch, guestPatch, guestPatch, guestPatch),
  commands: fc.array(command, { maxLength: 2 }),
  results: fc.array(fc.constantFrom<OrderResult | null>('ok', 'ok', 'failed', 'wrong-node', 'broken', null), {
    minLength: 5,
    maxLength: 5,
  }),
  tookMs: fc.constantFrom(1_000, 200_000),
});

const story = fc.record({
  standingOrders: fc.boolean(),
  refusesForbiddenMoves: fc.boolean(),
  balanceOnStart: fc.boolean(),
  memoryMustFit: fc.boolean(),
  rules: fc.array(rule, { maxLength: 2 }),
  rounds: fc.array(told, { minLength: 1, maxLength: 8 }),
});

type Story = typeof story extends fc.Arbitrary<infer T> ? T : never;

/** Plays the story; homes follow what was planned. */
function play(
  { rounds, rules, ...switches }: Story,
  look: (facts: ManagerFacts, before: ManagerMemory, plan: RoundPlan) => void,
): void {
  const settings = { ...plainSettings, ...switches, quarantineAfter: 2 };
  const numbered = rules.map((entry, index): Rule => ({ id: `r${index}`, enabled: true, ...entry }));
  let memory = emptyMemory();
  let nowMs = 0;
  for (const round of rounds) {
    nowMs += round.tookMs;
    const entries = memory.guests;
    const facts = plainFacts({
      nowMs,
      settings,
      rules: numbered,
      commands: round.commands,
      nodes: names.map((name, index) => plainNode(name, round.nodes[index - 1])),
      guests: ids.map((id, index) =>
        plainGuest(id, entries.get(id)?.node ?? names[index % names.length] ?? 'a', round.guests[index]),
      ),
      results: new Map(
        ids.flatMap((id, index): [number, OrderResult][] => {
          const [orderId, result] = [entries.get(id)?.orderId, round.results[index] ?? null];
          return orderId === undefined || result === null ? [] : [[orderId, result]];
        }),
      ),
    });
    const plan = planRound(facts, memory);
    look(facts, memory, plan);
    memory = plan.memory;
  }
}

test('no guest is given to another node without a proof that it runs nowhere, told in the round in which it leaves its node', () => {
  fc.assert(
    fc.property(story, (told) => {
      play(told, (facts, before, plan) => {
        const lost = new Set(
          plan.decisions.flatMap((decision) => {
            if (decision.kind !== 'guest' || decision.state.kind !== 'awaiting-recovery') return [];
            const { orderOver, givenUp } = facts.guests.find(({ id }) => id === decision.guest) ?? {};
            const claimed = plan.steps.some((step) => step.kind === 'claim' && step.node === decision.node);
            const permit = facts.nodes.find(({ name }) => name === decision.node)?.permit;
            const isProven = orderOver === true || givenUp === true || claimed || permit === 'claimed';
            assert.ok(isProven, `guest ${decision.guest} leaves ${decision.node}, which may run it`);
            return [decision.guest];
          }),
        );
        for (const [id, entry] of plan.memory.guests) {
          const was = before.guests.get(id);
          if (was === undefined || was.node === entry.node) continue;
          const moved = 'to' in was.state && was.state.to === entry.node && facts.results.get(was.orderId) === 'ok';
          const isProven = moved || lost.has(id) || was.state.kind === 'awaiting-recovery';
          assert.ok(isProven, `guest ${id} goes from ${was.node} (${was.state.kind}) to ${entry.node}`);
        }
      });
    }),
    { numRuns: 400 },
  );
});

test('every round comes to rest, and a lost guest goes only to a node that can take it', () => {
  fc.assert(
    fc.property(story, (told) => {
      play(told, (facts, _before, plan) => {
        assert.doesNotMatch(plan.because ?? '', /did not come to rest/);
        for (const step of plan.steps) {
          if (step.kind !== 'rehome') continue;
          const target = facts.nodes.find(({ name }) => name === step.to);
          assert.ok(target?.present === true && target.refusal === null, `${step.guest} goes to ${step.to}, which cannot serve`);
          assert.ok(
            target.agentMode !== 'shutdown' && target.agentMode !== 'restart',
            `${step.guest} goes to ${step.to}, which ends`,
          );
          const copied = facts.guests.find(({ id }) => id === step.guest)?.copies;
          assert.ok(
            copied?.some((copy) => copy.node === step.to),
            `${step.guest} goes to ${step.to}, where no copy is`,
          );
        }
      });
    }),
    { numRuns: 400 },
  );
});

test('a round that is told the same again, with every order going well, changes nothing in the end', () => {
  fc.assert(
    fc.property(story, (told) => {
      let last: ManagerFacts | null = null;
      let memory = emptyMemory();
      play(told, (facts, _before, plan) => {
        last = facts;
        memory = plan.memory;
      });
      assert.ok(last !== null);
      const settled = settle({ ...(last as ManagerFacts), commands: [] }, memory);
      assert.ok(settled, 'the cluster never comes to rest');
    }),
    { numRuns: 200 },
  );
});

/** Rounds with the same nodes and wishes, in which every order goes well: true once one of them changes nothing. */
function settle(facts: ManagerFacts, start: ManagerMemory): boolean {
  let memory = start;
  for (let round = 0; round < 40; round += 1) {
    const guests = facts.guests.map((entry): GuestFacts => {
      const home = memory.guests.get(entry.id)?.node ?? entry.home;
      return { ...entry, home, orderOver: false, givenUp: false };
    });
    const results = new Map([...memory.guests.values()].map((entry) => [entry.orderId, 'ok'] as const));
    const settings = { ...facts.settings, standingOrders: true };
    const next = planRound({ ...facts, settings, guests, results, nowMs: facts.nowMs + round * 200_000 }, memory).memory;
    if (JSON.stringify([...next.guests]) === JSON.stringify([...memory.guests])) return true;
    memory = next;
  }
  return false;
}
