import assert from 'node:assert/strict';
import { test } from 'node:test';
import { diskHolderConfig } from '#core/guest/disk-holder.ts';
import { checkGuestConfig } from '#core/guest/guest-config-rules.ts';
import type { GuestConfig } from '#core/guest/guest-record.ts';

const config: GuestConfig = {
  cores: 8,
  memoryMb: 32_768,
  disks: [{ name: 'disk0', sizeBytes: 1 << 20 }],
  nics: [{ mac: '52:54:00:77:00:64', bridge: 'br0' }],
  boot: { kernel: 'vmlinux', initrd: null, append: '' },
};

test('disks are held open without the kernel, the bridge and the memory that a node may lack', () => {
  const holder = diskHolderConfig(config);
  assert.deepEqual(holder, { cores: 1, memoryMb: 64, disks: config.disks, nics: [], boot: null });
  assert.doesNotThrow(() => checkGuestConfig(holder));
});

test('a guest without disks is left as it is', () => {
  assert.deepEqual(diskHolderConfig({ ...config, disks: [] }), { ...config, disks: [] });
});
