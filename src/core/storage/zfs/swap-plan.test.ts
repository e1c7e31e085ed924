import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { Dataset } from './listing.ts';
import { planSwap, type SwapStep } from './swap-plan.ts';

const dataset = (name: string, origin: string | null = null): Dataset => ({
  name,
  type: 'volume',
  guid: name,
  usedBytes: 0,
  writtenBytes: 0,
  origin,
  resumeToken: null,
  sizeBytes: 0,
  versions: [],
});
type World = { live: Dataset | null; next: Dataset | null; aside: Dataset | null };

function perform(world: World, step: SwapStep): World {
  const { live, next } = world;
  switch (step) {
    case 'set-aside':
      assert.ok(world.aside === null, 'the name is taken');
      return { ...world, live: null, aside: live };
    case 'promote':
      assert.ok(next !== null && next.origin !== null, 'only a clone can be promoted');
      return { ...world, next: { ...next, origin: null } };
    case 'take-place':
      assert.ok(live === null, 'the name is taken');
      return { ...world, live: next, next: null };
  }
}

test('disks with new content take their places whatever step a crash comes after; disks that nothing was written for stay', () => {
  for (const origin of ['live@before', null]) {
    for (let cut = 0; cut <= 3; cut += 1) {
      let world: World = { live: origin === null ? null : dataset('old'), next: dataset('new', origin), aside: null };
      for (const step of planSwap(world).slice(0, cut)) world = perform(world, step);
      for (const step of planSwap(world)) world = perform(world, step);
      assert.deepEqual([world.live?.name, world.next, world.aside?.name ?? null], ['new', null, origin === null ? null : 'old']);
      assert.deepEqual(planSwap(world), []);
    }
  }
});
