import assert from 'node:assert/strict';
import { test } from 'node:test';
import { formatMachineCommand } from '#lab/full/machine-command.ts';

const spec = {
  name: 'n2',
  address: '10.77.0.2',
  roomAddress: '10.77.0.254',
  tap: 't2',
  mac: '02:00:0a:4d:00:02',
  folder: '/lab/n2',
  memoryMb: 2048,
  tscKhz: 2_600_000,
};
const disks = [1, 2, 3].map((number) => ({ id: `disk${number}`, file: `/lab/n2/disk${number}.raw`, serial: `n2-disk${number}` }));

test('a machine is emulated in software, whatever the host could do', () => {
  const argv = formatMachineCommand(spec, '/vmlinuz', disks);
  assert.equal(argv[argv.indexOf('-accel') + 1], 'tcg,thread=multi');
  assert.ok(!argv.some((word) => /kvm/.test(word)));
});

test('each data disk has a slot and a serial of its own, and the watchdog resets', () => {
  const argv = formatMachineCommand(spec, '/vmlinuz', disks);
  const devices = argv.filter((_, index) => argv[index - 1] === '-device');
  for (const number of [1, 2, 3]) {
    assert.ok(devices.includes(`pcie-root-port,id=slot${number},chassis=${number},slot=${number}`));
    assert.ok(
      devices.includes(`virtio-blk-pci,id=disk${number},bus=slot${number},drive=disk${number}-file,serial=n2-disk${number}`),
    );
  }
  assert.ok(devices.includes('i6300esb'));
  assert.equal(argv[argv.indexOf('-action') + 1], 'watchdog=reset');
});

test('a panic waits for the watchdog, and the machine knows its name and address', () => {
  const argv = formatMachineCommand(spec, '/vmlinuz', disks);
  const append = argv[argv.indexOf('-append') + 1]!;
  assert.match(append, /\bpanic=0\b/);
  assert.match(append, /systemd\.hostname=n2 ip=10\.77\.0\.2::10\.77\.0\.254:255\.255\.255\.0::br0:none/);
});

test('a machine does not measure the rate of its counter: on a busy host that comes out wrong', () => {
  const argv = formatMachineCommand(spec, '/vmlinuz', disks);
  assert.match(argv[argv.indexOf('-append') + 1]!, /\btsc_early_khz=2600000\b/);
});
