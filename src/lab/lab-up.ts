import { spawn } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { accessSync, closeSync, constants, mkdirSync, openSync } from 'node:fs';
import { delimiter, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { AppError, type ErrorKind, isAppError } from '#base/error.ts';
import type { TimingProfileName } from '#core/ha/timing.ts';
import { makeGroup } from '#lab/control-group.ts';
import { writeClusterFiles } from '#lab/founding/node-files.ts';
import { defaultServices } from '#lab/founding/services.ts';
import { labDown, labStatus, runInClient } from '#lab/lab.ts';
import { readLabEvents } from '#lab/lab-event.ts';
import { labLimits } from '#lab/lab-limits.ts';
import { labPaths, netnsFile, parseLabName } from '#lab/lab-paths.ts';
import { type LabNode, type LabSpec, type ServiceSpec, writeLabSpec } from '#lab/lab-spec.ts';
import { labGroup, removeLeftovers } from '#lab/leftovers.ts';
import { readLogEnds } from '#lab/log-ends.ts';
import { buildSwitch } from '#lab/network.ts';
import { askRoom } from '#lab/room-client.ts';
import { readStartTicks } from '#lab/room/owner.ts';
import { waitFor } from '#lab/wait-for.ts';

export type LabUpOptions = {
  name: string;
  /** How many nodes, named n1, n2, … */
  nodes: number;
  /** Each node gets a management controller, and the cluster a record of it. */
  bmc: boolean;
  timingProfile?: TimingProfileName;
  accelerator?: 'auto' | 'kvm' | 'tcg';
  /** Name in each node's assets folder -> file on this host (linked where possible, else copied). */
  assets?: Record<string, string>;
  /** The lab ends by itself after this, or with this process. */
  ttlMs?: number;
  ownerPid?: number;
  /** Where the folders `guard`, `agent`, `relay` lie; default: the ones of this installation. */
  programsDir?: string;
  /** Instead of the real programs; such a lab has no cluster: nothing is founded and nothing is waited for but the boot. */
  services?: ServiceSpec[];
  bootDelayMs?: number;
  progress?: (text: string) => void;
};

const roomProgram = fileURLToPath(new URL('room/main.ts', import.meta.url));
const foundingProgram = fileURLToPath(new URL('founding/main.ts', import.meta.url));
const installedPrograms = fileURLToPath(new URL('../programs', import.meta.url));

const subnet = { prefix: '10.77.0.', prefixLength: 24, client: 254, firstController: 11 } as const;

/**
 * Builds a lab and returns when its cluster serves. What an earlier lab of that name left behind is removed first. On failure
 * everything is removed again and the error says what the nodes' logs said last. Raises AppError conflict when the lab is up,
 * denied without root, missing naming a program to install, timeout, unavailable.
 */
export async function labUp(options: LabUpOptions): Promise<void> {
  const name = parseLabName(options.name);
  const say = options.progress ?? (() => undefined);
  checkMachine(options);
  await refuseIfUp(name);
  await removeLeftovers(name);
  const clusterId = randomUUID();
  const spec = makeSpec(options, clusterId);
  try {
    mkdirSync(labPaths(name).state, { recursive: true });
    mkdirSync(labPaths(name).run, { recursive: true });
    say('certificates, secrets and configuration of the nodes');
    await writeClusterFiles(spec, {
      clusterId,
      timingProfile: options.timingProfile ?? 'standard',
      accelerator: options.accelerator ?? 'auto',
      assets: options.assets ?? {},
    });
    writeLabSpec(spec);
    makeGroup(spec.cgroup);
    await buildSwitch(spec);
    say(`booting ${spec.nodes.map((node) => node.name).join(', ')}`);
    await startRoom(spec);
    await waitForBoot(spec);
    if (options.services === undefined) await foundAndWait(spec, clusterId, say);
  } catch (error) {
    const words = readLogEnds(spec);
    await labDown(name);
    if (!isAppError(error)) throw error;
    throw new AppError(error.kind, `lab ${name} did not come up (and was removed again): ${error.message}${words}`, {
      cause: error.cause,
    });
  }
}

function makeSpec(options: LabUpOptions, clusterId: string): LabSpec {
  const nodes = Array.from({ length: options.nodes }, (_, index): LabNode => ({
    name: `n${index + 1}`,
    address: `${subnet.prefix}${index + 1}`,
    controllerAddress: options.bmc ? `${subnet.prefix}${subnet.firstController + index}` : null,
  }));
  return {
    name: options.name,
    nodes,
    clientAddress: `${subnet.prefix}${subnet.client}`,
    prefixLength: subnet.prefixLength,
    cgroup: labGroup(options.name),
    services: options.services ?? defaultServices({ nodes, clusterId, programsDir: options.programsDir ?? installedPrograms }),
    controllerUser: 'holdfast',
    bootDelayMs: options.bootDelayMs ?? labLimits.bootDelayMs,
    ttlMs: options.ttlMs ?? null,
    owner: options.ownerPid === undefined ? null : identifyOwner(options.ownerPid),
    founded: false,
  };
}

function identifyOwner(pid: number): { pid: number; startTicks: string } {
  const startTicks = readStartTicks(pid);
  if (startTicks === null) throw new AppError('invalid', `lab up: the owner, process ${pid}, is not running`);
  return { pid, startTicks };
}

/** What must be there before anything is changed. */
function checkMachine(options: LabUpOptions): void {
  if (process.getuid?.() !== 0) throw new AppError('denied', 'lab up: making namespaces and control groups needs root');
  if (options.nodes < 1 || options.nodes > 9)
    throw new AppError('invalid', `lab up: ${options.nodes} nodes; 1 to 9 are possible`);
  const programs: [string, string][] = [
    ['ip', 'iproute2'],
    ['nsenter', 'util-linux'],
    ['unshare', 'util-linux'],
    ['setpriv', 'util-linux'],
  ];
  if (options.services === undefined) programs.push(['etcd', 'etcd-server']);
  if (options.bmc) programs.push(['ipmi_sim', 'openipmi'], ['ipmitool', 'ipmitool'], ['fence_ipmilan', 'fence-agents']);
  for (const [program, debianPackage] of programs) {
    if (!isInstalled(program))
      throw new AppError('missing', `lab up: ${program} is not installed (Debian package ${debianPackage})`);
  }
  // Mount points of the nodes: they must exist on the host, where they stay as they are.
  for (const directory of ['/etc/holdfast', '/var/lib/holdfast', '/run/holdfast']) mkdirSync(directory, { recursive: true });
}

function isInstalled(program: string): boolean {
  return `${process.env['PATH'] ?? ''}:/usr/sbin:/sbin`.split(delimiter).some((directory) => {
    try {
      accessSync(join(directory, program), constants.X_OK);
      return true;
    } catch {
      return false;
    }
  });
}

async function refuseIfUp(name: string): Promise<void> {
  const status = await labStatus(name).catch((error: unknown) => {
    if (isAppError(error, 'missing', 'unavailable')) return null;
    throw error;
  });
  if (status !== null)
    throw new AppError('conflict', `lab ${name} is up already (process ${status.pid}); end it with: holdfast lab down`);
}

/** Starts the room on its own feet: it outlives the caller unless the caller is its owner. */
async function startRoom(spec: LabSpec): Promise<void> {
  const { switchNetns, roomLog } = labPaths(spec.name);
  const log = openSync(roomLog, 'a');
  const argv = [`--net=${netnsFile(switchNetns)}`, process.execPath, roomProgram, '--name', spec.name];
  const { PATH, HOME, LANG } = process.env;
  const child = spawn('nsenter', argv, {
    stdio: ['ignore', log, log],
    detached: true,
    cwd: '/',
    // Nothing of a test runner's or an operator's environment reaches the nodes.
    env: { PATH: `${PATH ?? ''}:/usr/sbin:/sbin`, HOME, LANG },
  });
  closeSync(log);
  let ended = false;
  child.once('exit', () => (ended = true));
  child.once('error', () => (ended = true));
  const answers = () =>
    ended ||
    labStatus(spec.name).then(
      () => true,
      () => false,
    );
  const ready = await waitFor(answers, labLimits.roomReadyMs);
  child.unref();
  if (!ready || ended) throw new AppError('unavailable', `the room ${ended ? 'ended at once' : 'does not answer'}`);
}

async function waitForBoot(spec: LabSpec): Promise<void> {
  const up = await waitFor(() => {
    const events = readLabEvents(spec.name);
    const failed = events.find((event) => event.event === 'boot-failed');
    if (failed !== undefined) throw new AppError('unavailable', `node ${failed.node} did not boot: ${failed.text}`);
    return spec.nodes.every((node) => events.some((event) => event.event === 'system-up' && event.node === node.name));
  }, labLimits.controlMs);
  if (!up) throw new AppError('timeout', `not every node was up after ${labLimits.controlMs} ms`);
}

async function foundAndWait(spec: LabSpec, clusterId: string, say: (text: string) => void): Promise<void> {
  await runFounding(spec, clusterId, 'found', say);
  await askRoom(spec.name, { op: 'founded' });
  await runFounding(spec, clusterId, 'ready', say);
}

async function runFounding(
  spec: LabSpec,
  clusterId: string,
  part: 'found' | 'ready',
  say: (text: string) => void,
): Promise<void> {
  const argv = [process.execPath, foundingProgram, '--name', spec.name, '--cluster', clusterId, part];
  const deadlineMs = 3 * labLimits.storeLeaderMs;
  const { code, stderr } = await runInClient(spec.name, argv, { deadlineMs, onLine: say });
  if (code === 0) return;
  const line = stderr
    .trim()
    .split('\n')
    .findLast((text) => text.startsWith('{"kind"'));
  if (line === undefined)
    throw new AppError('unavailable', `founding the cluster ended with code ${code}: ${stderr.slice(-500)}`);
  const { kind, message } = JSON.parse(line) as { kind: ErrorKind; message: string };
  throw new AppError(kind, message);
}
