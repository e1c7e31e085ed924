import { type ChildProcess, spawn } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { closeSync, mkdirSync, openSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { runCommand } from '#lab/command.ts';
import { makeGroup, removeGroupTree } from '#lab/control-group.ts';
import type { LabEvent } from '#lab/lab-event.ts';
import { netnsFile, nodePaths } from '#lab/lab-paths.ts';
import type { LabNode, LabSpec } from '#lab/lab-spec.ts';
import { uplinkMac } from '#lab/network.ts';
import type { InitPlan } from '#lab/node/init-messages.ts';

const bootProgram = fileURLToPath(new URL('../node/boot.sh', import.meta.url));
const initProgram = fileURLToPath(new URL('../node/init.ts', import.meta.url));

/** Before the nodes, behind their watchdogs. */
export const roomNice = -10;

/** Guests share the CPU behind the store and our programs. */
const guestNice = 5;

/** The control group of a node: all of it, its system's part and its guests' part. */
export function nodeGroups(spec: LabSpec, node: string): { all: string; sys: string; ha: string } {
  const all = join(spec.cgroup, node);
  return { all, sys: join(all, 'sys'), ha: join(all, 'ha') };
}

/** Everything that a machine forgets without power is made new: control groups, /run, devices, the boot id (returned). */
export async function prepareBoot(spec: LabSpec, node: LabNode): Promise<string> {
  const paths = nodePaths(spec.name, node.name);
  const groups = nodeGroups(spec, node.name);
  removeGroupTree(groups.sys);
  removeGroupTree(groups.ha);
  makeGroup(join(groups.sys, 'init'));
  makeGroup(groups.ha);
  rmSync(paths.run, { recursive: true, force: true });
  for (const directory of [paths.etc, paths.data, paths.nodeRun, `${paths.watchdog}.d`, join(paths.run, 'staging')]) {
    mkdirSync(directory, { recursive: true });
  }
  await runCommand(`node ${node.name}: making its watchdog device`, ['mkfifo', '-m', '600', paths.watchdog]);
  const bootId = randomUUID();
  writeFileSync(paths.bootId, `${bootId}\n`);
  const held = spec.founded ? [] : spec.services.filter((service) => service.needsCluster).map((service) => service.name);
  const plan: InitPlan = {
    sysGroup: groups.sys,
    haGroup: groups.ha,
    logDirectory: '/var/lib/holdfast/log',
    services: spec.services.map((service) => ({ ...service, argv: service.argv.map((part) => fillIn(part, node)) })),
    held,
    guestNice,
  };
  writeFileSync(paths.services, JSON.stringify(plan));
  return bootId;
}

/** Services are described once for all nodes. */
function fillIn(argument: string, node: LabNode): string {
  return argument.replaceAll('{node}', node.name).replaceAll('{address}', node.address);
}

/**
 * Starts the node's first process inside its namespaces and control group. It dies with the room: a lab never outlives the process
 * that can end it. `onEvent` gets what the node's init says.
 */
export function spawnNode(spec: LabSpec, node: LabNode, onEvent: (event: LabEvent) => void): ChildProcess {
  const paths = nodePaths(spec.name, node.name);
  const enter = 'echo 0 >"$0/cgroup.procs" && exec "$@"';
  const console = openSync(paths.console, 'a');
  const boot = [
    bootProgram,
    node.name,
    `${node.address}/${spec.prefixLength}`,
    uplinkMac(node),
    paths.etc,
    paths.data,
    paths.nodeRun,
    paths.watchdog,
    paths.bootId,
    join(paths.run, 'staging'),
    process.execPath,
    initProgram,
    paths.services,
    paths.initSocket,
  ];
  const ordinary = ['nice', '-n', String(-roomNice)];
  const diesWithTheRoom = ['setpriv', '--pdeathsig', 'KILL', 'nsenter', `--net=${netnsFile(paths.netns)}`];
  const namespaces = ['unshare', '--mount', '--uts', '--ipc', '--pid', '--fork', '--kill-child=KILL', '/bin/sh'];
  const argv = [
    '-c',
    enter,
    join(nodeGroups(spec, node.name).sys, 'init'),
    ...ordinary,
    ...diesWithTheRoom,
    ...namespaces,
    ...boot,
  ];
  const child = spawn('/bin/sh', argv, { stdio: ['ignore', 'pipe', console], detached: true });
  closeSync(console);
  createInterface({ input: child.stdout! }).on('line', (line) => {
    if (line.startsWith('{')) onEvent({ ...(JSON.parse(line) as LabEvent), node: node.name } as LabEvent);
  });
  return child;
}
