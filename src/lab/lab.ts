import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { AppError } from '#base/error.ts';
import { listGroup } from '#lab/control-group.ts';
import { storeEndpoints } from '#lab/founding/services.ts';
import { labLimits } from '#lab/lab-limits.ts';
import { labPaths, netnsFile, nodePaths } from '#lab/lab-paths.ts';
import { readLabSpec, requireLabSpec, requireNode } from '#lab/lab-spec.ts';
import { removeLeftovers } from '#lab/leftovers.ts';
import type { LinkState } from '#lab/network.ts';
import type { ServiceState } from '#lab/node/init-messages.ts';
import { askRoom } from '#lab/room-client.ts';
import { type FinishedRun, type RunOptions, runToEnd } from '#lab/run-to-end.ts';
import type { PowerCut } from '#lab/room/node-power.ts';
import type { RoomStatus } from '#lab/room/room-requests.ts';
import { waitFor } from '#lab/wait-for.ts';

/** The machine room as the command line, the drills and the tests use it. `labUp` lies in lab-up.ts. */

/**
 * Ends a lab and removes everything of it, also when its room has crashed; a lab that is not there is no error. Returns whether
 * there was one.
 */
export async function labDown(name: string): Promise<boolean> {
  const existed = readLabSpec(name) !== null;
  try {
    await askRoom(name, { op: 'down' });
    await waitFor(() => readLabSpec(name) === null, labLimits.roomDownMs);
  } catch (error) {
    if (!(error instanceof AppError)) throw error; // no room: its leftovers are swept below
  }
  await removeLeftovers(name);
  return existed;
}

/** Power, links, controllers and services of every node. Raises AppError missing (no such lab), unavailable (its room has died). */
export function labStatus(name: string): Promise<RoomStatus> {
  return askRoom(name, { op: 'status' });
}

/**
 * Pulls a node's plug or puts it back. Off: the node's network and all its processes end at once, its controller too unless
 * `keepBmc`; returns when it was pulled (null: it had no power already). On: returns null when the node boots.
 */
export function plug(
  name: string,
  node: string,
  to: 'off' | 'on',
  options: { keepBmc?: boolean } = {},
): Promise<PowerCut | null> {
  return askRoom(name, { op: 'plug', node, to, keepBmc: options.keepBmc ?? false });
}

/**
 * A node's cable. `cut-tx`: what the node sends is lost; `cut-rx`: what is sent to it is lost; a delay is added to what is sent to
 * it, beside the state (0: none). States and delays stay over reboots. Raises AppError unsupported for a delay when this host's
 * kernel has no network emulator (netem), missing for a cut without nftables.
 */
export async function link(name: string, node: string, to: LinkState | { delayMs: number }): Promise<void> {
  await askRoom(name, { op: 'link', node, to });
}

/** The switch's own power: off takes every cable, the client's and the management controllers' too. */
export async function switchPower(name: string, to: 'off' | 'on'): Promise<void> {
  await askRoom(name, { op: 'switch', to });
}

/** Sends a signal to every process of a service (`etcd`, `guard`, `relay`, `agent`); returns their pids on this host. */
export async function signalService(name: string, node: string, service: string, signal: NodeJS.Signals): Promise<number[]> {
  return (await askRoom(name, { op: 'signal', node, service, signal })).pids;
}

/** Stops a service in order (SIGTERM, then kill) and keeps it stopped until `startService` or the next boot. */
export function stopService(name: string, node: string, service: string): Promise<ServiceState[]> {
  return askRoom(name, { op: 'service', node, service, to: 'stop' });
}

/** Starts a stopped service. */
export function startService(name: string, node: string, service: string): Promise<ServiceState[]> {
  return askRoom(name, { op: 'service', node, service, to: 'start' });
}

/** Pids on this host of a service's processes; none when it is not running. */
export function listServicePids(name: string, node: string, service: string): number[] {
  const spec = requireLabSpec(name);
  requireNode(spec, node);
  return listGroup(join(spec.cgroup, node, 'sys', service));
}

/** What somebody needs who speaks to the lab's cluster. All but the certificates only works inside the client namespace. */
export type LabContext = {
  name: string;
  clientNetns: string;
  clientNetnsFile: string;
  clientAddress: string;
  endpoints: string[];
  tls: { caFile: string; certFile: string; keyFile: string };
  /** `folders`: where the node's /etc/holdfast, /var/lib/holdfast and /run/holdfast lie on this host; `guests`: its group of guests. */
  nodes: {
    name: string;
    address: string;
    folders: { etc: string; data: string; run: string };
    guestsCgroup: string;
    netns: string;
  }[];
};

/** Raises AppError missing when there is no such lab. */
export function labContext(name: string): LabContext {
  const spec = requireLabSpec(name);
  const { clientNetns, pki } = labPaths(name);
  return {
    name,
    clientNetns,
    clientNetnsFile: netnsFile(clientNetns),
    clientAddress: spec.clientAddress,
    endpoints: storeEndpoints(spec.nodes),
    tls: { caFile: join(pki, 'ca.pem'), certFile: join(pki, 'client.pem'), keyFile: join(pki, 'client.key') },
    nodes: spec.nodes.map((node) => {
      const { etc, data, nodeRun, netns } = nodePaths(name, node.name);
      const guestsCgroup = join(spec.cgroup, node.name, 'ha');
      return { name: node.name, address: node.address, folders: { etc, data, run: nodeRun }, guestsCgroup, netns };
    }),
  };
}

/** The command that runs `argv` inside the client's network namespace; files, processes and mounts stay the host's. */
export function formatClientCommand(name: string, argv: string[]): string[] {
  return ['nsenter', `--net=${labContext(name).clientNetnsFile}`, ...argv];
}

/**
 * Runs a program in the client namespace to its end. Its exit code is the caller's to judge. Raises AppError timeout (it is killed
 * then) and unavailable when it cannot be started.
 */
export async function runInClient(name: string, argv: string[], options: RunOptions = {}): Promise<FinishedRun> {
  return runToEnd(`lab ${name}: ${argv[0]} at the client`, formatClientCommand(name, argv), options);
}

/**
 * The command that runs `argv` inside a node: all its namespaces and its control group, so that it ends with the node's power.
 * Raises AppError unavailable when the node has no power.
 */
export function formatNodeCommand(name: string, node: string, argv: string[]): string[] {
  const spec = requireLabSpec(name);
  requireNode(spec, node);
  const initGroup = join(spec.cgroup, node, 'sys', 'init');
  const inside = listGroup(initGroup).find(isFirstOfItsNamespace);
  if (inside === undefined)
    throw new AppError('unavailable', `node ${node}: it has no power; give it back with: lab plug ${node} on`);
  const enter = 'echo 0 >"$0/cgroup.procs" && exec "$@"';
  const namespaces = ['--mount', '--uts', '--ipc', '--net', '--pid'];
  return ['/bin/sh', '-c', enter, initGroup, 'nsenter', '--target', String(inside), ...namespaces, '--', ...argv];
}

/** Process 1 as the node itself counts (proc(5): NSpid ends with the innermost number). */
function isFirstOfItsNamespace(pid: number): boolean {
  try {
    return /^NSpid:\t.*\t1$/m.test(readFileSync(`/proc/${pid}/status`, 'utf8'));
  } catch {
    return false; // it ended between the listing and the look
  }
}

/** Runs a program inside a node to its end, as `runInClient` does. */
export async function runInNode(name: string, node: string, argv: string[], options: RunOptions = {}): Promise<FinishedRun> {
  return runToEnd(`node ${node}: ${argv[0]}`, formatNodeCommand(name, node, argv), options);
}
