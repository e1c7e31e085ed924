import { join } from 'node:path';

export type MachineDisk = { id: string; file: string; serial: string };

/** One server of the full lab. */
export type MachineSpec = {
  name: string;
  address: string;
  /** The room's own address: gateway, time. */
  roomAddress: string;
  tap: string;
  mac: string;
  /** Where its root, its disks, console and monitor lie. */
  folder: string;
  memoryMb: number;
  /** The rate of the counter that its clocks follow: the host's. */
  tscKhz: number;
};

/**
 * The command line of a machine's QEMU. Software emulation only: the lab must run where there is no KVM, and TCG's emulated SVM gives the machine
 * a /dev/kvm of its own. Each data disk sits in a slot of its own, so that it can be pulled. The root is NVMe: Debian's cloud kernel boots
 * it without an initramfs.
 *
 * What is switched off on the kernel's command line costs seconds on an emulated CPU. A panic does not restart it: that is the watchdog's.
 */
export function formatMachineCommand(spec: MachineSpec, kernel: string, disks: MachineDisk[]): string[] {
  const words = [
    'root=/dev/nvme0n1 rw console=ttyS0 quiet net.ifnames=0 mitigations=off nokaslr no_timer_check audit=0',
    // Not measured by itself: see tsc-rate.ts.
    `tsc=reliable tsc_early_khz=${spec.tscKhz}`,
    `systemd.hostname=${spec.name} ip=${spec.address}::${spec.roomAddress}:255.255.255.0::br0:none`,
    'modprobe.blacklist=ahci,i2c_i801,psmouse panic=0',
    // Its services' own limits are for real processors.
    'systemd.default_timeout_start_sec=600 systemd.default_device_timeout_sec=600',
  ];
  const options = [
    ['-name', spec.name, '-machine', 'q35,hpet=off', '-accel', 'tcg,thread=multi', '-cpu', cpu],
    // Two: the store and the guard must answer beside programs that start.
    ['-smp', '2', '-m', String(spec.memoryMb), '-nodefaults', '-no-user-config', '-display', 'none'],
    ['-serial', `file:${machineFile(spec, 'console')}`, '-rtc', 'base=utc,clock=host'],
    ['-qmp', `unix:${machineFile(spec, 'qmp')},server=on,wait=off`, '-pidfile', machineFile(spec, 'pid')],
    ['-kernel', kernel, '-append', words.join(' ')],
    ['-drive', `if=none,id=root,format=qcow2,file=${machineFile(spec, 'root.qcow2')}`, '-device', 'nvme,drive=root,serial=root'],
    ...disks.map((disk, index) => formatDisk(disk, index + 1)),
    ['-netdev', `tap,id=net,ifname=${spec.tap},script=no,downscript=no`],
    ['-device', `virtio-net-pci,netdev=net,mac=${spec.mac},romfile=`, '-device', 'virtio-rng-pci'],
    ['-device', 'i6300esb', '-action', 'watchdog=reset'],
  ];
  return options.flat();
}

function formatDisk(disk: MachineDisk, slot: number): string[] {
  const drive = `if=none,id=${disk.id}-file,format=raw,cache=writeback,discard=unmap,file=${disk.file}`;
  const device = `virtio-blk-pci,id=${disk.id},bus=slot${slot},drive=${disk.id}-file,serial=${disk.serial}`;
  return ['-device', `pcie-root-port,id=slot${slot},chassis=${slot},slot=${slot}`, '-drive', drive, '-device', device];
}

/**
 * Everything that the emulator knows, but for what makes an emulated processor slower than it is: string instructions that are said to be fast
 * byte by byte, and guards of memory that cost a look at each entry of the kernel.
 */
const cpu = 'max,la57=off,erms=off,fsrm=off,fsrs=off,fzrm=off,smap=off,smep=off,pku=off';

type MachineFile = 'console' | 'qmp' | 'pid' | 'root.qcow2' | 'ssh' | 'log' | 'disks.json';

/** A file in a machine's folder. */
export function machineFile(spec: Pick<MachineSpec, 'folder'>, name: MachineFile): string {
  return join(spec.folder, name);
}
