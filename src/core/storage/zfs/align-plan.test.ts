import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { isAligned, planAlign, type AlignFacts, type AlignStep } from './align-plan.ts';
import type { Dataset, Version } from './listing.ts';

/** A model of ZFS that is just large enough: datasets with snapshots, clones that take over the past. */
function version(guid: string, writtenBytes: number, name = `hf-1-${guid}`): Version {
  return { kind: 'snapshot', name, guid, createtxg: 0, createdAtMs: 0, writtenBytes, clones: [], holds: 0, pointAtMs: 0 };
}

function dataset(name: string, versions: Version[], writtenBytes = 0): Dataset {
  return {
    name,
    type: 'volume',
    guid: name,
    usedBytes: 0,
    writtenBytes,
    origin: null,
    resumeToken: null,
    sizeBytes: 0,
    versions,
  };
}

/** What ZFS counts as written in a clone that nobody wrote to. */
const cloneBytes = 10_912;

type World = { live: Dataset | null; aside: Dataset | null };

function perform({ live, aside }: World, step: AlignStep): World {
  switch (step.do) {
    case 'forget-partial':
      return { live: live !== null && live.versions.length > 0 ? { ...live, resumeToken: null } : null, aside };
    case 'rollback': {
      assert.ok(live !== null);
      const index = live.versions.findIndex((entry) => entry.name === step.to);
      return { live: { ...live, versions: live.versions.slice(0, index + 1), writtenBytes: 0 }, aside };
    }
    case 'snapshot-live':
      assert.ok(live !== null);
      return {
        live: { ...live, versions: [...live.versions, version('last', live.writtenBytes, step.name)], writtenBytes: 0 },
        aside,
      };
    case 'rename-aside':
      assert.ok(aside === null, 'the name is taken');
      return { live: null, aside: live };
    case 'clone':
      assert.ok(live === null && aside !== null);
      return { live: { ...dataset('live', [], cloneBytes), origin: `aside@${step.snapshot}` }, aside };
    case 'promote': {
      assert.ok(live !== null && live.origin !== null && aside !== null);
      const at = aside.versions.findIndex((entry) => `aside@${entry.name}` === live.origin);
      const past = aside.versions.slice(0, at + 1);
      const rest = { ...aside, origin: `live@${past.at(-1)?.name}`, versions: aside.versions.slice(at + 1) };
      return { live: { ...live, origin: null, versions: past }, aside: rest };
    }
  }
}

/** Everything that was ever written and can still be read somewhere. */
function contents(world: World): string[] {
  return [world.live, world.aside].flatMap((held) => (held === null ? [] : held.versions.map((entry) => entry.guid))).toSorted();
}

const facts = (world: World, base: string | null, isKept: boolean): AlignFacts => ({
  ...world,
  base,
  isKept,
  asideSnapshot: 'left-behind-g1',
});

test('every disk comes to its base from wherever a crash left it, and nothing that was confirmed or written is lost', () => {
  const worlds = fc.record({
    count: fc.integer({ min: 0, max: 4 }),
    base: fc.option(fc.nat(3)),
    written: fc.nat(2),
    isKept: fc.boolean(),
    cuts: fc.array(fc.boolean(), { minLength: 12, maxLength: 12 }),
    isPartial: fc.boolean(),
  });
  fc.assert(
    fc.property(worlds, ({ count, base, written, isKept, cuts, isPartial }) => {
      const versions = Array.from({ length: count }, (_, index) => version(String(index), 1));
      const guid = base === null || base >= count ? null : String(base);
      const live = { ...dataset('live', versions, written), resumeToken: isPartial ? 't' : null };
      let world: World = { live, aside: null };
      const before = contents(world);
      for (const isCut of cuts) {
        // A crash after the first step: the plan is made anew from what is there.
        const steps = planAlign(facts(world, guid, isKept));
        for (const step of isCut ? steps.slice(0, 1) : steps) world = perform(world, step);
      }
      assert.deepEqual(planAlign(facts(world, guid, isKept)), []);
      assert.equal(world.live?.resumeToken ?? null, null);
      if (guid !== null) {
        assert.equal(world.live?.versions.at(-1)?.guid, guid);
        assert.equal(world.live?.writtenBytes, 0);
      }
      if (!isKept) return;
      for (const held of before) assert.ok(contents(world).includes(held), `${held} is lost`);
      if (written > 0 && count > 0) assert.ok(contents(world).includes('last'), 'the last writes are lost');
    }),
  );
});

test('writes above the base are looked at once more before they are set aside', () => {
  const live = dataset('live', [version('a', 1)], 500);
  assert.deepEqual(planAlign(facts({ live, aside: null }, 'a', true)), [
    { do: 'snapshot-live', name: 'left-behind-g1' },
    { do: 'rename-aside' },
    { do: 'clone', of: 'aside', snapshot: 'hf-1-a' },
    { do: 'promote' },
    { do: 'rollback', to: 'hf-1-a' },
  ]);
});

test('beginnings of a point that never became whole are put back; equal content needs no tail', () => {
  const live = dataset('live', [version('a', 1), version('b', 700)]);
  assert.deepEqual(planAlign(facts({ live, aside: null }, 'a', false)), [{ do: 'rollback', to: 'hf-1-a' }]);
  const equal = dataset('live', [version('a', 1), version('b', 0)]);
  assert.deepEqual(planAlign(facts({ live: equal, aside: null }, 'a', true)), [{ do: 'rollback', to: 'hf-1-a' }]);
});

test('the cut beginning of a first stream is not worth a tail', () => {
  const live = { ...dataset('live', [], 7_960_304), resumeToken: '1-a-b-c' };
  assert.deepEqual(planAlign(facts({ live, aside: null }, null, false)), [{ do: 'forget-partial' }]);
});

test('a volume that took over the past of another is at its base, though it says for ever that something was written; nothing else is', () => {
  const rolledBack = { do: 'rollback', to: 'hf-1-a' } as const;
  const aside = { ...dataset('aside', [version('last', 500)]), origin: 'live@hf-1-a' };
  const live = dataset('live', [version('a', 1)], cloneBytes);
  for (const isKept of [true, false]) {
    const left = planAlign(facts({ live, aside }, 'a', isKept));
    assert.deepEqual(left, [rolledBack]);
  }
  assert.ok(isAligned([{ do: 'promote' }, rolledBack], live, 'a'));
  assert.ok(isAligned([rolledBack], live, 'a'));
  assert.ok(!isAligned([], live, 'a'), 'nobody has put it back yet');
  assert.ok(!isAligned([{ do: 'rollback', to: 'hf-1-b' }], live, 'a'), 'it was put back to another');
  assert.ok(!isAligned([rolledBack], { ...live, versions: [...live.versions, version('b', 0)] }, 'a'), 'a point is left above');
  assert.ok(isAligned([{ do: 'rename-aside' }], null, null) && !isAligned([], null, 'a') && !isAligned([], live, null));
});

test('a demoted disk of which nothing but the last look is above the base is put back, whatever ZFS counts as written then', () => {
  // Found by the contract tests in a machine: the plan would set it aside as a tail once more.
  const demoted = dataset('live', [version('a', 1), version('tail', 0, 'left-behind-g1')]);
  const steps = planAlign(facts({ live: demoted, aside: null }, 'a', true));
  assert.deepEqual(steps, [{ do: 'rollback', to: 'hf-1-a' }]);
  assert.ok(isAligned(steps, dataset('live', [version('a', 1)], cloneBytes), 'a'));
});
