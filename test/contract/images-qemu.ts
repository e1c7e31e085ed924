import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, mkdtempSync, openSync, readFileSync, rmSync, truncateSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';

/** A guest of the lab booted straight from its image, without Holdfast: TCG, user networking, raw disks on files. */
export type BootedGuest = {
  /** The serial console so far. */
  console(): string;
  /** Milliseconds from the spawn of QEMU until the console first showed `text`. */
  waitForConsole(text: string, deadlineMs: number): Promise<number>;
  /** Presses the ACPI power button; returns when QEMU has ended by itself. */
  powerButton(deadlineMs: number): Promise<void>;
  /** SIGKILL, as if the machine lost power. */
  kill(): Promise<void>;
};

export type BootOptions = {
  directory: string;
  kernel: string;
  initrd: string;
  append: string;
  memoryMb: number;
  disks: string[];
  /** Guest TCP port made reachable on loopback. */
  forward?: { hostPort: number; guestPort: number };
};

/** Address of the guest in QEMU's user network; the host is 10.0.2.2 there. */
export const userNetworkGuest = '10.0.2.15/24';
export const userNetworkHost = '10.0.2.2';

const pollMs = 20;

/** A folder that goes when the test ends. */
export function temporaryFolder(name: string): Disposable & { path: string } {
  const path = mkdtempSync(join(tmpdir(), `holdfast-${name}-`));
  return { path, [Symbol.dispose]: () => rmSync(path, { recursive: true, force: true }) };
}

/** An empty raw disk. */
export function makeEmptyDisk(path: string, sizeBytes: number): string {
  closeSync(openSync(path, 'w'));
  truncateSync(path, sizeBytes);
  return path;
}

/** A TCP port on loopback that is free now. */
export async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const address = server.address();
  server.close();
  if (address === null || typeof address === 'string') throw new Error('no port');
  return address.port;
}

/** Waits until `look` returns something other than null. */
export async function until<T>(what: string, deadlineMs: number, look: () => T | null): Promise<T> {
  const giveUpMs = performance.now() + deadlineMs;
  for (;;) {
    const found = look();
    if (found !== null) return found;
    if (performance.now() > giveUpMs) throw new Error(`${what}: not within ${deadlineMs} ms`);
    await delay(pollMs);
  }
}

export function bootGuest(options: BootOptions): BootedGuest & AsyncDisposable {
  const log = join(options.directory, 'console.log');
  closeSync(openSync(log, 'w'));
  const output = openSync(join(options.directory, 'qemu.log'), 'w');
  const startedMs = performance.now();
  const child = spawn('qemu-system-x86_64', qemuArguments(options), { stdio: ['pipe', output, output] });
  closeSync(output);
  const gone = once(child, 'exit');
  const readConsole = (): string => readFileSync(log, 'utf8');
  const kill = async (): Promise<void> => {
    child.kill('SIGKILL');
    await gone;
  };
  return {
    console: readConsole,
    waitForConsole: (text, deadlineMs) =>
      until(`console shows ${JSON.stringify(text)}`, deadlineMs, () =>
        readConsole().includes(text) ? Math.round(performance.now() - startedMs) : null,
      ),
    powerButton: async (deadlineMs) => {
      child.stdin?.write('system_powerdown\n');
      await until('QEMU ends after the power button', deadlineMs, () => child.exitCode);
    },
    kill,
    [Symbol.asyncDispose]: kill,
  };
}

function qemuArguments(options: BootOptions): string[] {
  const forward =
    options.forward === undefined ? '' : `,hostfwd=tcp:127.0.0.1:${options.forward.hostPort}-:${options.forward.guestPort}`;
  const disks = options.disks.flatMap((file, i) => [
    '-drive',
    `if=none,id=disk${i},file=${file},format=raw`,
    '-device',
    `virtio-blk-pci,drive=disk${i}`,
  ]);
  const machine = `-machine q35 -accel tcg -cpu max -m ${options.memoryMb} -nodefaults -no-user-config -display none -monitor stdio`;
  return [
    ...machine.split(' '),
    '-serial',
    `file:${join(options.directory, 'console.log')}`,
    '-kernel',
    options.kernel,
    '-initrd',
    options.initrd,
    '-append',
    options.append,
    ...disks,
    '-netdev',
    `user,id=net0${forward}`,
    '-device',
    'virtio-net-pci,netdev=net0,romfile=',
  ];
}
