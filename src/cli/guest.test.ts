import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { GuestRecord } from '#core/guest/guest-record.ts';
import { keys, prefixes } from '#core/ha/keys.ts';
import type { HaResource, HaStatus } from '#core/ha/records.ts';
import { createHealthyCluster, listKeys, playAgent, running } from '#cli/fake-world.ts';

test('an unknown guest or node is refused with the known ones', async () => {
  const fake = createHealthyCluster();
  const guest = await fake.run('guest', 'show', '101');
  assert.deepEqual([guest.code, guest.err], [3, 'holdfast: guest: there is no guest 101; known: 100 ehr-db\n']);
  const node = await fake.run('node', 'show', 'n9');
  assert.deepEqual([node.code, node.err], [3, 'holdfast: node: there is no node n9; known: n1, n2, n3\n']);
});

test('guest show tells configuration, state and copies by number or name', async () => {
  const fake = createHealthyCluster();
  const { out } = await fake.run('guest', 'show', 'ehr-db');
  assert.match(out, /^hardware {2}2 cores, 1024 MiB$/m);
  assert.match(out, /^disks {5}disk0 2 GiB$/m);
  const json = JSON.parse((await fake.run('guest', 'show', '100', '--json')).out) as GuestRecord;
  assert.equal(json.config.memoryMb, 1_024);
});

test('guest create asks the agent of the home and shows its progress', async () => {
  const fake = createHealthyCluster();
  fake.files.set('/images/db.raw', 'x'.repeat(100));
  const seen = playAgent(fake, [running, { state: 'done', result: [] }]);
  const { code, out, err } = await fake.run(
    ...'guest create --name web --memory 1G --cores 2 --disk disk0=2G,import=/images/db.raw'.split(' '),
    ...'--disk disk1=1G --nic bridge=br0 --start'.split(' '),
  );
  assert.deepEqual([code, out], [0, 'guest 101 web is made on n1; it is wanted started\n']);
  assert.match(err, /n1: copying disk0\n/);
  const request = seen[0];
  assert.ok(request?.kind === 'guest-create');
  assert.deepEqual(
    [request.node, request.vmid, request.want, request.imports],
    ['n1', 101, 'started', { disk0: '/images/db.raw' }],
  );
  assert.deepEqual(request.config, {
    cores: 2,
    memoryMb: 1_024,
    disks: [
      { name: 'disk0', sizeBytes: 2 ** 31 },
      { name: 'disk1', sizeBytes: 2 ** 30 },
    ],
    nics: [{ mac: '52:54:00:ab:cd:ef', bridge: 'br0' }],
    boot: null,
  });
  assert.deepEqual(await listKeys(fake, prefixes.requests), []);
});

test('bad input to guest create is refused by its field and asks nobody', async () => {
  const disk = '--disk disk0=1G';
  const cases: [string, number, RegExp][] = [
    [`--name a_b ${disk}`, 2, /^holdfast: name: "a_b"/],
    [`--name 123 ${disk}`, 2, /^holdfast: name: "123"/],
    [`--name ehr-db ${disk}`, 4, /^holdfast: name: guest 100 is named ehr-db already/],
    [`--name w --vmid 100 ${disk}`, 4, /^holdfast: vmid: there is a guest 100 already/],
    [`--name w --vmid 7 ${disk}`, 2, /^holdfast: vmid: "7"/],
    [`--name w --cores 0 ${disk}`, 2, /^holdfast: cores: "0"/],
    [`--name w --memory 512 ${disk}`, 2, /^holdfast: memory: "512"/],
    [`--name w --disk disk0=big`, 2, /^holdfast: disk0: "big" is not a size/],
    [`--name w --disk disk0=1G --disk disk0=2G`, 2, /^holdfast: disk: disk0 is given twice/],
    [`--name w --disk disk0=1G,format=qcow2`, 2, /^holdfast: disk: unknown key "format"/],
    [`--name w --nic bridge=br0,mac=52:54:00:00:00:01 ${disk}`, 4, /^holdfast: nic: .* in use/],
    [`--name w --nic bridge=br0,mac=01:54:00:00:00:01 ${disk}`, 2, /^holdfast: config\.nics\[0\]\.mac: 01:54.* group address/],
    [`--name w --kernel ../vmlinuz ${disk}`, 2, /^holdfast: config\.boot\.kernel: /],
    [`--name w --initrd x ${disk}`, 2, /^holdfast: initrd: makes sense only with --kernel/],
    [`--name w`, 2, /^holdfast: disk: a guest needs a disk/],
    [`--name w --node n9 ${disk}`, 3, /^holdfast: node: there is no node n9/],
    [`--name w --disk disk0=1G,import=/none`, 3, /^holdfast: disk0: there is no file \/none/],
    [`--name w --timeout 5 ${disk}`, 2, /^holdfast: timeout: "5" is not a duration/],
  ];
  for (const [argv, code, words] of cases) {
    const fake = createHealthyCluster();
    const before = await fake.store.list('/');
    const result = await fake.run('guest', 'create', ...argv.split(' '));
    assert.match(result.err, words);
    assert.equal(result.code, code, argv);
    assert.deepEqual(await fake.store.list('/'), before, argv);
  }
});

test('an image is imported on the home itself: another node is refused', async () => {
  const fake = createHealthyCluster();
  fake.files.set('/images/db.raw', 'x');
  const { code, err } = await fake.run(
    'guest',
    'create',
    '--name',
    'w',
    '--disk',
    'disk0=1G,import=/images/db.raw',
    '--node',
    'n2',
  );
  assert.equal(code, 2);
  assert.match(err, /run this on n2/);
});

test('guest stop records the wish and waits until the home says so', async () => {
  const fake = createHealthyCluster();
  const before = fake.onSleep;
  fake.onSleep = () => {
    before();
    const status = fake.store.peek<HaStatus>(keys.haStatus(100));
    if (fake.store.peek<HaResource>(keys.haResource(100))?.want !== 'stopped' || fake.nowMs < 1_001_000) return;
    fake.store.put(keys.haStatus(100), { ...status, state: 'stopped', because: 'as wanted', atMs: fake.nowMs });
  };
  const { code, out } = await fake.run('guest', 'stop', 'ehr-db');
  assert.deepEqual([code, out], [0, 'guest 100 ehr-db is stopped (as wanted)\n']);
});

test('guest start waits while starts fail here and there, keeps the wish at its deadline, and ends at once when the manager gives up', async () => {
  const fake = createHealthyCluster();
  fake.store.put(keys.haStatus(100), { ...fake.store.peek<HaStatus>(keys.haStatus(100)), state: 'failed', because: 'no kernel' });
  const late = await fake.run('guest', 'start', '100', '--timeout', '5s');
  assert.equal(late.code, 9);
  assert.match(late.err, /failed on n1: no kernel; the wish stays recorded/);
  assert.equal(fake.store.peek<HaResource>(keys.haResource(100))?.want, 'started');
  const ha = { state: { kind: 'failed' }, node: 'n1', because: 'its start failed on n2, n1' };
  fake.onSleep = () => fake.store.put(keys.guest(100), { ...fake.store.peek<GuestRecord>(keys.guest(100)), ha });
  const failed = await fake.run('guest', 'start', '100');
  assert.equal(failed.code, 4);
  assert.match(failed.err, /starting guest 100 ehr-db: its start failed on n2, n1 \(failed on n1: no kernel\)/);
  assert.match(failed.err, /ha set 100 --want disabled/);
});

test('guest delete wants a clear yes and a stopped guest', async () => {
  const fake = createHealthyCluster();
  assert.deepEqual((await fake.run('guest', 'delete', '100')).code, 2);
  const runs = await fake.run('guest', 'delete', '100', '--yes');
  assert.deepEqual([runs.code, /it is wanted started and running; stop it first/.test(runs.err)], [4, true]);
  fake.store.put(keys.haStatus(100), { ...fake.store.peek<HaStatus>(keys.haStatus(100)), state: 'stopped' });
  assert.match((await fake.run('guest', 'delete', '100', '--yes')).err, /it is wanted started and stopped/);
  await fake.run('ha', 'set', '100', '--want', 'stopped');
  playAgent(fake, [running, running, running, running, { state: 'done', result: [] }]);
  assert.equal((await fake.run('guest', 'delete', '100', '--yes')).out, 'guest 100 ehr-db is removed\n');
});

test('the serial log is read from the home, and only there', async () => {
  const fake = createHealthyCluster();
  assert.match((await fake.run('guest', 'serial', '100')).err, /has no serial log on n1/);
  fake.files.set('/data/guests/100/serial.log', 'login: ');
  assert.equal((await fake.run('guest', 'serial', '100')).out, 'login: ');
  fake.place = { kind: 'server', node: 'n2', dataDirectory: '/data' };
  const other = await fake.run('guest', 'serial', '100');
  assert.deepEqual([other.code, /at home on n1; run this command there/.test(other.err)], [10, true]);
  fake.place = { kind: 'lab', lab: 'lab', dataDirectoryOf: (node) => `/labs/${node}` };
  fake.files.set('/labs/n1/guests/100/serial.log', 'in the lab');
  assert.equal((await fake.run('guest', 'serial', '100')).out, 'in the lab');
});
