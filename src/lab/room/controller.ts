import { type ChildProcess, spawn } from 'node:child_process';
import { closeSync, constants, existsSync, mkdirSync, openSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { Socket } from 'node:net';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { AppError } from '#base/error.ts';
import { runCommand } from '#lab/command.ts';
import { labLimits } from '#lab/lab-limits.ts';
import { waitFor } from '#lab/wait-for.ts';

/** IPMI's own port. */
export const controllerPort = 623;

/** ipmi_sim knows suite 3 but not the question which suites it knows: a client that asks waits ten seconds for nothing. */
export const simulatorCipherSuite = 3;

const chassisProgram = fileURLToPath(new URL('../controller/chassis.sh', import.meta.url));

/**
 * A node's management controller: Debian's `ipmi_sim` at an address of the switch. It reads the node's power from a file and
 * passes orders through a FIFO; the room carries them out.
 */
export type Controller = {
  isOn(): boolean;
  start(): Promise<void>;
  /** The controller lost its own power. */
  stop(): void;
  /** What it reports from now on. */
  showPower(power: 'on' | 'off'): void;
  /** Closes everything for good. */
  close(): void;
};

/** `name`: the node's. `folder`: the controller's own, made anew. */
export type ControllerSpec = { name: string; address: string; folder: string; user: string; password: string };

/** Prepares a node's controller. `onOrder` is called for each power order it received. */
export async function createController(spec: ControllerSpec, onOrder: (power: 'on' | 'off') => void): Promise<Controller> {
  const { folder } = spec;
  rmSync(folder, { recursive: true, force: true });
  mkdirSync(join(folder, 'state'), { recursive: true, mode: 0o700 });
  writeConfiguration(spec);
  await runCommand(`controller of ${spec.name}: making its order pipe`, ['mkfifo', '-m', '600', join(folder, 'order')]);
  const orders = readOrders(join(folder, 'order'), onOrder);
  let child: ChildProcess | null = null;
  const showPower = (power: 'on' | 'off') => {
    writeFileSync(join(folder, 'power.new'), power);
    renameSync(join(folder, 'power.new'), join(folder, 'power'));
  };
  const stop = () => {
    child?.kill('SIGKILL');
    child = null;
  };
  showPower('off');
  return {
    isOn: () => child !== null,
    async start() {
      if (child !== null) return;
      child = spawnSimulator(folder);
      child.once('exit', () => (child = null));
      await waitUntilListening(spec);
    },
    stop,
    showPower,
    close() {
      stop();
      orders.destroy();
    },
  };
}

function writeConfiguration({ name, address, folder, user, password }: ControllerSpec): void {
  const lan = [
    `name "${name}"`,
    'set_working_mc 0x20',
    '  startlan 1',
    `    addr ${address} ${controllerPort}`,
    '    priv_limit admin',
    '    allowed_auths_admin md5',
    '    guid a123456789abcdefa123456789abcdef',
    '  endlan',
    `  chassis_control "${chassisProgram} ${folder}"`,
    `  user 2 true "${user}" "${password}" admin 10 md5`,
  ];
  const simulation = ['mc_setbmc 0x20', 'mc_add 0x20 0 no-device-sdrs 0x23 9 8 0x9f 0x1291 0xf02', 'mc_enable 0x20'];
  writeFileSync(join(folder, 'lan.conf'), `${lan.join('\n')}\n`, { mode: 0o600 });
  writeFileSync(join(folder, 'sim.emu'), `${simulation.join('\n')}\n`);
}

function spawnSimulator(folder: string): ChildProcess {
  const log = openSync(join(folder, 'log'), 'a');
  const files = ['-c', join(folder, 'lan.conf'), '-f', join(folder, 'sim.emu'), '-s', join(folder, 'state')];
  const child = spawn('setpriv', ['--pdeathsig', 'KILL', 'ipmi_sim', ...files, '-n'], { stdio: ['ignore', log, log] });
  closeSync(log);
  return child;
}

function readOrders(path: string, onOrder: (power: 'on' | 'off') => void): Socket {
  const pipe = new Socket({ fd: openSync(path, constants.O_RDWR | constants.O_NONBLOCK), readable: true, writable: false });
  pipe.on('data', (bytes: Buffer) => {
    for (const order of bytes.toString('latin1').split('\n')) if (order === 'on' || order === 'off') onOrder(order);
  });
  return pipe;
}

async function waitUntilListening({ name, address }: ControllerSpec): Promise<void> {
  const bytes = address.split('.').map(Number).reverse();
  const port = controllerPort.toString(16).toUpperCase().padStart(4, '0');
  const local = `${bytes.map((byte) => byte.toString(16).toUpperCase().padStart(2, '0')).join('')}:${port}`;
  const listening = () => existsSync('/proc/self/net/udp') && readFileSync('/proc/self/net/udp', 'utf8').includes(local);
  if (!(await waitFor(listening, labLimits.controllerReadyMs))) {
    throw new AppError('timeout', `controller of ${name}: ipmi_sim does not listen at ${address}:${controllerPort}`);
  }
}
