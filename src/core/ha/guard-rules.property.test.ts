import { strict as assert } from 'node:assert';
import { test } from 'node:test';
import fc from 'fast-check';
import { faultKinds, otherKinds, stepMs, World, type Fault } from '#core/ha/guard-world.ts';

/** Everything heals within a claim, a boot and a rival's wait; several times over. */
const quietMs = 9_000;

const totals = { thaws: 0, resets: 0, claims: 0, runs: 0 };

function run(faults: Fault[], seed: number, guardRate: number): void {
  const world = new World(seed, guardRate);
  world.startGuardAtMs = 0;
  for (let waitMs = 0; waitMs < 1_500; waitMs += stepMs) world.step();
  for (const fault of faults) {
    for (let waitMs = 0; waitMs < fault.afterMs; waitMs += stepMs) world.step();
    world.begin(fault);
  }
  const longestMs = Math.max(0, ...faults.map((fault) => fault.forMs));
  for (let waitMs = 0; waitMs < longestMs + quietMs; waitMs += stepMs) world.step();
  totals.thaws += world.thaws;
  totals.resets += world.resets;
  totals.claims += world.claims;
  totals.runs += 1;
  const mode = world.guard?.state.mode;
  const settled = mode?.kind === 'serving' || (mode?.kind === 'released' && mode.until === 'restart');
  assert(settled, `everything is well for ${quietMs} ms and the guard is ${JSON.stringify(mode ?? 'gone')}`);
  if (mode.kind === 'serving') {
    assert.equal(world.permit()?.epoch, mode.epoch);
    assert(world.groups.get(mode.epoch)?.guests, 'the guests run again');
  }
}

test('whatever fails, no guest executes under an epoch that is not granted, and all is well again afterwards', () => {
  const fault = fc.record({
    kind: fc.constantFrom(...faultKinds, ...faultKinds, ...otherKinds),
    // Often at once, so that faults meet; often longer than a claim, so that they matter.
    afterMs: fc.oneof(fc.constant(0), fc.integer({ min: 0, max: 1_200 })),
    forMs: fc.oneof(
      fc.integer({ min: 10, max: 900 }),
      fc.integer({ min: 900, max: 1_900 }),
      fc.integer({ min: 2_500, max: 4_000 }),
    ),
  });
  fc.assert(fc.property(fc.array(fault, { minLength: 1, maxLength: 8 }), fc.integer(), fc.constantFrom(0.99, 1, 1.01), run), {
    numRuns: 60,
  });
  // The worlds were worth something only if guests were thawed, hosts reset and epochs claimed in them.
  assert(totals.thaws > 0 && totals.resets > 5 && totals.claims > 5, JSON.stringify(totals));
});
