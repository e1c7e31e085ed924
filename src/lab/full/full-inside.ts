import { formatErrorChain, isAppError, exitCodeOf } from '#base/error.ts';
import { fullLimits } from './full-limits.ts';
import { becomeNode, installPackage, makePool, placeAssets, pool } from './founding.ts';
import { playScenes, printResult } from './full-drill.ts';
import type { DiskKind, FullScene } from '#lab/drills/drill-names.ts';
import { buildRoom, enterRoom, type Room, type RoomOptions } from './full-room.ts';
import type { Machine } from './machine.ts';
import { tryOneMachine } from './one-machine.ts';
import { openStage, startTinyGuest } from './stage.ts';

/**
 * The full lab from inside its namespaces: the first process there, with which everything in them ends; or a later drill with the machines that the
 * first one left up.
 *
 * Argument: the options as JSON (no secret is among them).
 */
export type InsideOptions = RoomOptions & {
  jsonFile: string | null;
  /** Or one machine alone, without a cluster, and the kinds of disks that are tried in its pool. */
  scenes: FullScene[] | { alone: readonly DiskKind[] };
  once: boolean;
  reuse: boolean;
};

const startMs = performance.now();

function say(line: string): void {
  process.stdout.write(`${((performance.now() - startMs) / 1000).toFixed(0).padStart(5)} s  ${line}\n`);
}

/** All machines boot and get the package at once, then become nodes one after the other. What an earlier drill did is not done again. */
async function bringUp({ machines }: Room): Promise<void> {
  await Promise.all(machines.map(prepare));
  for (const machine of machines) {
    if ((await machine.shell.run('grep -q \'"state": "done"\' /etc/holdfast/setup.json')).code === 0) continue;
    await becomeNode(machine, machines[0]!, say);
    say(`${machine.name}: is a node`);
  }
}

async function prepare(machine: Machine): Promise<void> {
  await machine.on();
  await machine.waitForLogin();
  const { name, shell } = machine;
  if ((await shell.run(`zpool list ${pool}`)).code === 0) return;
  const versions = await shell.must('uname -r; cat /sys/module/zfs/version');
  say(`${name}: booted, kernel ${versions.trim().replace('\n', ', OpenZFS ')}`);
  await installPackage(machine);
  await makePool(machine);
  await placeAssets(machine);
  const made = await shell.must(`zpool list -H -o name,size,health ${pool}`);
  say(`${name}: holdfast installed with apt; pool ${made.trim().replaceAll('\t', ' ')}`);
}

async function run(options: InsideOptions): Promise<number> {
  const { folder, images, jsonFile, scenes, reuse } = options;
  const versions = { ...images.machine.versions };
  if ('alone' in scenes) {
    const [machine] = (await buildRoom(options, 1)).machines;
    await prepare(machine!);
    return (await tryOneMachine(machine!, { versions, disks: scenes.alone, jsonFile, say })).brokenPromises.length === 0 ? 0 : 1;
  }
  const room = reuse ? await enterRoom(options) : await buildRoom(options);
  try {
    await bringUp(room);
    await using stage = await openStage(room, folder, say);
    await startTinyGuest(stage, 'n2');
    const result = await playScenes(stage, { scenes, versions, jsonFile });
    printResult(result, say);
    return result.brokenPromises.length === 0 ? 0 : 1;
  } finally {
    room.letGo();
  }
}

/** Keeps the machines up for looking around, until the lab is ended from outside. */
async function stay(options: InsideOptions): Promise<never> {
  const ssh = `ssh -i ${options.images.machine.sshKey} -o UserKnownHostsFile=/dev/null -o StrictHostKeyChecking=no root@10.77.0.1`;
  say(`the machines stay up until Ctrl-C; a shell in n1: nsenter -t PID -n ${ssh}`);
  say('  where PID is any process of /sys/fs/cgroup/…/hf-lab/full/cgroup.procs');
  return new Promise(() => setInterval(() => undefined, fullLimits.drillMs));
}

const options = JSON.parse(process.argv[2] ?? '') as InsideOptions;
let code: number;
try {
  code = await run(options);
} catch (error) {
  if (!isAppError(error)) throw error;
  process.stderr.write(`full lab: ${formatErrorChain(error)}\n`);
  code = exitCodeOf(error.kind);
}
if (!options.once && !options.reuse) await stay(options);
process.exit(code);
