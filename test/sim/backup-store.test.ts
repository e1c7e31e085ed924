import assert from 'node:assert/strict';
import { test } from 'node:test';
import { createChance } from '#core/ha/seeded-chance.ts';
import { BackupWorld } from './backup-world.ts';

const users = 5;
const totals = {
  finished: 0,
  reused: 0,
  removedChunks: 0,
  pending: 0,
  crashes: 0,
  pruned: 0,
  caughtUp: 0,
  locked: 0,
  kept: 0,
  copied: 0,
  steps: 0,
};

/** Several users at once on one store, cut off at a step that chance chooses, several times over. */
async function live(seed: number): Promise<void> {
  const chance = createChance(seed);
  const world = new BackupWorld(chance);
  await world.open();
  for (let round = 0; round < 4; round += 1) {
    const isCut = round < 3 && chance() < 0.8;
    const everybody = Promise.all(
      Array.from({ length: users }, async () => {
        for (let deed = 0; deed < 6; deed += 1) await world.act();
      }),
    );
    if (isCut) {
      everybody.catch((error: unknown) => failures.push(error));
      await world.disk.runSteps(Math.floor(chance() * 1_500));
      world.checkPromises();
      await world.crash(chance() < 0.5 ? 'kill' : 'power');
      if (chance() < 0.6) await world.checkNothingWasted(); // before a later backup finds what was forgotten
    } else await world.disk.run(everybody);
    if (failures.length > 0) throw failures[0];
    world.checkPromises();
  }
  await world.checkNothingWasted();
  world.checkPromises();
  for (const name of [
    'finished',
    'reused',
    'removedChunks',
    'pending',
    'crashes',
    'pruned',
    'caughtUp',
    'locked',
    'kept',
    'copied',
  ] as const)
    totals[name] += world.counts[name];
  totals.steps += world.disk.steps;
}
const failures: unknown[] = [];

test('whatever users, collections and crashes do in whatever order, no acknowledged backup loses a chunk', async (context) => {
  const first = Number(process.env['HOLDFAST_SEED'] ?? 1);
  const count = Number(process.env['HOLDFAST_SEEDS'] ?? 60);
  for (let seed = first; seed < first + count; seed += 1) {
    try {
      await live(seed);
    } catch (error) {
      throw new Error(`seed ${seed} (HOLDFAST_SEED=${seed} HOLDFAST_SEEDS=1 repeats it): ${String(error)}`, { cause: error });
    }
  }
  context.diagnostic(JSON.stringify(totals));
  // The test must have seen what it is about.
  if (count >= 60) for (const [name, total] of Object.entries(totals)) assert.ok(total > 40, `${name} only ${total}`);
});
