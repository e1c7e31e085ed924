import type { Command } from 'commander';
import { resolve } from 'node:path';
import { AppError } from '#base/error.ts';
import { parseChoice, parseWholeNumber } from '#core/text/fields.ts';
import type { CommonOptions } from '#cli/session.ts';
import { backupScenes, diskKinds, faultNames, fullScenes, managerScenes, pullRoles } from '#lab/drills/drill-names.ts';
import type { CliWorld } from '#cli/world.ts';

type MainOptions = { once?: boolean; json?: string };
type PullOptions = { count: string; roles: string; controller?: boolean; json?: string };

/** Adds the group `drill` to the program: rehearsals in the lab that measure what they do. */
export function addDrillCommands(program: Command, world: CliWorld, run: (code: number) => void): void {
  const group = program.command('drill').description('rehearsals in the lab, with every figure measured');
  group
    .command('main')
    .description('three nodes, one database under load, pull the plug on its node, watch it come back elsewhere')
    .option('--once', 'end by itself and exit non-zero when a promise was broken; else the lab stays up to look around')
    .option('--json <file>', 'write the figures there')
    .action(async (options: MainOptions, command: Command) => {
      const { once, lab } = { once: options.once === true, lab: chosenLab(command) };
      run(
        await world.drills.runMainJob({
          lab,
          once,
          jsonFile: resolveFile(options.json),
          out: world.out,
          err: world.err,
          signal: world.signal,
        }),
      );
    });
  group
    .command('full')
    .description('three complete emulated servers with OpenZFS, watchdog and systemd: install, lose power, disks and kernel')
    .option('--once', 'end by itself; else the machines stay up until Ctrl-C')
    .option('--only <list>', `which: ${fullScenes.join(',')}`, fullScenes.join(','))
    .option('--reuse', 'play in the machines that an earlier run left up')
    .option('--json <file>', 'write the figures there')
    .action(async (options: MainOptions & { only: string; reuse?: boolean }, command: Command) => {
      const { once = false, reuse = false } = options;
      const scenes = options.only.split(',').map((scene) => parseChoice(scene.trim(), 'only', fullScenes));
      if (once && reuse)
        throw new AppError('invalid', 'reuse: --once would end the machines that are to be used again; give one of them');
      const drill = { lab: chosenLab(command), once, reuse, scenes, jsonFile: resolveFile(options.json) };
      run(await world.drills.runFull({ ...drill, out: world.out, err: world.err, signal: world.signal }));
    });
  group
    .command('machine')
    .description("one of them alone: its watchdog resets it, its pool comes back, the zfs driver's contract tests pass in it")
    .option('--disks <list>', `which kinds of disks: ${diskKinds.join(',')}`, diskKinds.join(','))
    .option('--json <file>', 'write the figures there')
    .action(async (options: { disks: string; json?: string }, command: Command) => {
      const alone = options.disks.split(',').map((kind) => parseChoice(kind.trim(), 'disks', diskKinds));
      const drill = { lab: chosenLab(command), once: true, reuse: false, scenes: { alone }, jsonFile: resolveFile(options.json) };
      run(await world.drills.runFull({ ...drill, out: world.out, err: world.err, signal: world.signal }));
    });
  group
    .command('pulls')
    .description('pull the plug again and again, and count how long each took')
    .option('--count <number>', 'pulls for each role', '5')
    .option('--roles <list>', `whose plug: ${pullRoles.join(',')}`, pullRoles.join(','))
    .option('--controller', "leave the node's management controller its power, so that it can confirm that the node is off")
    .option('--json <file>', 'write the figures there')
    .action(async (options: PullOptions, command: Command) => {
      const count = parseWholeNumber(options.count, 'count', 1, 10_000);
      const roles = options.roles.split(',').map((role) => parseChoice(role.trim(), 'roles', pullRoles));
      if (new Set(roles).size !== roles.length) throw new AppError('invalid', 'roles: a role is given twice');
      const lab = chosenLab(command);
      run(
        await world.drills.runPulls({
          lab,
          count,
          roles,
          controller: options.controller === true,
          jsonFile: resolveFile(options.json),
          out: world.out,
          err: world.err,
          signal: world.signal,
        }),
      );
    });
  group
    .command('faults')
    .description('try one fault after the other, each with what is promised then')
    .option('--only <list>', `which: ${faultNames.join(',')}`, faultNames.join(','))
    .option('--json <file>', 'write the figures there')
    .action(async (options: { only: string; json?: string }, command: Command) => {
      const faults = options.only.split(',').map((fault) => parseChoice(fault.trim(), 'only', faultNames));
      run(
        await world.drills.runFaults({
          lab: chosenLab(command),
          faults: [...new Set(faults)],
          jsonFile: resolveFile(options.json),
          out: world.out,
          err: world.err,
          signal: world.signal,
        }),
      );
    });
  group
    .command('backup')
    .description('a database is backed up under load, restored and tested; targets stall, die and fill up meanwhile')
    .option('--only <list>', `which: ${backupScenes.join(',')}`, backupScenes.join(','))
    .option('--json <file>', 'write the figures there')
    .action(async (options: { only: string; json?: string }, command: Command) => {
      const scenes = options.only.split(',').map((scene) => parseChoice(scene.trim(), 'only', backupScenes));
      const { out, err, signal } = world;
      const about = { lab: chosenLab(command), jsonFile: resolveFile(options.json), scenes };
      run(await world.drills.runBackup({ ...about, out, err, signal }));
    });
  group
    .command('manager')
    .description('drain, node end, moves, rules, admission, restarts, disarming: each scene with what is promised then')
    .option('--only <list>', `which: ${managerScenes.join(',')}`, managerScenes.join(','))
    .option('--json <file>', 'write the figures there')
    .action(async (options: { only: string; json?: string }, command: Command) => {
      const scenes = options.only.split(',').map((scene) => parseChoice(scene.trim(), 'only', managerScenes));
      run(
        await world.drills.runManager({
          lab: chosenLab(command),
          scenes: [...new Set(scenes)],
          jsonFile: resolveFile(options.json),
          out: world.out,
          err: world.err,
          signal: world.signal,
        }),
      );
    });
}

function chosenLab(command: Command): string | null {
  return command.opts<CommonOptions>().lab ?? command.optsWithGlobals<CommonOptions>().lab ?? null;
}

function resolveFile(path: string | undefined): string | null {
  return path === undefined ? null : resolve(path);
}
