import assert from 'node:assert/strict';
import { test } from 'node:test';
import { keys } from '#core/ha/keys.ts';
import type { HaResource } from '#core/ha/records.ts';
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
  for (const [name, value] of [
    ['address', 'no host'],
    ['port', '0'],
    ['user', 'a user'],
    ['password-file', 'secret'],
  ] as const) {
    const refused = await fake.run('node', 'bmc', 'set', 'n1', ...good, `--${name}`, value);
    assert.deepEqual([refused.code, refused.err.startsWith(`holdfast: ${name}: `)], [2, true], refused.err);
  }
});
