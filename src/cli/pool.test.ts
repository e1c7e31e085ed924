import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { DiskFacts } from '#core/storage/zfs/pool-plan.ts';
import type { PoolStatus } from '#core/storage/zfs/pool-status.ts';
import { createFakeWorld, type FakeWorld } from '#cli/fake-world.ts';
import type { PoolTools } from '#cli/pool-tools.ts';

const disk = (name: string, more: Partial<DiskFacts> = {}): DiskFacts => ({
  asked: name,
  byId: `/dev/disk/by-id/${name}`,
  device: `/dev/${name}`,
  kind: 'disk',
  sizeBytes: 2 * 2 ** 40,
  serial: name,
  physicalSectorBytes: 4_096,
  isReadOnly: false,
  mounts: [],
  partitions: [],
  signatures: [],
  holders: [],
  ...more,
});
const device = (name: string, depth: number, state = 'ONLINE') => ({
  name,
  depth,
  state,
  readErrors: 0,
  writeErrors: 0,
  checksumErrors: 0,
  note: null,
});
const status = (state: string, second: string): PoolStatus => ({
  name: 'tank',
  state,
  status: null,
  action: null,
  scan: null,
  devices: [
    device('tank', 0, state),
    device('raidz1-0', 1, state),
    device('/dev/disk/by-id/a-part1', 2),
    device('/dev/disk/by-id/b-part1', 2, second),
  ],
  lostData: null,
});
const use = { name: 'tank', sizeBytes: 6 * 2 ** 40, allocatedBytes: 2 ** 40, usedPercent: 16, health: 'ONLINE', guid: '1' };

/** A machine with these disks; every change that a command makes is written down. */
function makeWorld(disks: DiskFacts[], change: Partial<PoolTools> = {}): { fake: FakeWorld; done: string[] } {
  const fake = createFakeWorld();
  const done: string[] = [];
  fake.pools = {
    readDisks: (asked) => Promise.resolve(asked.flatMap((name) => disks.find((entry) => entry.asked === name) ?? [])),
    readPoolFacts: () => Promise.resolve({ trouble: null, pools: [], importable: [], offers: [] }),
    makePool: async (plan, dataset) => void done.push(`made ${plan.pool} of ${plan.disks.length} with ${dataset}`),
    exchangeDisk: async (pool, old, next) => void done.push(`${pool}: ${old} -> ${next}`),
    takeInPool: async (pool, { takeOver }) => void done.push(`imported ${pool}${takeOver ? ' by force' : ''}`),
    scrubPool: async (pool, what) => void done.push(`${what} scrub of ${pool}`),
    readPools: () => Promise.resolve([{ use, status: status('ONLINE', 'ONLINE'), sectorBytes: 4_096, volumeBlocks: new Map() }]),
    ...change,
  };
  return { fake, done };
}

test('a pool is planned without a change, and made only when that is confirmed', async () => {
  const { fake, done } = makeWorld(['a', 'b', 'c'].map((name) => disk(name)));
  const planned = await fake.run('pool', 'plan', 'tank', 'a', 'b', 'c');
  assert.match(planned.out, /RAID-Z1 of 3 disks, about 3\.9 TiB for guests, blocks of 16 KiB/);
  const refused = await fake.run('pool', 'create', 'tank', 'a', 'b', 'c');
  assert.equal(refused.code, 2);
  assert.match(refused.err, /--yes/);
  assert.deepEqual(done, []);
  const made = await fake.run('pool', 'create', 'tank', 'a', 'b', 'c', '--yes');
  assert.equal(made.code, 0);
  assert.match(made.out, /holdfast init --dataset tank\/holdfast.*block-bytes = 16384/);
  assert.deepEqual(done, ['made tank of 3 with tank/holdfast']);
});

test('everything that stands against a pool is told at once, and nothing is made', async () => {
  const { fake, done } = makeWorld([
    disk('a', { mounts: ['/'] }),
    disk('b', { signatures: ['ext4 data'] }),
    disk('c', { byId: null }),
  ]);
  const refused = await fake.run('pool', 'create', 'tank', 'a', 'b', 'c', '--yes');
  assert.equal(refused.code, 4);
  for (const problem of [/a: is in use \(\/\)/, /b: holds something \(ext4 data\)/, /c: has no name under/])
    assert.match(refused.err, problem);
  assert.deepEqual(done, []);
});

test('a pool that another machine used last is taken only when a person says that it does not run', async () => {
  const offer = {
    name: 'tank',
    guid: '1',
    state: 'ONLINE',
    status: 'The pool was last accessed by another system.',
    lastUsedElsewhere: true,
  };
  const taken: string[] = [];
  const { fake } = makeWorld([], {
    readPoolFacts: () => Promise.resolve({ trouble: null, pools: [], importable: ['tank'], offers: [offer] }),
    takeInPool: async (pool) => void taken.push(pool),
  });
  assert.match((await fake.run('pool', 'import')).out, /tank .*last accessed by another system/);
  const refused = await fake.run('pool', 'import', 'tank');
  assert.equal(refused.code, 4);
  assert.match(refused.err, /--take-over/);
  assert.equal((await fake.run('pool', 'import', 'tank', '--take-over')).code, 0);
  assert.deepEqual(taken, ['tank']);
  assert.equal((await fake.run('pool', 'import', 'bank')).code, 3);
});

test('a failed disk shows with its next step and an exit code; its place is given to a disk that holds nothing', async () => {
  const worn = [{ use, status: status('DEGRADED', 'REMOVED'), sectorBytes: 4_096, volumeBlocks: new Map<number, number>() }];
  const { fake, done } = makeWorld([disk('d'), disk('e', { signatures: ['ext4'] })], { readPools: () => Promise.resolve(worn) });
  const shown = await fake.run('pool', 'status');
  assert.equal(shown.code, 20);
  assert.match(shown.out, /disk \/dev\/disk\/by-id\/b-part1 is REMOVED\. Next: replace it: holdfast pool replace tank/);
  assert.equal((await fake.run('pool', 'replace', 'tank', 'z', 'd')).code, 3);
  const refused = await fake.run('pool', 'replace', 'tank', 'b', 'e');
  assert.match(refused.err, /e: holds something \(ext4\)/);
  assert.deepEqual(done, []);
  assert.equal((await fake.run('pool', 'replace', 'tank', 'b', 'd')).code, 0);
  assert.deepEqual(done, ['tank: /dev/disk/by-id/b-part1 -> /dev/disk/by-id/d']);
});
