import assert from 'node:assert/strict';
import { test } from 'node:test';
import { createFakeWorld, type FakeWorld } from '#cli/fake-world.ts';
import type { LabEvent } from '#lab/lab-event.ts';

/** A machine room that notes what it is asked for. */
function createFakeLab(): { fake: FakeWorld; calls: unknown[][] } {
  const fake = createFakeWorld();
  const calls: unknown[][] = [];
  const note =
    <T>(name: string, answer: T) =>
    (...args: unknown[]): Promise<T> => {
      calls.push([name, ...args]);
      return Promise.resolve(answer);
    };
  Object.assign(fake.lab, {
    plug: note('plug', { atMs: 1, killTookMs: 0.4, emptyAfterMs: 12.3 }),
    link: note('link', undefined),
    switchPower: note('switch', undefined),
    runInNode: note('exec', 7),
    signalService: note('signal', [11, 12]),
    labDown: note('down', true),
    labUp: ({ progress, ...wanted }: { progress: (text: string) => void }) => {
      progress('booting n1, n2');
      calls.push(['up', wanted]);
      return Promise.resolve();
    },
  });
  return { fake, calls };
}

test('lab up hands on what was asked for, tells its progress on stderr and its end on stdout', async () => {
  const { fake, calls } = createFakeLab();
  const argv = 'lab up --nodes 2 --no-bmc --profile brisk --asset vmlinuz=/boot/k --ttl 10m --lab other'.split(' ');
  const { code, out, err } = await fake.run(...argv);
  assert.deepEqual([code, out, err], [0, 'lab other is up: 2 nodes; look around with: holdfast status\n', 'booting n1, n2\n']);
  assert.deepEqual(calls, [
    [
      'up',
      {
        name: 'other',
        nodes: 2,
        bmc: false,
        timingProfile: 'brisk',
        accelerator: 'auto',
        assets: { vmlinuz: '/boot/k' },
        ttlMs: 600_000,
      },
    ],
  ]);
});

test('lab down without a name means the default lab, never the one that happens to be up', async () => {
  const { fake, calls } = createFakeLab();
  assert.equal((await fake.run('lab', 'down')).out, 'lab lab is down and removed\n');
  await fake.run('lab', 'down', '--lab', 'other');
  assert.deepEqual(calls, [
    ['down', 'lab'],
    ['down', 'other'],
  ]);
});

test('Ctrl-C while the lab comes up removes it again', async () => {
  const { fake, calls } = createFakeLab();
  fake.lab.labUp = () => {
    fake.interrupt.abort(new Error('interrupted'));
    return new Promise(() => {});
  };
  assert.equal((await fake.run('lab', 'up')).code, 130);
  assert.deepEqual(calls, [['down', 'lab']]);
});

test('plugs, links, the switch, signals and programs reach the room as typed', async () => {
  const { fake, calls } = createFakeLab();
  assert.equal((await fake.run('lab', 'plug', 'n1', 'off')).out, 'n1 lost power; its last process was gone after 12 ms\n');
  await fake.run('lab', 'plug', 'n1', 'off', '--keep-bmc');
  await fake.run('lab', 'link', 'n2', 'cut-tx');
  await fake.run('lab', 'link', 'n2', 'delay', '50');
  await fake.run('lab', 'switch', 'on');
  await fake.run('lab', 'signal', 'n2', 'guard', 'stop');
  assert.equal((await fake.run('lab', 'exec', 'n3', '--', 'ip', '-br', 'address')).code, 7);
  assert.deepEqual(calls, [
    ['plug', 'the-only-one', 'n1', 'off', { keepBmc: false }],
    ['plug', 'the-only-one', 'n1', 'off', { keepBmc: true }],
    ['link', 'the-only-one', 'n2', 'cut-tx'],
    ['link', 'the-only-one', 'n2', { delayMs: 50 }],
    ['switch', 'the-only-one', 'on'],
    ['signal', 'the-only-one', 'n2', 'guard', 'SIGSTOP'],
    ['exec', 'the-only-one', 'n3', ['ip', '-br', 'address']],
  ]);
});

test('what the room does not know is refused by its field before the room is asked', async () => {
  const { fake, calls } = createFakeLab();
  for (const [line, words] of [
    ['plug n1 half', /power: "half" is none of off, on/],
    ['plug n1 on --keep-bmc', /keep-bmc: /],
    ['link n1 broken', /state: "broken" is none of up/],
    ['link n1 delay', /milliseconds: belong to/],
    ['link n1 up 50', /milliseconds: belong to/],
    ['signal n1 guard FOO', /signal: "SIGFOO"/],
    ['up --nodes 10', /nodes: "10" is not a whole number from 1 to 9/],
    ['up --profile fast', /profile: "fast" is none of brisk/],
    ['up --asset kernel', /asset: "kernel" is not NAME=FILE/],
  ] as const) {
    const { code, err } = await fake.run('lab', ...line.split(' '));
    assert.deepEqual([code, words.test(err)], [2, true], err);
  }
  assert.deepEqual(calls, []);
});

test('lab events show the newest and follow what comes', async () => {
  const { fake } = createFakeLab();
  const events: LabEvent[] = [
    { atMs: 1_000, event: 'switch', power: 'off' },
    { atMs: 2_000, event: 'power-off', node: 'n1', by: 'plug', killTookMs: 0.44, emptyAfterMs: null },
  ];
  fake.lab.readLabEvents = () => events.slice();
  assert.match((await fake.run('lab', 'events')).out, /n1 +power-off +by plug, killTookMs 0\.4$/m);
  fake.onSleep = () => {
    if (events.length < 4) events.push({ atMs: 3_000, event: 'controller-off', node: 'n2' });
    else fake.interrupt.abort(new Error('interrupted'));
  };
  const { code, out } = await fake.run('lab', 'events', '--limit', '1', '--follow');
  assert.equal(code, 130);
  assert.equal(out.match(/controller-off/g)?.length, 2);
  assert.equal(out.match(/TIME/g)?.length, 1);
});

test('drills get their options checked, and their exit code is ours', async () => {
  const fake = createFakeWorld();
  const seen: unknown[] = [];
  fake.drills.runPulls = ({ count, roles, jsonFile, lab, controller }) => {
    seen.push({ count, roles, jsonFile, lab, controller });
    return Promise.resolve(1);
  };
  const { code } = await fake.run(...'drill pulls --count 3 --roles plain,store --controller --json /tmp/pulls.json'.split(' '));
  assert.deepEqual(
    [code, seen],
    [1, [{ count: 3, roles: ['plain', 'store'], jsonFile: '/tmp/pulls.json', lab: null, controller: true }]],
  );
  assert.match((await fake.run('drill', 'pulls', '--roles', 'plain,king')).err, /roles: "king" is none of plain/);
  assert.match((await fake.run('drill', 'pulls', '--roles', 'plain,plain')).err, /roles: a role is given twice/);
  assert.equal(seen.length, 1);
});
