import assert from 'node:assert/strict';
import { test } from 'node:test';
import { isAppError } from '#base/error.ts';
import type { GuestConfig } from '#core/guest/guest-record.ts';
import { isPortOf, portName } from '#core/guest/guest-paths.ts';
import { qemuCommandLine, type CommandLineParams } from '#core/guest/qemu-command-line.ts';

const config: GuestConfig = {
  cores: 2,
  memoryMb: 256,
  disks: [
    { name: 'disk0', sizeBytes: 1 << 30 },
    { name: 'disk1', sizeBytes: 1 << 20 },
  ],
  nics: [{ mac: '52:54:00:00:00:01', bridge: 'br0' }],
  boot: { kernel: 'vmlinux', initrd: 'root.cpio', append: 'console=ttyS0 quiet' },
};

const chain = (disk: string) => ({
  disk,
  nodeName: `${disk}-top`,
  blockdev: { driver: 'raw', 'node-name': `${disk}-top`, file: { driver: 'file', filename: `/data/${disk},1.raw` } },
});

const params: CommandLineParams = {
  vmid: 100,
  name: 'records',
  generation: 7,
  config,
  disks: [chain('disk1'), chain('disk0')],
  accelerator: 'tcg',
  dataDir: '/var/lib/holdfast',
  runDir: '/run/holdfast',
};

function valuesOf(option: string, args: string[]): string[] {
  return args.filter((_, index) => args[index - 1] === option);
}

function withConfig(change: Partial<GuestConfig>): CommandLineParams {
  return { ...params, config: { ...config, ...change } };
}

function assertRefused(given: CommandLineParams, field: string): void {
  assert.throws(
    () => qemuCommandLine(given),
    (error) => {
      assert.ok(isAppError(error, 'invalid'), String(error));
      assert.ok(error.message.startsWith(`${field}:`), error.message);
      return true;
    },
  );
}

test('a guest starts stopped, sandboxed, without defaults, on q35', () => {
  const args = qemuCommandLine(params);
  for (const flag of ['-S', '-nodefaults', '-no-user-config']) assert.ok(args.includes(flag), flag);
  assert.deepEqual(valuesOf('-machine', args), ['q35']);
  assert.deepEqual(valuesOf('-sandbox', args), ['on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny']);
});

test('the accelerator decides the CPU', () => {
  assert.deepEqual(valuesOf('-accel', qemuCommandLine(params)), ['tcg,thread=multi']);
  const kvm = qemuCommandLine({ ...params, accelerator: 'kvm' });
  assert.deepEqual([...valuesOf('-accel', kvm), ...valuesOf('-cpu', kvm)], ['kvm', 'host']);
});

test('each disk is a chain and a device whose id and serial are the disk name, in the order of the configuration', () => {
  const args = qemuCommandLine(params);
  assert.deepEqual(
    valuesOf('-blockdev', args).map((text) => JSON.parse(text)),
    [chain('disk0').blockdev, chain('disk1').blockdev],
  );
  assert.deepEqual(
    valuesOf('-device', args).filter((text) => text.startsWith('virtio-blk')),
    [
      'virtio-blk-pci,id=disk0,drive=disk0-top,serial=disk0,addr=0x8',
      'virtio-blk-pci,id=disk1,drive=disk1-top,serial=disk1,addr=0x9',
    ],
  );
});

test('a card has a port whose name is made from the guest number, never longer than the kernel allows', () => {
  const args = qemuCommandLine(params);
  assert.deepEqual(valuesOf('-netdev', args), ['tap,id=net0,ifname=hf100n0,script=no,downscript=no']);
  assert.ok(args.includes('virtio-net-pci,id=nic0,netdev=net0,mac=52:54:00:00:00:01,romfile=,addr=0x18'));
  assert.ok(portName(999_999_999, 5).length <= 15);
  assert.ok(isPortOf(100, 'hf100n5') && !isPortOf(100, 'hf1000n5') && !isPortOf(1000, 'hf100n0'));
});

test('the generation reaches the guest by its command line and by fw_cfg', () => {
  const args = qemuCommandLine(params);
  assert.deepEqual(valuesOf('-append', args), ['console=ttyS0 quiet holdfast.vmid=100 holdfast.generation=7']);
  assert.ok(valuesOf('-fw_cfg', args).includes('name=opt/holdfast/generation,string=7'));
  assert.deepEqual(valuesOf('-kernel', args), ['/var/lib/holdfast/assets/vmlinux']);
  assert.deepEqual(valuesOf('-initrd', args), ['/var/lib/holdfast/assets/root.cpio']);
});

test('without a kernel the firmware starts from disk0', () => {
  const args = qemuCommandLine(withConfig({ boot: null }));
  assert.equal(args.includes('-kernel'), false);
  assert.ok(args.includes('virtio-blk-pci,id=disk0,drive=disk0-top,serial=disk0,addr=0x8,bootindex=0'));
});

test('monitors, agent channel and serial log lie in the node’s folders', () => {
  const chardevs = valuesOf('-chardev', qemuCommandLine(params));
  assert.deepEqual(chardevs, [
    'file,id=serial0,path=/var/lib/holdfast/guests/100/serial.log,append=on',
    'socket,id=qmp0,path=/run/holdfast/guests/100/qmp.sock,server=on,wait=off',
    'socket,id=qmp1,path=/run/holdfast/guests/100/qmp2.sock,server=on,wait=off',
    'socket,id=qga0,path=/run/holdfast/guests/100/qga.sock,server=on,wait=off',
  ]);
});

test('a comma in a name or path cannot add an option', () => {
  const args = qemuCommandLine({ ...params, name: 'a,process=b', dataDir: '/d,server=off' });
  assert.deepEqual(valuesOf('-name', args), ['guest=a,,process=b,debug-threads=on']);
  assert.ok(args.includes('file,id=serial0,path=/d,,server=off/guests/100/serial.log,append=on'));
});

test('a bad configuration is refused by the name of its field', () => {
  const boot = config.boot!;
  assertRefused(withConfig({ cores: 0 }), 'config.cores');
  assertRefused(withConfig({ memoryMb: 1.5 }), 'config.memoryMb');
  assertRefused(withConfig({ disks: [{ name: 'Disk,0', sizeBytes: 1 }] }), 'config.disks[0].name');
  assertRefused(withConfig({ disks: [config.disks[0]!, config.disks[0]!] }), 'config.disks');
  assertRefused(withConfig({ nics: [{ mac: '52:54:00', bridge: 'br0' }] }), 'config.nics[0].mac');
  assertRefused(withConfig({ nics: [{ mac: '53:54:00:00:00:01', bridge: 'br0' }] }), 'config.nics[0].mac');
  assertRefused(withConfig({ nics: [{ mac: '52:54:00:00:00:01', bridge: 'br 0' }] }), 'config.nics[0].bridge');
  assertRefused(withConfig({ boot: { ...boot, kernel: '../../etc/shadow' } }), 'config.boot.kernel');
  assertRefused(withConfig({ boot: { ...boot, initrd: '/root.cpio' } }), 'config.boot.initrd');
  assertRefused(withConfig({ boot: { ...boot, append: 'a\nb' } }), 'config.boot.append');
  assertRefused(withConfig({ boot: { ...boot, append: 'holdfast.generation=1' } }), 'config.boot.append');
  assertRefused(withConfig({ boot: null, disks: [] }), 'config.boot');
  assertRefused({ ...params, runDir: `/${'r'.repeat(100)}` }, '[node] run');
});

test('a disk without a chain is missing by its name, a chain with another top node is refused', () => {
  assert.throws(
    () => qemuCommandLine({ ...params, disks: [chain('disk0')] }),
    (error) => isAppError(error, 'missing') && error.message.includes('disk1'),
  );
  assertRefused({ ...params, disks: [chain('disk1'), { ...chain('disk0'), nodeName: 'other' }] }, 'disks.disk0.blockdev');
});
