import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { GuestRecord } from '#core/guest/guest-record.ts';
import { keys } from '#core/ha/keys.ts';
import type { BmcRecord, HaResource } from '#core/ha/records.ts';
import type { ReplicationJob } from '#core/replica/records.ts';
import { createHealthyCluster, playAgent, running } from '#cli/fake-world.ts';

test('ha set changes one thing and keeps the other', async () => {
  const fake = createHealthyCluster();
  assert.equal((await fake.run('ha', 'set', '100', '--max-data-age', '5m')).code, 0);
  assert.deepEqual(fake.store.peek(keys.haResource(100)), { vmid: 100, want: 'started', maxDataAgeMs: 300_000 });
  await fake.run('ha', 'set', 'ehr-db', '--want', 'disabled');
  assert.deepEqual(fake.store.peek(keys.haResource(100)), { vmid: 100, want: 'disabled', maxDataAgeMs: 300_000 });
  await fake.run('ha', 'set', '100', '--max-data-age', 'none');
  assert.equal(fake.store.peek<HaResource>(keys.haResource(100))?.maxDataAgeMs, null);
  assert.match((await fake.run('ha', 'set', '100', '--want', 'on')).err, /want: "on" is none of started, stopped/);
  assert.match((await fake.run('ha', 'set', '100')).err, /want: nothing to change/);
});

test('ha set writes each policy of a guest, and shows what holds', async () => {
  const fake = createHealthyCluster();
  fake.store.put(keys.guest(101), { ...fake.store.peek<GuestRecord>(keys.guest(100)), vmid: 101, name: 'web' });
  const policies = '--retries 3 --relocations 2 --failback off --wait-for-better-copy 5m --start-order 7 --starts-after ehr-db';
  const { code, out } = await fake.run('ha', 'set', 'web', ...policies.split(' '));
  assert.equal(code, 0);
  assert.deepEqual(fake.store.peek(keys.haResource(101)), {
    vmid: 101,
    want: 'ignored',
    maxDataAgeMs: null,
    localRetries: 3,
    otherNodeTries: 2,
    failback: false,
    betterCopyWaitMs: 300_000,
    startOrder: 7,
    startsAfter: [100],
  });
  assert.match(out, /^recovery +onto verified copies of any age; waits 5 min for a better one$/m);
  assert.match(out, /^starts +order 7, after 100$/m);
  await fake.run('ha', 'set', 'web', '--wait-for-better-copy', 'none', '--starts-after', 'none');
  const after = fake.store.peek<HaResource>(keys.haResource(101));
  assert.deepEqual([after?.betterCopyWaitMs, after?.startsAfter, after?.startOrder], [0, [], 7]);
});

test('guest start and stop keep every policy of the guest', async () => {
  const fake = createHealthyCluster();
  await fake.run('ha', 'set', '100', '--retries', '4', '--start-order', '2');
  await fake.run('guest', 'stop', '100', '--no-wait');
  assert.deepEqual(fake.store.peek(keys.haResource(100)), {
    vmid: 100,
    want: 'stopped',
    maxDataAgeMs: null,
    localRetries: 4,
    startOrder: 2,
  });
});

test('ha set refuses bad policies by their field, also guests that would wait for each other', async () => {
  const fake = createHealthyCluster();
  for (const [vmid, name] of [
    [101, 'web'],
    [102, 'mail'],
  ] as const) {
    fake.store.put(keys.guest(vmid), { ...fake.store.peek<GuestRecord>(keys.guest(100)), vmid, name });
  }
  await fake.run('ha', 'set', '101', '--starts-after', '100');
  await fake.run('ha', 'set', '102', '--starts-after', '101');
  const before = fake.store.peek(keys.haResource(100));
  for (const [argv, code, words] of [
    ['--retries many', 2, /retries: "many"/],
    ['--relocations 101', 2, /relocations: "101"/],
    ['--failback yes', 2, /failback: "yes" is none of on, off/],
    ['--wait-for-better-copy 5', 2, /wait-for-better-copy: "5" is not a duration/],
    ['--start-order -1', 2, /start-order: "-1"/],
    ['--starts-after 999', 3, /starts-after: there is no guest 999/],
    ['--starts-after 100', 2, /starts-after: guest 100 cannot wait for itself/],
    ['--starts-after 102', 2, /starts-after: .* for ever \(100 after 102 after 101 after 100\)/],
  ] as const) {
    const refused = await fake.run('ha', 'set', '100', ...argv.split(' '));
    assert.deepEqual([refused.code, words.test(refused.err)], [code, true], refused.err);
  }
  assert.deepEqual(fake.store.peek(keys.haResource(100)), before);
});

test('ha settings shows defaults, and changes only what is given', async () => {
  const fake = createHealthyCluster();
  const shown = await fake.run('ha', 'settings');
  assert.match(shown.out, /^placement +count +default$/m);
  assert.match(shown.out, /^quarantine-window +1 h +default$/m);
  assert.equal(fake.store.peek(keys.haSettings), null);
  const changed = await fake.run('ha', 'settings', '--rebalance', 'threshold=0.5,hold=4', '--shutdown-policy', 'migrate');
  assert.match(changed.out, /^rebalance +threshold=0.5,method=bruteforce,hold=4,gain=0.1 \(idle: needs placement/m);
  await fake.run('ha', 'settings', ...'--placement by-load --balance-on-start on --quarantine-after 0'.split(' '));
  assert.deepEqual(fake.store.peek(keys.haSettings), {
    autoRebalance: { threshold: 0.5, method: 'bruteforce', holdRounds: 4, minRelativeGain: 0.1 },
    shutdownPolicy: 'migrate',
    placement: 'by-load',
    balanceOnStart: true,
    quarantineAfter: 0,
  });
  assert.match((await fake.run('ha', 'settings', '--rebalance', 'off', '--json')).out, /"autoRebalance": null/);
});

test('ha settings refuses what no manager could work with, by its field', async () => {
  const fake = createHealthyCluster();
  for (const [argv, words] of [
    ['--placement best', /placement: "best" is none of count, by-size, by-load/],
    ['--balance-on-start 1', /balance-on-start: "1"/],
    ['--rebalance on', /rebalance: "on" is not key=value/],
    ['--rebalance method=luck', /rebalance method: "luck"/],
    ['--rebalance threshold=lots', /rebalance threshold: "lots" is not a number from 0 to 10/],
    ['--rebalance hold=0', /rebalance hold: "0"/],
    ['--rebalance gain=2', /rebalance gain: "2"/],
    ['--shutdown-policy none', /shutdown-policy: "none"/],
    ['--quarantine-after often', /quarantine-after: "often"/],
    ['--quarantine-window 5s', /quarantine-window: "5s" is not from 1m to 30d/],
  ] as const) {
    const refused = await fake.run('ha', 'settings', ...argv.split(' '));
    assert.deepEqual([refused.code, words.test(refused.err)], [2, true], refused.err);
  }
  assert.equal(fake.store.peek(keys.haSettings), null);
});

test('ha shows the timeline, newest so many, with the proof of a claim', async () => {
  const fake = createHealthyCluster();
  const event = { atMs: 100_000, kind: 'suspected', node: 'n1', vmid: null, managerEpoch: 4, text: 'n1 is silent', proof: null };
  fake.store.put(keys.haEvent('1'), { ...event, id: '1' });
  const proof = { kind: 'silence', heartbeatSeq: 1, silentMs: 15_000, claimMs: 15_000, observer: 'n2' };
  fake.store.put(keys.haEvent('2'), { ...event, id: '2', atMs: 112_000, kind: 'claimed', text: 'n1 is claimed', proof });
  const { out } = await fake.run('ha');
  assert.match(out, /suspected +n1 +n1 is silent$/m);
  assert.match(out, /\+12 s +claimed +n1 +n1 is claimed \(silent for 15 s, seen by/);
  assert.equal((JSON.parse((await fake.run('ha', 'events', '--limit', '1', '--json')).out) as unknown[]).length, 1);
});

test('replication set begins with the defaults and changes what is given', async () => {
  const fake = createHealthyCluster();
  const { out } = await fake.run('replication', 'set', '100', '--interval', '5s', '--rate', '10M', '--keep', 'recent=6,hours=0');
  assert.equal(out, 'guest 100 ehr-db: every 5.0 s, at most 10 MiB/s, keeps 6 newest, 3 minutes, 0 hours\n');
  assert.deepEqual(fake.store.peek<ReplicationJob>(keys.replicationJob(100)), {
    vmid: 100,
    intervalMs: 5_000,
    rateBytesPerSecond: 10 << 20,
    keep: { recent: 6, minutes: 3, hours: 0 },
    enabled: true,
  });
  await fake.run('replication', 'set', '100', '--rate', 'none', '--off');
  assert.deepEqual([fake.store.peek<ReplicationJob>(keys.replicationJob(100))?.rateBytesPerSecond], [null]);
  for (const [argv, words] of [
    [['--interval', '500ms'], /interval: "500ms" is not from 1s to 24h/],
    [['--rate', '1K'], /rate: "1K" is less than 64K/],
    [['--keep', 'recent=0'], /keep recent: "0"/],
    [['--keep', 'days=1'], /keep: unknown key "days"/],
    [['--on', '--off'], /on: --on and --off exclude/],
    [[], /interval: nothing to change/],
  ] as const) {
    const refused = await fake.run('replication', 'set', '100', ...argv);
    assert.deepEqual([refused.code, words.test(refused.err)], [2, true], refused.err);
  }
});

test('a tail is found by name, exported and released on the node that holds it', async () => {
  const fake = createHealthyCluster();
  const missing = await fake.run('replication', 'export', '100', 'left-behind-g7', '/tmp/x');
  assert.deepEqual([missing.code, /known: left-behind-g1 on n3/.test(missing.err)], [3, true]);
  const unsure = await fake.run('replication', 'release', '100', 'left-behind-g1');
  assert.deepEqual([unsure.code, /destroys 5 MiB; add --yes/.test(unsure.err)], [2, true]);
  const seen = playAgent(fake, [running, running, running, { state: 'done', result: ['/tmp/x/disk0.raw'] }]);
  const { out } = await fake.run('replication', 'export', '100', 'left-behind-g1', '/tmp/x');
  assert.equal(out, 'left-behind-g1 of guest 100 is written on n3:\n/tmp/x/disk0.raw\n');
  assert.deepEqual([seen[0]?.node, seen[0]?.kind], ['n3', 'tail-export']);
});

test('node end asks the agent of the node and tells what may be done now; node stay takes it back', async () => {
  const fake = createHealthyCluster();
  const result = ['n1 may end (policy freeze)', 'guest 100 waits for n1'];
  const seen = playAgent(fake, [running, { state: 'done', result }]);
  const { code, out, err } = await fake.run('node', 'end', 'n1', '--reboot', '--policy', 'freeze');
  assert.deepEqual(
    [code, out],
    [0, 'n1 may end (policy freeze)\nguest 100 waits for n1\nto keep it up after all: holdfast node stay n1\n'],
  );
  assert.match(err, /^n1: copying disk0$/m);
  const request = seen[0];
  assert.ok(request?.kind === 'node-end');
  assert.deepEqual([request.node, request.request, request.policy], ['n1', 'reboot', 'freeze']);
  playAgent(fake, [running, { state: 'done', result: ['n1 takes guests again'] }]);
  assert.equal((await fake.run('node', 'stay', 'n1')).out, 'n1 takes guests again\n');
  for (const [argv, words] of [
    ['end n1', /power-off: say what/],
    ['end n1 --power-off --reboot', /power-off: say what/],
    ['end n1 --reboot --policy soft', /policy: "soft" is none of conditional/],
    ['end n9 --reboot', /node: there is no node n9/],
    ['stay n9', /node: there is no node n9/],
  ] as const) {
    assert.match((await fake.run('node', ...argv.split(' '))).err, words);
  }
});

test('node bmc set refuses what no controller can be reached by', async () => {
  const fake = createHealthyCluster();
  const good = ['--address', '10.0.0.9', '--user', 'fence', '--password-file', '/etc/holdfast/secrets/bmc'];
  assert.equal((await fake.run('node', 'bmc', 'set', 'n1', ...good)).code, 0);
  assert.deepEqual(fake.store.peek(keys.nodeBmc('n1')), {
    kind: 'ipmilan',
    address: '10.0.0.9',
    port: 623,
    user: 'fence',
    passwordFile: '/etc/holdfast/secrets/bmc',
  });
  assert.equal((await fake.run('node', 'bmc', 'set', 'n1', ...good, '--cipher-suite', '3')).code, 0);
  assert.equal((fake.store.peek(keys.nodeBmc('n1')) as BmcRecord).cipherSuite, 3);
  for (const [name, value] of [
    ['address', 'no host'],
    ['port', '0'],
    ['user', 'a user'],
    ['password-file', 'secret'],
    ['cipher-suite', '18'],
  ] as const) {
    const refused = await fake.run('node', 'bmc', 'set', 'n1', ...good, `--${name}`, value);
    assert.deepEqual([refused.code, refused.err.startsWith(`holdfast: ${name}: `)], [2, true], refused.err);
  }
});

test('tails are listed with their size, their age and how long they are kept', async () => {
  const fake = createHealthyCluster();
  const kept = await fake.run('replication', 'tails');
  assert.match(kept.out, /LAST WRITE +KEPT/);
  assert.match(kept.out, /100 +n3 +left-behind-g1 +5 MiB +42 s +15 min \d+ s +until it is released/);
  await fake.run('replication', 'set', '100', '--keep-tails', '30d');
  assert.match((await fake.run('replication', 'tails')).out, /left-behind-g1 .*15 min \d+ s +(29|30) d.* more/);
});
