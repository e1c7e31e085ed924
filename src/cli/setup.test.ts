import assert from 'node:assert/strict';
import { test } from 'node:test';
import { AppError } from '#base/error.ts';
import { createFakeWorld, type FakeWorld } from '#cli/fake-world.ts';
import type { SetupTools } from '#cli/setup-tools.ts';

const setup = { name: 'n2', role: 'node', cluster: { id: 'c', name: 'Clinic' } };

/** Tools that note what they are asked for and say that all went well. */
function createFakeSetup(): { fake: FakeWorld; calls: unknown[][] } {
  const fake = createFakeWorld();
  const calls: unknown[][] = [];
  const tools = {
    createParts: () => 'parts',
    found: (options: { checkOnly: boolean }) => {
      calls.push(['found', options]);
      return Promise.resolve(options.checkOnly ? null : setup);
    },
    enter: async (options: { checkOnly: boolean }, readCode: () => Promise<string>) => {
      calls.push(['enter', options, await readCode()]);
      return options.checkOnly ? null : setup;
    },
    makeCode: (options: unknown) => {
      calls.push(['code', options]);
      return Promise.resolve({ code: 'hf1-x', expiresAtMs: 5 });
    },
    leave: (name: string) => {
      calls.push(['leave', name]);
      return Promise.resolve({ notes: ['two are left'], kept: ['/var/lib/holdfast'] });
    },
    replace: (options: unknown) => {
      calls.push(['replace', options]);
      return Promise.resolve({ notes: [], disksOf: [100, 101] });
    },
    forget: (options: unknown) => {
      calls.push(['forget', options]);
      return Promise.resolve();
    },
  };
  fake.setup = tools as unknown as SetupTools;
  return { fake, calls };
}

test('init passes what was typed on and tells what comes next; --check says that nothing was changed', async () => {
  const { fake, calls } = createFakeSetup();
  const done = await fake.run('init', '--name', 'n2', '--cluster-name', 'Clinic', '--profile', 'brisk');
  assert.equal(done.code, 0, done.err);
  assert.match(done.out, /cluster Clinic is founded; n2 serves\nnext, .* holdfast join-code here, then holdfast join there/);
  assert.deepEqual(calls[0]?.[1], { name: 'n2', clusterName: 'Clinic', profile: 'brisk', checkOnly: false });
  const check = await fake.run('init', '--check');
  assert.match(check.out, /fit to be a node; nothing was changed/);
});

test('a code that is not an argument is asked for; one that is, is hidden from others', async () => {
  const { fake, calls } = createFakeSetup();
  fake.secret = 'typed unseen';
  assert.equal((await fake.run('join')).code, 0);
  assert.deepEqual([calls[0]?.[2], fake.hidden], ['typed unseen', false]);
  const joined = await fake.run('join', 'hf1-code', '--witness');
  assert.deepEqual([calls[1]?.[2], fake.hidden], ['hf1-code', true]);
  assert.deepEqual((calls[1]?.[1] as { role: string } | undefined)?.role, 'witness');
  assert.ok(!`${joined.out}${joined.err}`.includes('hf1-code'), 'never printed');
});

test('a join code is printed alone on its line, good for half an hour unless told otherwise', async () => {
  const { fake, calls } = createFakeSetup();
  assert.equal((await fake.run('join-code')).out, 'hf1-x\n');
  await fake.run('join-code', '--witness', '--valid', '2h');
  assert.deepEqual(
    calls.map(([, options]) => options),
    [
      { role: 'node', validMs: 1_800_000 },
      { role: 'witness', validMs: 7_200_000 },
    ],
  );
  assert.equal((await fake.run('join-code', '--valid', '30')).code, 2);
});

test('leaving tells what was kept, replacing which disks are still to be accounted for', async () => {
  const { fake, calls } = createFakeSetup();
  const left = await fake.run('leave', 'n2');
  assert.match(left.out, /n2 has left the cluster\nnote: two are left\nkept: \/var\/lib\/holdfast/);
  const replaced = await fake.run('node', 'replace', 'n3');
  assert.match(replaced.out, /a new machine may join as n3\nit had disks of guests 100, 101/);
  assert.equal((await fake.run('node', 'forget', 'n3')).code, 2, 'not without saying that the disks are accounted for');
  assert.equal((await fake.run('node', 'forget', 'n3', '--disks-accounted-for')).code, 0);
  assert.deepEqual(calls.at(-1), ['forget', { name: 'n3' }]);
});

test('everything that is in the way is printed, with the exit code of its kind', async () => {
  const { fake } = createFakeSetup();
  fake.setup.found = () => Promise.reject(new AppError('conflict', 'two things stand in the way:\n  - one\n  - two\n'));
  const refused = await fake.run('init');
  assert.equal(refused.code, 4);
  assert.match(refused.err, /- one\n {2}- two/);
});
