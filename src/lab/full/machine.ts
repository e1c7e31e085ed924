import { existsSync, mkdirSync, readFileSync } from 'node:fs';
import { setTimeout as delay } from 'node:timers/promises';
import { connectQmp } from '#adapters/qmp/qmp-client.ts';
import { AppError } from '#base/error.ts';
import type { Emulator } from '#lab/images/emulator.ts';
import type { MachineImage } from '#lab/images/machine.ts';
import { runCommand } from '#lab/images/command.ts';
import type { Qmp } from '#ports/qmp.ts';
import { adoptEmulator, type EmulatorProcess, startEmulator } from './emulator-process.ts';
import { fullLimits } from './full-limits.ts';
import { formatMachineCommand, type MachineDisk, machineFile, type MachineSpec } from './machine-command.ts';
import { formatStick, makeDisk, readDisks, writeDisks } from './machine-disks.ts';
import { type MachineShell, openMachineShell } from './machine-shell.ts';

/** What the room saw of a machine, with this host's wall clock. */
export type MachineEvent = { atMs: number; event: 'power-on' | 'power-off' | 'watchdog' | 'reset' };

export type Machine = {
  readonly name: string;
  readonly address: string;
  readonly shell: MachineShell;
  readonly disks: readonly MachineDisk[];
  isOn(): boolean;
  /** Everything seen so far, oldest first. */
  events(): readonly MachineEvent[];
  /** Gives it power; returns when its emulator runs. */
  on(): Promise<void>;
  /** Waits until root can log in. Raises AppError timeout with the end of its console. */
  waitForLogin(): Promise<void>;
  /** Takes the power away at once. The time was read before the kill. */
  pull(): Promise<{ atMs: number }>;
  /** It stands still, its watchdog with it: only taking its power helps. */
  hang(): Promise<{ atMs: number }>;
  /** Pulls a data disk out of its slot. */
  pullDisk(id: string): Promise<{ atMs: number }>;
  /** Puts a new, empty disk into the slot of a pulled one; it gets the serial `serial`. */
  insertDisk(id: string, serial: string): Promise<MachineDisk>;
  /** Leaves it as it is to the next drill, and its monitor with it. */
  letGo(): void;
};

/** `showPower`: told what its controller has to say of it. */
export type MachineParts = {
  spec: MachineSpec;
  image: MachineImage;
  emulator: Emulator;
  stick: string;
  showPower: (power: 'on' | 'off') => void;
};

/** Makes a machine afresh: a new root over the image, empty data disks, no power. `stick`: an image that it finds as read-only disk. */
export async function createMachine(parts: MachineParts): Promise<Machine> {
  const { spec, image, emulator } = parts;
  mkdirSync(spec.folder, { recursive: true });
  const disks: MachineDisk[] = ['1', '2', '3'].map((number) => makeDisk(spec, number, `${spec.name}-disk${number}`));
  writeDisks(spec, disks);
  const overlay = ['create', '-q', '-f', 'qcow2', '-b', image.rootImage, '-F', 'raw', machineFile(spec, 'root.qcow2')];
  await runEmulatorTool(emulator.image, overlay);
  return operateMachine(parts, disks);
}

/** The machine that an earlier drill made in this room, as it is now: with or without power. */
export async function adoptMachine(parts: MachineParts): Promise<Machine> {
  const machine = operateMachine(parts, readDisks(parts.spec));
  await machine.adopt();
  return machine;
}

function operateMachine(
  { spec, image, emulator, stick, showPower }: MachineParts,
  disks: MachineDisk[],
): Machine & { adopt(): Promise<void> } {
  const shell = openMachineShell({ ...spec, key: image.sshKey, socket: machineFile(spec, 'ssh') });
  const seen: MachineEvent[] = [];
  const note = (event: MachineEvent['event'], atMs = Date.now()) => void seen.push({ atMs, event });
  let running: EmulatorProcess | null = null;
  let qmp: Qmp | null = null;
  const isOn = () => running !== null && !running.hasEnded();
  const monitor = () => {
    if (qmp === null || !isOn()) throw new AppError('conflict', `${spec.name} has no power`);
    return qmp;
  };
  const watch = async (emulated: EmulatorProcess) => {
    running = emulated;
    qmp = await openMonitor(spec, () => !emulated.hasEnded());
    qmp.onEvent(({ event, timestampMs }) => {
      if (event === 'WATCHDOG') note('watchdog', timestampMs);
      if (event === 'RESET') note('reset', timestampMs);
    });
  };
  return {
    name: spec.name,
    address: spec.address,
    shell,
    disks,
    isOn,
    events: () => seen,
    async on() {
      if (isOn()) return;
      note('power-on');
      showPower('on');
      const argv = [...emulator.system, ...formatMachineCommand(spec, image.kernel, disks), ...formatStick(stick)];
      await watch(startEmulator(spec, argv));
    },
    async adopt() {
      const found = adoptEmulator(spec);
      if (found === null) return;
      showPower('on');
      await watch(found);
    },
    async waitForLogin() {
      const untilMs = performance.now() + fullLimits.bootMs;
      while (!(await shell.answers())) {
        if (!isOn() || performance.now() > untilMs) {
          const why = isOn() ? `nobody answers after ${fullLimits.bootMs / 1000} s` : 'its emulator ended';
          throw new AppError('timeout', `booting ${spec.name}: ${why}; ${readEnds(spec)}`);
        }
        await delay(fullLimits.loginPollMs);
      }
    },
    async pull() {
      const atMs = Date.now();
      const mine = running;
      running = null;
      qmp?.close();
      qmp = null;
      await mine?.kill();
      note('power-off', atMs);
      showPower('off');
      shell.hangUp();
      return { atMs };
    },
    async hang() {
      const atMs = Date.now();
      await monitor().execute('stop');
      return { atMs };
    },
    letGo() {
      qmp?.close();
      qmp = null;
    },
    async pullDisk(id) {
      const atMs = Date.now();
      const gone = monitor().waitForEvent(({ event, data }) => event === 'DEVICE_DELETED' && data['device'] === id, {
        deadlineMs: fullLimits.monitorMs,
      });
      await Promise.all([gone, monitor().execute('device_del', { id })]);
      return { atMs };
    },
    async insertDisk(id, serial) {
      const slot = disks.findIndex((disk) => disk.id === id);
      if (slot < 0) throw new AppError('invalid', `${spec.name} has no disk slot ${id}`);
      const disk = makeDisk(spec, `${slot + 1}-${serial}`, serial);
      const node = `${disk.serial}-file`;
      await monitor().execute('blockdev-add', {
        driver: 'raw',
        'node-name': node,
        file: { driver: 'file', filename: disk.file },
      });
      await monitor().execute('device_add', { driver: 'virtio-blk-pci', id, bus: `slot${slot + 1}`, drive: node, serial });
      disks[slot] = { ...disk, id };
      writeDisks(spec, disks);
      return { ...disk, id };
    },
  };
}

async function openMonitor(spec: MachineSpec, runs: () => boolean): Promise<Qmp> {
  const untilMs = performance.now() + fullLimits.monitorMs;
  for (;;) {
    if (existsSync(machineFile(spec, 'qmp'))) {
      const found = await connectQmp(machineFile(spec, 'qmp'), { deadlineMs: fullLimits.monitorMs }).catch(() => null);
      if (found !== null) return found;
    }
    if (!runs() || performance.now() > untilMs)
      throw new AppError(
        'unavailable',
        `starting ${spec.name}: its emulator ${runs() ? 'does not answer' : 'ended at once'}; ${readEnds(spec)}`,
      );
    await delay(50);
  }
}

/** The last words of a machine's console and of its emulator. */
function readEnds(spec: MachineSpec): string {
  const read = (name: 'console' | 'log') => {
    const file = machineFile(spec, name);
    return existsSync(file) ? readFileSync(file, 'utf8').trim().slice(-600) : '';
  };
  return `console: ${read('console')}; emulator: ${read('log')}`;
}

async function runEmulatorTool(image: string[], args: string[]): Promise<void> {
  const [program, ...first] = image as [string, ...string[]];
  await runCommand(program, [...first, ...args], { deadlineMs: fullLimits.monitorMs });
}
