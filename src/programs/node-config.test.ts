import { strict as assert } from 'node:assert';
import { test } from 'node:test';
import { AppError } from '#base/error.ts';
import { timingProfiles } from '#core/ha/timing.ts';
import { parseNodeConfig, readNodeConfig } from '#programs/node-config.ts';

const good = `[node]
name = "n1"
cluster = "5f0c"
address = "10.77.0.1"
data = "/var/lib/holdfast"
run = "/run/holdfast"

[etcd]
endpoints = ["https://10.77.0.1:2379"]
ca = "/etc/holdfast/pki/ca.pem"
cert = "/etc/holdfast/pki/node.pem"
key = "/etc/holdfast/pki/node.key"

[timing]
profile = "standard"

[watchdog]
device = "/dev/watchdog0"

[guests]
cgroup = "/sys/fs/cgroup/ha"
uid = 64055
gid = 64055
accelerator = "auto"

[relay]
port = 7711
`;

function refusal(change: (content: string) => string): string {
  const content = change(good);
  assert.notEqual(content, good, 'the change of this case changed nothing');
  try {
    parseNodeConfig('node.toml', content);
  } catch (error) {
    assert(error instanceof AppError && error.kind === 'invalid');
    return error.message;
  }
  throw new assert.AssertionError({ message: 'not refused' });
}

const custom = `profile = "custom"
renew-ms = 200
soft-ms = 800
watchdog-ms = 1000
clock-rate-percent = 1
reset-ms = 200
claim-ms = 2100`;

test('a whole file is read into the parts that programs are handed', () => {
  const config = parseNodeConfig('node.toml', good);
  assert.equal(config.node.name, 'n1');
  assert.equal(config.timing, timingProfiles.standard);
  assert.deepEqual(config.etcd.tls, {
    caFile: '/etc/holdfast/pki/ca.pem',
    certFile: '/etc/holdfast/pki/node.pem',
    keyFile: '/etc/holdfast/pki/node.key',
  });
  assert.deepEqual(config.guests, { cgroup: '/sys/fs/cgroup/ha', uid: 64055, gid: 64055, accelerator: 'auto' });
});

test('an unknown key is refused with its file, line and name', () => {
  assert.match(
    refusal((content) => content.replace('port = 7711', 'port = 7711\nprot = 1')),
    /^node\.toml:28: relay\.prot: is not a known key/,
  );
  assert.match(
    refusal((content) => `${content}[fence]\nx = 1\n`),
    /^node\.toml:28: fence: is not a known key/,
  );
  assert.match(
    refusal((content) => content.replace('device =', 'devise =')),
    /^node\.toml:18: watchdog\.devise: is not a known key/,
  );
});

test('a wrong type, a missing key and broken TOML are refused with their line', () => {
  assert.match(
    refusal((content) => content.replace('7711', '"7711"')),
    /^node\.toml:27: relay\.port: must be integer/,
  );
  assert.match(
    refusal((content) => content.replace('uid = 64055\n', '')),
    /^node\.toml:20: guests\.uid: is missing/,
  );
  assert.match(
    refusal((content) => content.replace('[relay]\nport = 7711\n', '')),
    /^node\.toml:1: relay: is missing/,
  );
  assert.match(
    refusal((content) => content.replace('"n1"', 'n1')),
    /^node\.toml:2: /,
  );
  assert.match(
    refusal((content) => content.replace('"n1"', '"N 1"')),
    /^node\.toml:2: node\.name: .*not a node name/,
  );
  assert.match(
    refusal((content) => content.replace('"/run/holdfast"', '"run"')),
    /^node\.toml:6: node\.run: "run" is not an absolute path/,
  );
  assert.match(
    refusal((content) => content.replace('"auto"', '"fast"')),
    /^node\.toml:24: guests\.accelerator: /,
  );
});

test('a custom profile must be whole and must hold the inequality', () => {
  const config = parseNodeConfig('node.toml', good.replace('profile = "standard"', custom));
  assert.deepEqual(config.timing, {
    profile: 'custom',
    renewMs: 200,
    softMs: 800,
    watchdogMs: 1000,
    clockRatePercent: 1,
    resetMs: 200,
    claimMs: 2100,
  });
  assert.match(
    refusal((content) => content.replace('profile = "standard"', custom.replace('2100', '2000'))),
    /^node\.toml:14: timing: .*1980 ms is less than .* = 2018 ms/,
  );
  assert.match(
    refusal((content) => content.replace('profile = "standard"', custom.replace('reset-ms = 200\n', ''))),
    /timing\.reset-ms: is missing/,
  );
  assert.match(
    refusal((content) => content.replace('profile = "standard"', 'profile = "standard"\nclaim-ms = 5000')),
    /^node\.toml:16: timing\.claim-ms: belongs to profile = "custom"/,
  );
});

test('https without certificates is refused; plain http may do without', () => {
  assert.match(
    refusal((content) => content.replace(/^key = .*\n/m, '')),
    /^node\.toml:8: etcd\.key: is missing/,
  );
  const plain = good.replace(/^(ca|cert|key) = .*\n/gm, '').replace('https:', 'http:');
  assert.equal(parseNodeConfig('node.toml', plain).etcd.tls, null);
});

test('guests lie in files unless a pool is named; what belongs to the other driver is refused', () => {
  assert.deepEqual(parseNodeConfig('node.toml', good).storage, { driver: 'dir' });
  const pool = `${good}\n[storage]\ndriver = "zfs"\ndataset = "tank/holdfast"\n`;
  assert.deepEqual(parseNodeConfig('node.toml', pool).storage, {
    driver: 'zfs',
    dataset: 'tank/holdfast',
    disks: 'volume',
    blockBytes: 16_384,
  });
  const refused = (edit: (content: string) => string, words: RegExp) =>
    assert.throws(() => parseNodeConfig('node.toml', edit(pool)), words);
  refused((content) => content.replace('dataset = "tank/holdfast"\n', ''), /storage\.dataset: is missing/);
  refused((content) => content.replace('tank/holdfast', 'tank'), /storage\.dataset: .*not a dataset below a pool/);
  refused((content) => content.replace('"zfs"', '"dir"'), /storage\.dataset: belongs to driver = "zfs" only/);
});

test('a file that is not there is missing, not invalid', () => {
  assert.throws(
    () => readNodeConfig('/nonexistent/node.toml'),
    (error) => error instanceof AppError && error.kind === 'missing',
  );
});
