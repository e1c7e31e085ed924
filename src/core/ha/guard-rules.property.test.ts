import { strict as assert } from 'node:assert';
import { test } from 'node:test';
import fc from 'fast-check';
import { planClaim } from '#core/ha/claim.ts';
import { planGuard } from '#core/ha/guard-rules.ts';
import type { GuardPlan } from '#core/ha/guard-state.ts';
import { disarmKinds, faultKinds, otherKinds, type Fault, type FaultKind } from '#core/ha/guard-world-faults.ts';
import { shippedWorldRules, World, type WorldRules } from '#core/ha/guard-world.ts';

/** Everything heals within a claim, a boot and a rival's wait; several times over. */
const quietMs = 9_000;

/** Lives in which these things happen; often at once, so that faults meet; often longer than a claim, so that they matter. */
function drawLives(kinds: readonly FaultKind[]) {
  const fault = fc.record({
    kind: fc.constantFrom(...kinds),
    afterMs: fc.oneof(fc.constant(0), fc.integer({ min: 0, max: 1_200 })),
    forMs: fc.oneof(
      fc.integer({ min: 10, max: 900 }),
      fc.integer({ min: 900, max: 1_900 }),
      fc.integer({ min: 2_500, max: 4_000 }),
    ),
  });
  return fc.record({
    faults: fc.array(fault, { minLength: 1, maxLength: 8 }),
    seed: fc.integer(),
    guardRate: fc.constantFrom(0.99, 1, 1.01),
  });
}

type Life = { faults: Fault[]; seed: number; guardRate: number };

function live({ faults, seed, guardRate }: Life, rules: WorldRules = shippedWorldRules): World {
  const world = new World(seed, guardRate, rules);
  world.startGuardAtMs = 0;
  world.pass(1_500);
  for (const fault of faults) {
    world.pass(fault.afterMs);
    world.begin(fault);
  }
  world.pass(Math.max(0, ...faults.map((fault) => fault.forMs)));
  return world;
}

test('whatever fails, no guest executes under an epoch that is not granted, and all is well again afterwards', () => {
  const totals = { thaws: 0, resets: 0, claims: 0, disarms: 0 };
  const check = (life: Life) => {
    const world = live(life);
    world.pass(quietMs);
    totals.thaws += world.host.thaws;
    totals.resets += world.host.resets;
    totals.claims += world.manager.claims;
    totals.disarms += world.disarms;
    assert.equal(world.unguardedMs, 0);
    const mode = world.guard?.state.mode;
    const settled = mode?.kind === 'serving' || (mode?.kind === 'released' && mode.until === 'restart');
    assert(settled, `everything is well for ${quietMs} ms and the guard is ${JSON.stringify(mode ?? 'gone')}`);
    if (mode.kind !== 'serving') return;
    assert.equal(world.permit()?.epoch, mode.epoch);
    assert(world.host.groups.get(mode.epoch)?.guests, 'the guests run again');
  };
  const kinds = [...faultKinds, ...faultKinds, ...otherKinds, ...disarmKinds, ...disarmKinds];
  fc.assert(fc.property(drawLives(kinds), check), { numRuns: 60 });
  // The worlds were worth something only if guests were thawed, hosts reset and epochs claimed in them.
  const { thaws, resets, claims, disarms } = totals;
  assert(thaws > 0 && resets > 5 && claims > 5 && disarms > 0, JSON.stringify(totals));
});

/** Orders to disarm meet what cuts the store and what ends a guard. */
const aroundDisarm: FaultKind[] = [
  ...(['disarmed', 'disarmed', 'disarmed'] as const),
  ...(['store-down', 'answers-lost', 'commits-lost', 'store-slow', 'pause', 'power-cut'] as const),
  ...(['guard-killed', 'killed-inside', 'killed-inside', 'stopped', 'handed-over', 'file-stuck'] as const),
];

test('a disarmed guard lets its guests run, without the store and through the next guard of the boot', () => {
  const totals = { disarms: 0, claims: 0, ranOn: 0 };
  const check = (life: Life) => {
    const world = live(life);
    const { host } = world;
    world.active.set('disarmed', Number.POSITIVE_INFINITY);
    world.pass(quietMs);
    const mode = world.guard?.state.mode;
    assert(mode?.kind === 'disarmed', `disarmed for ${quietMs} ms and the guard is ${JSON.stringify(mode ?? 'gone')}`);
    assert.deepEqual([world.permit()?.epoch, world.heartbeat()?.phase], [mode.epoch, 'disarmed']);
    assert(host.nowayout || host.watchdog === null, 'the watchdog is closed');
    const before = { resets: host.resets, running: countRunning(world) };
    world.begin({ kind: 'store-down', afterMs: 0, forMs: 3 * quietMs });
    world.pass(quietMs);
    world.begin({ kind: host.nowayout ? 'handed-over' : 'guard-killed', afterMs: 0, forMs: 200 });
    world.pass(quietMs);
    assert.deepEqual({ resets: host.resets, running: countRunning(world) }, before);
    assert.equal(world.unguardedMs, 0);
    totals.disarms += world.disarms;
    totals.claims += world.manager.claims;
    totals.ranOn += before.running;
  };
  fc.assert(fc.property(drawLives(aroundDisarm), check), { numRuns: 60 });
  assert(totals.disarms > 30 && totals.claims > 5 && totals.ranOn > 10, JSON.stringify(totals));
});

function countRunning(world: World): number {
  return [...world.host.groups.values()].filter((group) => group.guests && !group.frozen).length;
}

/** Lets go as soon as it sees the order. */
const letsGoAtOnce: WorldRules['planGuard'] = (state, facts, nowBootMs): GuardPlan => {
  const plan = planGuard(state, facts, nowBootMs);
  const { mode, store } = plan.next;
  if (mode.kind !== 'serving' || (store.sight?.disarm ?? null) === null) return plan;
  const disarmed = { kind: 'disarmed', sinceBootMs: nowBootMs, epoch: mode.epoch, thawedBootMs: null } as const;
  const effects = plan.effects.filter(({ kind }) => kind === 'look' || kind === 'commit');
  return { ...plan, next: { mode: disarmed, store }, effects: [{ kind: 'disarm' }, ...effects] };
};

/** Says that it serves, and opens the watchdog when that was acknowledged. */
const saysServingFirst: WorldRules['planGuard'] = (state, facts, nowBootMs): GuardPlan => {
  const isEarly = state.mode.kind === 'arming' && facts.watchdog.kind === 'closed' && facts.answer === null;
  if (!isEarly) return planGuard(state, facts, nowBootMs);
  const watchdog = { kind: 'open', timeoutMs: 1_000, stuckArmed: false } as const;
  const plan = planGuard(state, { ...facts, watchdog }, nowBootMs);
  return { ...plan, effects: plan.effects.filter(({ kind }) => kind !== 'pet') };
};

/** Goes on although guard.json cannot be written and would make the next guard of this boot believe that nothing is guarded. */
const ignoresFile: WorldRules['planGuard'] = (state, facts, nowBootMs) =>
  planGuard(state, { ...facts, fileSaysDisarmed: false }, nowBootMs);

/** Waits for ever for the answer to what it said when it armed again. */
const armsWithoutLimit: WorldRules['planGuard'] = (state, facts, nowBootMs) => {
  if (state.mode.kind !== 'arming') return planGuard(state, facts, nowBootMs);
  return planGuard({ ...state, mode: { ...state.mode, carriedBootMs: null } }, facts, nowBootMs);
};

const ignoresPhase: WorldRules['planClaim'] = (facts, ...rest) =>
  planClaim({ ...facts, heartbeat: { ...facts.heartbeat, phase: 'serving' } }, ...rest);

/** Lives that go through these faults in their order. */
function drawScript(...steps: { kind: FaultKind; afterMs: [min: number, max: number]; forMs: number }[]): fc.Arbitrary<Life> {
  const faults = steps.map(({ kind, afterMs: [min, max], forMs }) =>
    fc.record({ kind: fc.constant(kind), afterMs: fc.integer({ min, max }), forMs: fc.constant(forMs) }),
  );
  return fc.record({ faults: fc.tuple(...faults), seed: fc.integer(), guardRate: fc.constant(1) });
}

const armsAndDies = drawScript(
  { kind: 'disarmed', afterMs: [0, 0], forMs: 600 },
  { kind: 'answers-lost', afterMs: [550, 750], forMs: 2_000 },
  { kind: 'guard-killed', afterMs: [0, 300], forMs: 4_000 },
);
const armsAndIsCutOff = drawScript(
  { kind: 'disarmed', afterMs: [0, 0], forMs: 600 },
  { kind: 'store-down', afterMs: [600, 900], forMs: 6_000 },
);
const armsUntoldAndIsReplaced = drawScript(
  { kind: 'disarmed', afterMs: [0, 0], forMs: 900 },
  { kind: 'file-stuck', afterMs: [500, 500], forMs: 6_000 },
  { kind: 'store-down', afterMs: [700, 1_300], forMs: 6_000 },
  { kind: 'guard-killed', afterMs: [0, 0], forMs: 100 },
);

const broken = [
  {
    what: 'a guard lets go before the heartbeat is acknowledged',
    rules: { planGuard: letsGoAtOnce },
    lives: drawLives(aroundDisarm),
  },
  {
    what: 'a guard says that it serves before the watchdog is open',
    rules: { planGuard: saysServingFirst },
    lives: armsAndDies,
  },
  {
    what: 'a guard says that it serves while guard.json says disarmed',
    rules: { planGuard: ignoresFile },
    lives: armsUntoldAndIsReplaced,
  },
  {
    what: 'a guard that arms again knows no limit',
    rules: { planGuard: armsWithoutLimit },
    lives: armsAndIsCutOff,
  },
  { what: 'a claim ignores the phase', rules: { planClaim: ignoresPhase }, lives: drawLives(aroundDisarm) },
];

for (const { what, rules, lives } of broken) {
  test(`caught: ${what}`, () => {
    fc.assert(
      fc.property(lives, (life) => assert.equal(live(life).unguardedMs, 0)),
      { numRuns: 40 },
    );
    const property = fc.property(lives, (life) => live(life, { ...shippedWorldRules, ...rules }).pass(4_000));
    const found = fc.check(property, { numRuns: 2_000, seed: 1, endOnFailure: true });
    assert(found.failed, `not caught in ${found.numRuns} lives`);

    assert.match(String(found.errorInstance), /a guest executes under epoch \d+, the store says .*"revoked"/);
  });
}
