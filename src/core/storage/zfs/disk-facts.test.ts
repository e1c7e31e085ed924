import assert from 'node:assert/strict';
import { test } from 'node:test';
import { isAppError } from '#base/error.ts';
import { describeDisk, parseBlockDevices } from './disk-facts.ts';
import { planPool } from './pool-plan.ts';

/** As util-linux 2.41 prints it, shortened to what is read. */
const part = (path: string, more: object) => ({
  path,
  type: 'part',
  size: 2_136_997_888,
  'phy-sec': 512,
  ro: false,
  mountpoints: [],
  ...more,
});
const disk = (path: string, more: object) => ({
  path,
  type: 'disk',
  size: 2_147_483_648,
  serial: null,
  'phy-sec': 512,
  ro: false,
  mountpoints: [],
  fstype: null,
  label: null,
  pttype: null,
  ...more,
});
const output = JSON.stringify({
  blockdevices: [
    disk('/dev/vdb', { serial: 'SPARE1', pttype: 'gpt', children: [part('/dev/vdb1', { fstype: 'zfs_member', label: 'tank' })] }),
    disk('/dev/vdc', { serial: 'SPARE2' }),
    disk('/dev/vdd', { serial: 'SPARE3' }),
    disk('/dev/vde', { serial: 'SPARE4' }),
    disk('/dev/nvme0n1', { serial: 'root1', mountpoints: ['/'], fstype: 'ext4', label: 'machine' }),
    disk('/dev/sda', { children: [{ ...disk('/dev/md0', {}), type: 'raid1', mountpoints: ['/srv', null] }] }),
  ],
});
const byId = new Map([
  ['/dev/disk/by-id/virtio-SPARE1', '/dev/vdb'],
  ['/dev/disk/by-id/virtio-SPARE1-part1', '/dev/vdb1'],
  ['/dev/disk/by-id/virtio-SPARE2', '/dev/vdc'],
  ['/dev/disk/by-id/virtio-SPARE3', '/dev/vdd'],
  ['/dev/disk/by-id/virtio-SPARE4', '/dev/vde'],
  ['/dev/disk/by-id/nvme-nvme.1b36-726f6f7431', '/dev/nvme0n1'],
  ['/dev/disk/by-id/nvme-QEMU_NVMe_Ctrl_root1', '/dev/nvme0n1'],
]);
const devices = parseBlockDevices(output);
const look = (asked: string, device: string | null) => describeDisk(asked, device, devices, byId);

test('a disk is told with its lasting name, its partitions and what is written on them', () => {
  const used = look('/dev/vdb', '/dev/vdb');
  assert.deepEqual(
    [used.byId, used.kind, used.serial, used.partitions, used.signatures],
    ['/dev/disk/by-id/virtio-SPARE1', 'disk', 'SPARE1', ['/dev/vdb1'], ['zfs_member tank']],
  );
  const free = look('/dev/disk/by-id/virtio-SPARE2', '/dev/vdc');
  assert.deepEqual([free.byId, free.signatures, free.mounts], ['/dev/disk/by-id/virtio-SPARE2', [], []]);
  assert.equal(look('/dev/nvme0n1', '/dev/nvme0n1').byId, '/dev/disk/by-id/nvme-QEMU_NVMe_Ctrl_root1');
  assert.deepEqual(look('/dev/nvme0n1', '/dev/nvme0n1').mounts, ['/']);
  assert.deepEqual(look('/dev/sda', '/dev/sda').holders, ['/dev/md0']);
  assert.equal(look('/dev/vdb1', '/dev/vdb1').kind, 'partition');
});

test('a name that leads nowhere, or to a device that the kernel does not list, is told as missing', () => {
  assert.equal(look('/dev/disk/by-id/none', null).device, null);
  assert.equal(look('/dev/vdz', '/dev/vdz').device, null);
  assert.throws(
    () => parseBlockDevices('lsblk: not found'),
    (error) => isAppError(error, 'invalid'),
  );
});

test('from free disks a pool is planned; a foreign one is refused with what it holds', () => {
  const facts = { trouble: null, pools: [], importable: [] };
  const free = ['vdc', 'vdd', 'vde'].map((name) => look(`/dev/${name}`, `/dev/${name}`));
  assert.deepEqual(
    planPool('tank', free, facts).plan?.disks,
    ['SPARE2', 'SPARE3', 'SPARE4'].map((name) => `/dev/disk/by-id/virtio-${name}`),
  );
  const { plan, problems } = planPool('bank', [look('/dev/vdb', '/dev/vdb'), ...free.slice(1)], facts);
  assert.equal(plan, null);
  assert.ok(
    problems.some((problem) => problem.includes('belongs to another pool (zfs_member tank)')),
    problems.join('\n'),
  );
});
