import { strict as assert } from 'node:assert';
import { test } from 'node:test';
import { describeFailure, minimize, parseSeeds } from '#sim/report.ts';
import { shippedRules } from '#sim/rules.ts';
import { runSeed } from '#sim/simulation.ts';
import { chooseSwarm, quietSwarm } from '#sim/swarm.ts';

const seeds = { first: 1, last: 24 };
const hoursEach = 0.15;

/** The worlds are worth something only if all of this happens in them. */
const happens = [
  'claims',
  'recoveries',
  'declines',
  'releases',
  'seals',
  'demotions',
  'moves',
  'commands',
  'disarms',
  'quarantines',
] as const;

test(`the shipped rules hold in ${seeds.last} worlds with faults and people`, (t) => {
  const totals: Record<string, number> = { hours: 0, plugMs: 0 };
  for (let seed = seeds.first; seed <= seeds.last; seed += 1) {
    const result = runSeed({ seed, hours: hoursEach });
    assert.equal(result.violation, null, describeFailure(result, hoursEach));
    for (const name of happens) totals[name] = (totals[name] ?? 0) + result.counts[name];
    totals['hours'] = (totals['hours'] ?? 0) + result.hours;
    totals['plugMs'] = Math.max(totals['plugMs'] ?? 0, result.longest.plugMs);
  }
  t.diagnostic(JSON.stringify(totals));
  for (const [name, count] of Object.entries(totals)) assert(count > 0, `${name} never happened`);
});

test('a seed replays event for event', () => {
  const runs = [1, 2].map(() => runSeed({ seed: 8, hours: 0.1 }));
  assert.equal(runs[0]?.events, runs[1]?.events);
  assert.deepEqual(runs[0]?.story, runs[1]?.story);
  assert.deepEqual(runs[0]?.counts, runs[1]?.counts);
});

test('guards that skip what cannot come to anything but a pet make the same runs', () => {
  for (let seed = 1; seed <= 12; seed += 1) {
    const [fast, slow] = [true, false].map((skipIdleGuardTicks) =>
      runSeed({ seed, hours: 0.1, rules: { ...shippedRules, skipIdleGuardTicks } }),
    );
    assert.deepEqual(fast, slow, `seed ${seed}`);
  }
});

test('a quiet cluster with wrong clocks, jitter, pauses and elections fences nobody and moves nothing', () => {
  let elections = 0;
  for (const seed of [1, 2, 3]) {
    const result = runSeed({ seed, hours: 1.5, swarm: quietSwarm(seed) });
    assert.equal(result.violation, null, describeFailure(result, 1.5));
    assert.equal(result.counts.claims, 0);
    elections += result.counts.elections - 1;
  }
  assert(elections > 1, 'leaders of the store changed');
});

test('a failing seed is told in plain words with fewer faults than it had', () => {
  const rules = { ...shippedRules, epochGroups: false, confirmOrder: false, planGuestAction: restless };
  const order = { seed: 3, hours: 1, rules, swarm: { ...chooseSwarm(3), faults: ['isolated' as const, 'lossy' as const] } };
  const failed = runSeed(order);
  assert(failed.violation !== null);
  const least = minimize(order, failed);
  assert.equal(least.violation?.invariant, failed.violation.invariant);
  const told = (text: string) => text.split('\n').filter((line) => line.includes('FAULT')).length;
  assert(told(describeFailure(least, 1)) <= told(describeFailure(failed, 1)));
  assert.match(describeFailure(least, 1), /^seed 3 breaks S\d+ \(.+\)\n/);
  assert.match(describeFailure(least, 1), /again: holdfast simulate --seeds 3\.\.3 --hours 1/);
});

/** Starts the guest wherever its disks are, whatever epoch it is. */
function restless(facts: Parameters<typeof shippedRules.planGuestAction>[0]): ReturnType<typeof shippedRules.planGuestAction> {
  const isHere = facts.copy?.role === 'primary' && facts.record?.generation === facts.copy.generation;
  if (facts.process === null && isHere) return { kind: 'start', because: 'restless' };
  return shippedRules.planGuestAction(facts);
}

test('seeds are read as a range and refused by name otherwise', () => {
  assert.deepEqual(parseSeeds('3..9'), { first: 3, last: 9 });
  assert.deepEqual(parseSeeds('7'), { first: 7, last: 7 });
  for (const bad of ['', 'a', '9..3', '1-4']) assert.throws(() => parseSeeds(bad), { kind: 'invalid', message: /^seeds: / });
});
