import { AppError } from '#base/error.ts';
import type { GuestConfig } from '#core/guest/guest-record.ts';
import { guestDataPaths, guestRunPaths, portName } from '#core/guest/guest-paths.ts';
import { checkGuestConfig } from '#core/guest/guest-config-rules.ts';

export type CommandLineParams = {
  vmid: number;
  name: string;
  generation: number;
  config: GuestConfig;
  /** One per disk of the configuration, in any order. `blockdev` is a whole backing chain, its top named `nodeName`. */
  disks: { disk: string; nodeName: string; blockdev: Record<string, unknown> }[];
  accelerator: 'kvm' | 'tcg';
  dataDir: string;
  runDir: string;
};

// Fixed PCI slots, so that a guest finds its cards and disks under the same names on every node and after a disk was added.
const slots = { rng: 0x03, serial: 0x04, firstDisk: 0x08, firstNic: 0x18 } as const;

// Linux: sun_path holds 108 bytes with the closing zero.
const socketPathBytes = 107;

/**
 * The arguments of qemu-system-x86_64 (without the program itself) for one start of a guest: CPUs stopped, monitors on sockets in
 * the run folder, one blockdev chain and one device with the disk's own name as id for each disk.
 *
 * Raises AppError invalid naming the field when the configuration cannot be run, missing when a disk has no chain.
 */
export function qemuCommandLine(params: CommandLineParams): string[] {
  checkGuestConfig(params.config);
  return [
    ...machineArgs(params),
    ...channelArgs(params),
    ...params.config.disks.flatMap((disk, index) => diskArgs(params, disk.name, index)),
    ...params.config.nics.flatMap((nic, index) => nicArgs(params.vmid, nic.mac, index)),
    ...bootArgs(params),
  ];
}

function machineArgs({ vmid, name, generation, config, accelerator }: CommandLineParams): string[] {
  // la57 off: five-level page tables cost an emulated CPU a fifth memory read on every miss and give a guest nothing.
  const cpu = accelerator === 'kvm' ? ['kvm', 'host'] : ['tcg,thread=multi', 'max,la57=off'];
  return [
    ['-name', `guest=${escapeValue(name)},debug-threads=on`],
    ['-machine', 'q35', '-accel', cpu[0]!, '-cpu', cpu[1]!],
    ['-smp', `cpus=${config.cores},sockets=1,cores=${config.cores},threads=1`, '-m', `size=${config.memoryMb}M`],
    ['-S', '-nodefaults', '-no-user-config', '-display', 'none', '-rtc', 'base=utc', '-msg', 'timestamp=on'],
    ['-sandbox', 'on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny'],
    ['-fw_cfg', `name=opt/holdfast/vmid,string=${vmid}`],
    ['-fw_cfg', `name=opt/holdfast/generation,string=${generation}`],
    ['-object', 'rng-builtin,id=rng0', '-device', `virtio-rng-pci,rng=rng0,addr=${slot(slots.rng)}`],
  ].flat();
}

/** Serial port, the two monitors and the guest agent's channel. */
function channelArgs({ vmid, dataDir, runDir }: CommandLineParams): string[] {
  const run = guestRunPaths(runDir, vmid);
  const serialLog = guestDataPaths(dataDir, vmid).serialLog;
  return [
    ['-chardev', `file,id=serial0,path=${escapeValue(serialLog)},append=on`, '-serial', 'chardev:serial0'],
    ['-chardev', socketChardev('qmp0', run.qmp), '-mon', 'chardev=qmp0,mode=control'],
    ['-chardev', socketChardev('qmp1', run.qmp2), '-mon', 'chardev=qmp1,mode=control'],
    ['-chardev', socketChardev('qga0', run.guestAgent)],
    ['-device', `virtio-serial-pci,id=serial-bus0,addr=${slot(slots.serial)}`],
    ['-device', 'virtserialport,bus=serial-bus0.0,chardev=qga0,name=org.qemu.guest_agent.0'],
  ].flat();
}

function socketChardev(id: string, path: string): string {
  if (new TextEncoder().encode(path).length > socketPathBytes) {
    throw new AppError('invalid', `[node] run: ${path} is longer than the ${socketPathBytes} bytes a socket's path may have`);
  }
  return `socket,id=${id},path=${escapeValue(path)},server=on,wait=off`;
}

/** The device's id is the disk's name: replication puts its filter in place by `/machine/peripheral/<disk>`. */
function diskArgs({ config, disks, vmid }: CommandLineParams, disk: string, index: number): string[] {
  const chain = disks.find((candidate) => candidate.disk === disk);
  if (chain === undefined) throw new AppError('missing', `start guest ${vmid}: no chain was given for its disk ${disk}`);
  if (chain.blockdev['node-name'] !== chain.nodeName) {
    throw new AppError('invalid', `disks.${disk}.blockdev: its top node is not named ${chain.nodeName}`);
  }
  const bootIndex = config.boot === null ? `,bootindex=${index}` : '';
  const device = `virtio-blk-pci,id=${disk},drive=${escapeValue(chain.nodeName)},serial=${disk}`;
  return [
    ['-blockdev', JSON.stringify(chain.blockdev)],
    ['-device', `${device},addr=${slot(slots.firstDisk + index)}${bootIndex}`],
  ].flat();
}

function nicArgs(vmid: number, mac: string, index: number): string[] {
  return [
    ['-netdev', `tap,id=net${index},ifname=${portName(vmid, index)},script=no,downscript=no`],
    // No option ROM: nothing of ours boots from the network, and the ROM file is one more thing to miss.
    ['-device', `virtio-net-pci,id=nic${index},netdev=net${index},mac=${mac},romfile=,addr=${slot(slots.firstNic + index)}`],
  ].flat();
}

function bootArgs({ vmid, generation, config, dataDir }: CommandLineParams): string[] {
  if (config.boot === null) return ['-boot', 'strict=on'];
  const { kernel, initrd, append } = config.boot;
  return [
    ['-kernel', assetPath(dataDir, kernel)],
    initrd === null ? [] : ['-initrd', assetPath(dataDir, initrd)],
    ['-append', `${append} holdfast.vmid=${vmid} holdfast.generation=${generation}`.trimStart()],
  ].flat();
}

/** The full path of a file named by `boot.kernel` or `boot.initrd`. */
export function assetPath(dataDir: string, name: string): string {
  return `${dataDir}/assets/${name}`;
}

function slot(number: number): string {
  return `0x${number.toString(16)}`;
}

/** In QEMU's option lists a comma ends a value unless doubled (QEMU docs: "keyval" and QemuOpts syntax). */
function escapeValue(value: string): string {
  return value.replaceAll(',', ',,');
}
