import { randomBytes } from 'node:crypto';
import { cpSync, mkdirSync, mkdtempSync, rmSync, symlinkSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { runCommand } from '#lab/images/command.ts';
import type { Emulator } from '#lab/images/emulator.ts';
import type { MachineImage } from '#lab/images/machine.ts';
import type { ProbeImage } from '#lab/images/probe.ts';
import { type Controller, createController } from '#lab/room/controller.ts';
import { fullLimits } from './full-limits.ts';
import { adoptMachine, createMachine, type Machine } from './machine.ts';
import { buildRoomNetwork, roomNetwork, wireMachine } from './room-network.ts';
import { startTimeServer } from './time-server.ts';
import { measureTscKhz } from './tsc-rate.ts';

/** What the room is given by the process on the host: everything was built already. */
export type RoomOptions = {
  /** Where the machines' disks and consoles lie; empty, or as an earlier drill left it. */
  folder: string;
  images: { emulator: Emulator; machine: MachineImage; probe: ProbeImage };
  /** Our packages, the one that is installed first and the one to upgrade to. */
  debs: { first: string; next: string };
};

export type Room = {
  machines: Machine[];
  byName: (name: string) => Machine;
  /** A machine's management controller, which has no power before it is started. */
  controllerOf: (name: string) => RoomController;
  /** Leaves the machines as they are to the next drill. */
  letGo: () => void;
};

export type RoomController = { controller: Controller; address: string; user: string; password: string };

const machineNames = ['n1', 'n2', 'n3'] as const;

/** Where a machine finds what the room gives it on a stick. */
export const stickFolder = '/mnt';
const sourceRoot = fileURLToPath(new URL('../../../', import.meta.url));

/** Builds the room in this process's namespaces: switch, time, `count` machines without power. They end with the namespace. */
export async function buildRoom(options: RoomOptions, count: number = machineNames.length): Promise<Room> {
  const names = machineNames.slice(0, count);
  await buildRoomNetwork(names.map((_, index) => wireMachine(index + 1)));
  await startTimeServer(roomNetwork.address);
  return fillRoom(options, names, createMachine);
}

/** The room that an earlier drill built and left, entered again, with new packages on the stick. */
export function enterRoom(options: RoomOptions): Promise<Room> {
  return fillRoom(options, machineNames, adoptMachine);
}

async function fillRoom(options: RoomOptions, names: readonly string[], make: typeof createMachine): Promise<Room> {
  const stick = await makeStick(options);
  const tscKhz = await measureTscKhz(options.folder);
  const machines: Machine[] = [];
  const controllers = new Map<string, RoomController>();
  for (const [index, name] of names.entries()) {
    const { address, tap, mac, controllerAddress } = wireMachine(index + 1);
    const folder = join(options.folder, name);
    const spec = { name, address, tap, mac, folder, roomAddress: roomNetwork.address, memoryMb: fullLimits.memoryMb, tscKhz };
    const about = { address: controllerAddress, user: 'holdfast', password: randomBytes(8).toString('hex') };
    const controller = await createController(
      { ...about, name, folder: join(options.folder, `controller-${name}`) },
      (power) => void (power === 'on' ? machines[index]?.on() : machines[index]?.pull()),
    );
    controllers.set(name, { ...about, controller });
    const { machine: image, emulator } = options.images;
    machines.push(await make({ spec, image, emulator, stick, showPower: (power) => controller.showPower(power) }));
  }
  return {
    machines,
    byName: (name) => machines.find((machine) => machine.name === name)!,
    controllerOf: (name) => controllers.get(name)!,
    letGo() {
      for (const machine of machines) machine.letGo();
      for (const { controller } of controllers.values()) controller.close();
    },
  };
}

/**
 * A read-only file system with our packages, the tiny guest's kernel and our tests, as a person would bring them along. An existing one is filled
 * anew in its place, for machines that have it open.
 */
async function makeStick({ folder, images, debs }: RoomOptions): Promise<string> {
  const tree = mkdtempSync(join(folder, 'stick-'));
  mkdirSync(join(tree, 'assets'));
  const files = [
    [debs.first, 'first.deb'],
    [debs.next, 'next.deb'],
    [images.probe.kernel, 'assets/probe-vmlinux'],
    [images.probe.initrd, 'assets/probe-initrd'],
  ] as const;
  for (const [from, to] of files) await runCommand('cp', ['-L', from, join(tree, to)], { deadlineMs: fullLimits.monitorMs });
  // They run with the Node.js and the modules of the package that is installed.
  for (const part of ['src', 'test', 'tools', 'package.json'])
    cpSync(join(sourceRoot, part), join(tree, 'source', part), { recursive: true });
  symlinkSync('/usr/lib/holdfast/node_modules', join(tree, 'source/node_modules'));
  const stick = join(folder, 'stick.raw');
  await runCommand('/sbin/mke2fs', ['-q', '-t', 'ext4', '-m', '0', '-d', tree, stick, '512M'], {
    deadlineMs: fullLimits.monitorMs,
  });
  rmSync(tree, { recursive: true });
  return stick;
}
