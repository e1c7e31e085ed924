import { join } from 'node:path';
import { AppError } from '#base/error.ts';

/** Interface and namespace names, socket paths: all stay short because of this (a unix socket path has 108 bytes). */
const labNamePattern = /^[a-z][a-z0-9-]{0,18}[a-z0-9]$/;

/** Returns `value` as the name of a lab. Raises AppError invalid. */
export function parseLabName(value: string): string {
  if (labNamePattern.test(value)) return value;
  throw new AppError(
    'invalid',
    `lab name ${JSON.stringify(value)}: use 2 to 20 lower-case letters, digits and dashes, a letter first`,
  );
}

/** Where one lab keeps its things on the host. */
export type LabPaths = {
  /** Survives power loss of nodes: disks, certificates, the list of events. */
  state: string;
  /** Sockets, devices, pids. */
  run: string;
  spec: string;
  events: string;
  roomLog: string;
  controlSocket: string;
  pki: string;
  switchNetns: string;
  clientNetns: string;
};

/** Where one node of a lab keeps its things on the host, and the names of its parts. */
export type NodePaths = {
  /** Becomes /etc/holdfast in the node. */
  etc: string;
  /** Becomes /var/lib/holdfast in the node. */
  data: string;
  /** Everything below vanishes with each boot. */
  run: string;
  /** Becomes /run/holdfast in the node. */
  nodeRun: string;
  /** The watchdog's FIFO, /dev/watchdog0 in the node; its settings lie in the folder `<watchdog>.d`. */
  watchdog: string;
  bootId: string;
  services: string;
  initSocket: string;
  console: string;
  controller: string;
  netns: string;
};

const stateRoot = '/var/lib/holdfast-lab';
const runRoot = '/run/holdfast-lab';

export function labPaths(name: string): LabPaths {
  const state = join(stateRoot, name);
  const run = join(runRoot, name);
  return {
    state,
    run,
    spec: join(state, 'lab.json'),
    events: join(state, 'events.jsonl'),
    roomLog: join(state, 'room.log'),
    controlSocket: join(run, 'control.sock'),
    pki: join(state, 'pki'),
    switchNetns: `hf-${name}-sw`,
    clientNetns: `hf-${name}-client`,
  };
}

export function nodePaths(name: string, node: string): NodePaths {
  const { state, run } = labPaths(name);
  const nodeState = join(state, node);
  const nodeRun = join(run, node);
  return {
    etc: join(nodeState, 'etc'),
    data: join(nodeState, 'data'),
    run: nodeRun,
    nodeRun: join(nodeRun, 'run'),
    watchdog: join(nodeRun, 'dev', 'watchdog0'),
    bootId: join(nodeRun, 'boot-id'),
    services: join(nodeRun, 'services.json'),
    initSocket: join(nodeRun, 'init.sock'),
    console: join(nodeState, 'console.log'),
    controller: join(run, `${node}-bmc`),
    netns: `hf-${name}-${node}`,
  };
}

/** The file that makes a network namespace reachable by name (where iproute2 keeps them). */
export function netnsFile(netns: string): string {
  return join('/run/netns', netns);
}

/** Lists the labs that have something on the disk of this host. */
export const labRoots = { stateRoot, runRoot } as const;
