import assert from 'node:assert/strict';
import { test } from 'node:test';
import { checkPreflight, compareVersions, type MachineFacts } from './preflight.ts';

const fit: MachineFacts = {
  isRoot: true,
  cgroup: { path: '/sys/fs/cgroup/holdfast.slice/holdfast-guests.service/ha', kind: 'version-2' },
  programs: [{ name: 'etcd', debianPackage: 'etcd-server', version: '3.4.23', wantedVersion: '3.4' }],
  accelerator: { wanted: 'auto', works: 'kvm', because: 'a guest was booted with KVM' },
  watchdog: { device: '/dev/watchdog0', wantedMs: 6_000, state: { kind: 'works', timeoutMs: 6_000, isSoftware: false } },
  address: { value: '10.0.0.1', onThisMachine: true, known: ['10.0.0.1'] },
  ports: [{ port: 2379, what: 'the store', holder: 'free' }],
  clockIsSynchronized: true,
  disk: { path: '/var/lib/holdfast', freeBytes: 2 ** 40 },
  memoryBytes: 2 ** 36,
  leftovers: [],
};

function problems(change: Partial<MachineFacts>, role: 'node' | 'witness' = 'node', clockAheadMs?: number): string[] {
  const cluster = clockAheadMs === undefined ? null : { clockAheadMs };
  return checkPreflight({ ...fit, ...change }, role, cluster).problems.map(({ what }) => what);
}

test('a fit machine has no problems and nothing to note', () => {
  assert.deepEqual(checkPreflight(fit, 'node', { clockAheadMs: 5_000 }), { problems: [], notes: [] });
});

test('everything that is wrong is told at once, each with what to do', () => {
  const broken: MachineFacts = {
    ...fit,
    isRoot: false,
    cgroup: { ...fit.cgroup, kind: 'hybrid' },
    programs: [{ ...fit.programs[0]!, version: null }],
    accelerator: { wanted: 'auto', works: 'tcg', because: 'KVM cannot run a guest here' },
    watchdog: { ...fit.watchdog!, state: { kind: 'unusable', because: 'held by another program' } },
    address: { value: '10.9.9.9', onThisMachine: false, known: ['10.0.0.1'] },
    ports: [{ port: 2380, what: 'the store', holder: 'other' }],
    clockIsSynchronized: false,
    disk: { path: '/var/lib/holdfast', freeBytes: 1 },
    leftovers: ['/etc/holdfast/node.toml is there'],
  };
  const found = checkPreflight(broken, 'node').problems;
  assert.equal(found.length, 10, JSON.stringify(found));
  assert.ok(found.every(({ next }) => next.length > 0));
});

test('what our own programs hold is no problem when a command is run again', () => {
  assert.deepEqual(problems({ ports: [{ port: 2379, what: 'the store', holder: 'ours' }] }), []);
  assert.deepEqual(problems({ watchdog: { ...fit.watchdog!, state: { kind: 'ours' } } }), []);
});

test('a watchdog must be hardware and as quick as the profile', () => {
  const watchdog = (timeoutMs: number, isSoftware: boolean) => ({
    watchdog: { ...fit.watchdog!, state: { kind: 'works' as const, timeoutMs, isSoftware } },
  });
  assert.match(problems(watchdog(30_000, false)).join(), /resets after 30 s at the earliest; the timing profile needs 6\.0 s/);
  assert.match(problems(watchdog(6_000, true)).join(), /software watchdog/);
});

test('emulation is a problem unless it was asked for', () => {
  const emulated = { works: 'tcg', because: 'no /dev/kvm' } as const;
  assert.equal(problems({ accelerator: { wanted: 'auto', ...emulated } }).length, 1);
  const asked = checkPreflight({ ...fit, accelerator: { wanted: 'tcg', ...emulated } }, 'node');
  assert.deepEqual([asked.problems.length, asked.notes.length], [0, 1]);
  assert.equal(problems({ accelerator: { wanted: 'kvm', works: null, because: 'x' } }).length, 1);
});

test('a witness needs neither watchdog nor KVM, and a small disk', () => {
  const small = { accelerator: null, watchdog: null, cgroup: { ...fit.cgroup, kind: 'absent' as const } };
  const disk = { path: '/var/lib/holdfast', freeBytes: 5 * 2 ** 30 };
  assert.deepEqual(problems({ ...small, disk }, 'witness'), []);
  assert.equal(problems({ disk }, 'node').length, 1);
});

test('a clock far from the cluster’s is told with its side', () => {
  assert.match(problems({}, 'node', 120_000).join(), /2 min behind the cluster’s/);
  assert.match(problems({}, 'node', -120_000).join(), /2 min ahead of the cluster’s/);
});

test('versions are compared by number', () => {
  assert.ok(compareVersions('3.4.23', '3.4') > 0);
  assert.ok(compareVersions('3.10', '3.9') > 0);
  assert.ok(compareVersions('3.3.25', '3.4') < 0);
  assert.equal(compareVersions('7.2', '7.2.0'), 0);
});
