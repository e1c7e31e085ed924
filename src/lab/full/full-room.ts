import { mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { runCommand } from '#lab/images/command.ts';
import type { Emulator } from '#lab/images/emulator.ts';
import type { MachineImage } from '#lab/images/machine.ts';
import type { ProbeImage } from '#lab/images/probe.ts';
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
  /** Leaves the machines as they are to the next drill. */
  letGo: () => void;
};

const machineNames = ['n1', 'n2', 'n3'] as const;

/** Where a machine finds what the room gives it on a stick. */
export const stickFolder = '/mnt';

/** Builds the room in this process's namespaces: switch, time, machines without power. They end with the namespace. */
export async function buildRoom(options: RoomOptions): Promise<Room> {
  await buildRoomNetwork(machineNames.map((_, index) => wireMachine(index + 1)));
  await startTimeServer(roomNetwork.address);
  return fillRoom(options, createMachine);
}

/** The room that an earlier drill built and left, entered again, with new packages on the stick. */
export function enterRoom(options: RoomOptions): Promise<Room> {
  return fillRoom(options, adoptMachine);
}

async function fillRoom(options: RoomOptions, make: typeof createMachine): Promise<Room> {
  const stick = await makeStick(options);
  const tscKhz = await measureTscKhz(options.folder);
  const machines: Machine[] = [];
  for (const [index, name] of machineNames.entries()) {
    const { address, tap, mac } = wireMachine(index + 1);
    const folder = join(options.folder, name);
    const spec = { name, address, tap, mac, folder, roomAddress: roomNetwork.address, memoryMb: fullLimits.memoryMb, tscKhz };
    machines.push(await make({ spec, image: options.images.machine, emulator: options.images.emulator, stick }));
  }
  return {
    machines,
    byName: (name) => machines.find((machine) => machine.name === name)!,
    letGo: () => machines.forEach((machine) => machine.letGo()),
  };
}

/**
 * A read-only file system with our packages and the tiny guest's kernel, as a person would bring them along. An existing one is filled anew in its
 * place, for machines that have it open.
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
  const stick = join(folder, 'stick.raw');
  await runCommand('/sbin/mke2fs', ['-q', '-t', 'ext4', '-m', '0', '-d', tree, stick, '512M'], {
    deadlineMs: fullLimits.monitorMs,
  });
  rmSync(tree, { recursive: true });
  return stick;
}
