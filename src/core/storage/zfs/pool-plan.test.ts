import assert from 'node:assert/strict';
import { test } from 'node:test';
import { chooseBlockBytes, paddingRatio, planPool, type DiskFacts } from './pool-plan.ts';

const gib = 2 ** 30;

function disk(letter: string, change: Partial<DiskFacts> = {}): DiskFacts {
  return {
    asked: `/dev/sd${letter}`,
    byId: `/dev/disk/by-id/ata-DISK_${letter}`,
    device: `/dev/sd${letter}`,
    kind: 'disk',
    sizeBytes: 100 * gib,
    serial: `S${letter}`,
    physicalSectorBytes: 4_096,
    isReadOnly: false,
    mounts: [],
    partitions: [],
    signatures: [],
    holders: [],
    ...change,
  };
}

const machine = { trouble: null, pools: [], importable: [] };

test('padding is as measured: the table of the design, for 3 to 6 disks', () => {
  const table = [8, 16, 32, 64].map((kib) => [3, 4, 5, 6].map((disks) => paddingRatio(disks, kib * 1024).toFixed(2)));
  assert.deepEqual(table, [
    ['1.33', '1.50', '1.60', '1.67'],
    ['1.00', '1.13', '1.20', '1.25'],
    ['1.00', '1.13', '1.00', '1.04'],
    ['1.00', '1.03', '1.00', '1.04'],
  ]);
  assert.deepEqual([3, 4, 6, 7].map(chooseBlockBytes), [16_384, 32_768, 32_768, 65_536]);
});

test('three whole disks make a pool by their lasting names', () => {
  const { plan, problems } = planPool(
    'tank',
    ['a', 'b', 'c'].map((letter) => disk(letter)),
    machine,
  );
  assert.deepEqual(problems, []);
  assert.deepEqual(
    plan?.disks,
    ['a', 'b', 'c'].map((letter) => `/dev/disk/by-id/ata-DISK_${letter}`),
  );
  assert.equal(plan?.blockBytes, 16_384);
  assert.equal(Math.round((plan?.usableBytes ?? 0) / gib), 194);
});

test('every problem is told at once, and then nothing is planned', () => {
  const disks = [
    disk('a', { mounts: ['/srv'], partitions: ['/dev/sda1'], signatures: ['ext4'] }),
    disk('b', { device: null }),
    disk('a2', { device: '/dev/sda', byId: null, isReadOnly: true, sizeBytes: 50 * gib }),
    disk('d', { signatures: ['zfs_member old'], physicalSectorBytes: 8_192, holders: ['/dev/md0'] }),
    disk('e', { kind: 'partition', sizeBytes: 1000 }),
  ];
  const { plan, problems } = planPool('mirror', disks, { trouble: 'no module', pools: [], importable: ['mirror'] });
  assert.equal(plan, null);
  const all = problems.join('\n');
  for (const words of [
    /is not a pool's name/,
    /does not work on this machine: no module/,
    /another pool mirror/,
    /sda2 and \/dev\/sda are one and the same disk/,
    /differ too much in size/,
    /sda: is in use \(\/srv\)/,
    /sda: has partitions \(\/dev\/sda1\).*wipefs/,
    /sdb: there is no such device/,
    /sda2: has no name under/,
    /sda2: is read-only/,
    /sdd: holds something \(zfs_member old\)/,
    /sdd: has sectors of 8192/,
    /sdd: is part of \/dev\/md0/,
    /sde: is a partition/,
    /sde: has .* is the least/,
  ]) {
    assert.match(all, words);
  }
  assert.match(
    planPool('tank', [disk('a')], { ...machine, pools: ['tank'] }).problems.join('\n'),
    /a pool tank is there.*\n.*3 disks or more, 1 is/,
  );
});
