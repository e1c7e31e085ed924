import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { GuestRecord } from '#core/guest/guest-record.ts';
import { keys, prefixes } from '#core/ha/keys.ts';
import type { GuestEntry, GuestState } from '#core/ha/manager/memory.ts';
import type { HaMemory, HaStatus } from '#core/ha/records.ts';
import { createHealthyCluster, listKeys, playManager, type FakeWorld } from '#cli/fake-world.ts';

const emptyHaMemory: HaMemory = {
  nodes: { n1: 'up', n2: 'up', n3: 'up' },
  drains: [],
  disarm: null,
  unguarded: [],
  imbalancedRounds: 0,
  nextOrderId: 9,
  flaps: {},
};

const accepted = { state: 'accepted', because: 'as asked' } as const;

/** Changes guest 100 as the manager would: its state, and where it is at home. */
function setState(
  fake: FakeWorld,
  state: GuestState,
  changes: Partial<GuestRecord> = {},
  because = 'a move was asked for',
): void {
  const record = fake.store.peek<GuestRecord>(keys.guest(100));
  const node = changes.home ?? record?.home ?? 'n1';
  const ha: GuestEntry = {
    state,
    node,
    orderId: 8,
    failedNodes: [],
    returnTo: null,
    command: null,
    sinceMs: fake.nowMs,
    because,
  };
  fake.store.put(keys.guest(100), { ...record, ...changes, ha });
}

function setStatus(fake: FakeWorld, changes: Partial<HaStatus>): void {
  fake.store.put(keys.haStatus(100), { ...fake.store.peek<HaStatus>(keys.haStatus(100)), ...changes });
}

test('a command is written for the manager, its answer printed, and its record gone afterwards', async () => {
  const fake = createHealthyCluster();
  const seen = playManager(fake, { state: 'accepted', because: 'it moves to n2' });
  const { code, out } = await fake.run('ha', 'move', 'ehr-db', 'n2');
  assert.deepEqual([code, out], [0, 'guest 100 ehr-db: it moves to n2\n']);
  assert.deepEqual(seen[0]?.command, { kind: 'move', guest: '100', live: false, to: 'n2' });
  assert.deepEqual(await listKeys(fake, prefixes.haCommands), []);
});

test('each order becomes the command it names', async () => {
  const cases: [string, object][] = [
    ['relocate 100 n3', { kind: 'move', guest: '100', live: false, to: 'n3' }],
    ['stop 100', { kind: 'stop', guest: '100', timeoutMs: null }],
    ['stop 100 --timeout 0', { kind: 'stop', guest: '100', timeoutMs: 0 }],
    ['stop 100 --timeout 90s', { kind: 'stop', guest: '100', timeoutMs: 90_000 }],
    ['drain n1', { kind: 'drain', node: 'n1' }],
    ['undrain n1', { kind: 'undrain', node: 'n1' }],
    ['release-quarantine n3', { kind: 'release-quarantine', node: 'n3' }],
    ['disarm --mode hands-off', { kind: 'disarm', mode: 'hands-off' }],
    ['arm', { kind: 'arm' }],
  ];
  for (const [argv, command] of cases) {
    const fake = createHealthyCluster();
    const seen = playManager(fake, accepted);
    const { code, out } = await fake.run('ha', ...argv.split(' '));
    assert.deepEqual([code, seen.map((entry) => entry.command)], [0, [command]], argv);
    assert.match(out, /as asked/, argv);
  }
});

test('a refusal is a conflict with the reason of the manager', async () => {
  const fake = createHealthyCluster();
  playManager(fake, { state: 'refused', because: 'n2 is not up' });
  const { code, err } = await fake.run('ha', 'move', '100', 'n2');
  assert.equal(code, 4);
  assert.match(err, /the manager refused to move guest 100 to n2: n2 is not up; nothing was changed$/m);
  assert.deepEqual(await listKeys(fake, prefixes.haCommands), []);
});

test('bad input is refused by its field, and the manager is told nothing', async () => {
  const cases: [string, number, RegExp][] = [
    ['move 101 n2', 3, /guest: there is no guest 101; known: 100 ehr-db/],
    ['move 100 n9', 3, /node: there is no node n9; known: n1, n2, n3/],
    ['move 100 n2 --live', 10, /live: guests cannot be moved while they run yet/],
    ['move 100 n2 --timeout soon', 2, /timeout: "soon"/],
    ['stop 100 --timeout 5', 2, /timeout: "5" is not a duration/],
    ['drain n9', 3, /node: there is no node n9/],
    ['undrain n9', 3, /node: there is no node n9/],
    ['release-quarantine n9', 3, /node: there is no node n9/],
    ['disarm --mode off', 2, /mode: "off" is none of hold, hands-off/],
    ['disarm', 2, /--mode/],
  ];
  for (const [argv, code, words] of cases) {
    const fake = createHealthyCluster();
    const before = await fake.store.list('/');
    const result = await fake.run('ha', ...argv.split(' '));
    assert.match(result.err, words);
    assert.equal(result.code, code, argv);
    assert.deepEqual(await fake.store.list('/'), before, argv);
  }
});

test('a command that no manager takes is withdrawn, also at Ctrl-C', async () => {
  const alone = createHealthyCluster();
  const late = await alone.run('ha', 'arm');
  assert.equal(late.code, 9);
  assert.match(late.err, /no manager took the command to arm the cluster in 20 s; it was withdrawn and nothing was changed/);
  assert.deepEqual(await listKeys(alone, prefixes.haCommands), []);

  const interrupted = createHealthyCluster();
  interrupted.onSleep = () => interrupted.interrupt.abort(new Error('interrupted'));
  const cut = await interrupted.run('ha', 'drain', 'n1');
  assert.equal(cut.code, 130);
  assert.match(cut.err, /drain n1: the command was withdrawn, nothing was changed/);
  assert.deepEqual(await listKeys(interrupted, prefixes.haCommands), []);
});

test('a command that was taken while it was to be withdrawn ends with the answer', async () => {
  const fake = createHealthyCluster();
  const commit = fake.store.commit.bind(fake.store);
  let taken = false;
  fake.store.commit = async (compares, writes, options) => {
    const [first] = writes;
    if (first?.value === null && !taken) {
      taken = true;
      fake.store.put(first.key, { ...fake.store.peek<object>(first.key), ...accepted });
    }
    return commit(compares, writes, options);
  };
  const { code, out } = await fake.run('ha', 'arm');
  assert.deepEqual([code, out], [0, 'the cluster is being armed: as asked\n']);
});

test('a lost answer to the creation never takes an answer of the manager back', async () => {
  const fake = createHealthyCluster();
  const commit = fake.store.commit.bind(fake.store);
  let lost = false;
  fake.store.commit = async (compares, writes, options) => {
    const outcome = await commit(compares, writes, options);
    if (lost) return outcome;
    lost = true;
    const key = writes[0]?.key ?? '';
    fake.store.put(key, { ...fake.store.peek<object>(key), ...accepted });
    return { kind: 'maybe', cause: new Error('cut') };
  };
  assert.equal((await fake.run('ha', 'undrain', 'n1')).out, 'the drain of n1 is over: as asked\n');
});

test('move --wait follows the guest to its new node and tells how long it was down', async () => {
  const fake = createHealthyCluster();
  setState(fake, { kind: 'active', seenRunning: true, recovered: false });
  const askedAtMs = fake.nowMs;
  const story: [number, () => void][] = [
    [2_000, () => setStatus(fake, { state: 'stopped' })],
    [4_000, () => setState(fake, { kind: 'active', seenRunning: false, recovered: false }, { home: 'n2', generation: 2 })],
    [5_000, () => setStatus(fake, { node: 'n2', generation: 2, state: 'running' })],
  ];
  playManager(fake, accepted, () => setState(fake, { kind: 'moving-cold', to: 'n2' }));
  const before = fake.onSleep;
  fake.onSleep = () => {
    before();
    while (story[0] !== undefined && fake.nowMs - askedAtMs >= story[0][0]) story.shift()?.[1]();
  };
  const { code, out } = await fake.run('ha', 'move', '100', 'n2', '--wait');
  assert.deepEqual([code, out], [0, 'guest 100 ehr-db runs on n2; it was down for 3.0 s\n']);
});

test('move --wait says so when the guest stays where it was, at once or after its deadline', async () => {
  const back = createHealthyCluster();
  playManager(back, accepted, () => setState(back, { kind: 'moving-cold', to: 'n2' }));
  const before = back.onSleep;
  back.onSleep = () => {
    before();
    if (back.nowMs < 1_003_000) return;
    setState(
      back,
      { kind: 'active', seenRunning: true, recovered: false },
      {},
      'its move failed: the copy on n2 cannot be written',
    );
  };
  const failed = await back.run('ha', 'move', '100', 'n2', '--wait');
  assert.equal(failed.code, 4);
  assert.match(failed.err, /it stays on n1 \(its move failed: the copy on n2 cannot be written\)/);

  const slow = createHealthyCluster();
  playManager(slow, accepted, () => setState(slow, { kind: 'moving-cold', to: 'n2' }));
  const late = await slow.run('ha', 'relocate', '100', 'n2', '--wait', '--timeout', '1m');
  assert.equal(late.code, 9);
  assert.match(late.err, /it is moving-cold on n1; the move goes on/);
});

test('drain --wait names who is left and ends when nobody is', async () => {
  const fake = createHealthyCluster();
  setState(fake, { kind: 'active', seenRunning: true, recovered: false });
  playManager(fake, accepted, () => {
    fake.store.put(keys.haMemory, { ...emptyHaMemory, drains: ['n1'] });
    setState(fake, { kind: 'moving-cold', to: 'n2' }, {}, 'n1 is drained');
  });
  const before = fake.onSleep;
  fake.onSleep = () => {
    before();
    if (fake.nowMs < 1_005_000) return;
    setState(fake, { kind: 'active', seenRunning: true, recovered: false }, { home: 'n2', generation: 2 });
  };
  const { code, out, err } = await fake.run('ha', 'drain', 'n1', '--wait');
  assert.deepEqual([code, out], [0, 'n1 is drained: no guest is left on it\n']);
  assert.match(err, /still on n1: 100 ehr-db moving-cold/);
});

test('disarm --wait ends once every node has let go, or somebody arms again', async () => {
  const fake = createHealthyCluster();
  playManager(fake, accepted, () => {
    fake.store.put(keys.haMemory, { ...emptyHaMemory, disarm: { mode: 'hold', stage: 'in-force' } });
  });
  const before = fake.onSleep;
  fake.onSleep = () => {
    before();
    if (fake.nowMs < 1_003_000) return;
    fake.store.put(keys.haMemory, { ...emptyHaMemory, disarm: { mode: 'hold', stage: 'complete' } });
  };
  const { code, out } = await fake.run('ha', 'disarm', '--mode', 'hold', '--wait');
  assert.deepEqual([code, out], [0, 'the cluster is disarmed (hold); nobody is fenced or recovered until `holdfast ha arm`\n']);

  const armed = createHealthyCluster();
  playManager(armed, accepted, () => armed.store.put(keys.haMemory, emptyHaMemory));
  const ended = await armed.run('ha', 'disarm', '--mode', 'hold', '--wait');
  assert.deepEqual([ended.code, /somebody armed it meanwhile/.test(ended.err)], [4, true]);
});
