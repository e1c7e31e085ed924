import assert from 'node:assert/strict';
import { test } from 'node:test';
import { createFakeWorld } from '#cli/fake-world.ts';

test('simulate tells what ran, what was checked, to people and to programs', async () => {
  const fake = createFakeWorld();
  const { code, out } = await fake.run('simulate', '--seeds', '1..2', '--hours', '0.02');
  assert.equal(code, 0);
  assert.match(out, /^2 seeds, 0\.\d hours simulated in .* hours per second$/m);
  assert.match(out, /^checked: S1 S2 .* S16 L1 .* L10$/m);
  assert.match(out, /^no violation$/m);
  const json = JSON.parse((await fake.run('simulate', '--seeds', '1', '--hours', '0.01', '--json')).out) as Record<
    string,
    unknown
  >;
  assert.deepEqual([json['seeds'], json['violations']], [1, []]);
});

test('simulate gives the same with any number of jobs, violations in the order of their seeds', async () => {
  const results = [];
  for (const jobs of ['1', '3']) {
    const fake = createFakeWorld();
    const { code, out } = await fake.run('simulate', '--seeds', '3..6', '--hours', '0.1', '--jobs', jobs, '--json');
    assert.equal(code, 0);
    results.push({ ...(JSON.parse(out) as Record<string, unknown>), hoursPerSecond: 0 });
  }
  assert.deepEqual(results[0], results[1]);
});

test('an interrupted simulate shows what it has come to', async () => {
  const fake = createFakeWorld();
  setTimeout(() => fake.interrupt.abort(), 300);
  const { code, out, err } = await fake.run('simulate', '--seeds', '1', '--hours', '1000', '--jobs', '1');
  assert.equal(code, 130);
  assert.match(err, /^interrupted: 1 of 1 seeds were begun/m);
  assert.match(out, /^1 seeds, \d+\.\d hours simulated in \d+\.\d s/m);
});

test('simulate refuses what it cannot read by the name of the option', async () => {
  const fake = createFakeWorld();
  assert.match((await fake.run('simulate', '--seeds', '5..1')).err, /seeds: 5\.\.1/);
  assert.match((await fake.run('simulate', '--hours', 'long')).err, /hours: long/);
  for (const jobs of ['0', '1.5', 'all']) assert.match((await fake.run('simulate', '--jobs', jobs)).err, /jobs: .* is not/);
});
