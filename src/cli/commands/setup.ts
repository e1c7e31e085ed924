import type { Command } from 'commander';
import type { ClusterRole } from '#core/cluster/join-code.ts';
import { parseDuration } from '#core/text/duration.ts';
import { createPrinter, type Printer } from '#cli/session.ts';
import type { SetupTools } from '#cli/setup-tools.ts';
import type { CliWorld } from '#cli/world.ts';
import { AppError } from '#base/error.ts';

type MachineOptions = {
  name?: string;
  address?: string;
  profile?: string;
  watchdog?: string;
  accelerator?: string;
  guestsCgroup?: string;
  data?: string;
  dataset?: string;
  check?: boolean;
};
type Work = (
  parts: { world: CliWorld; tools: SetupTools; printer: Printer; say: (line: string) => void },
  args: string[],
  options: Record<string, unknown>,
) => Promise<void>;

/** Adds `init`, `join-code`, `join` and `leave` to the program. */
export function addSetupCommands(program: Command, world: CliWorld, run: (code: number) => void): void {
  const act = setupActions(world, run);
  addMachineOptions(program.command('init').description('make this machine the first node of a new cluster'))
    .option('--cluster-name <name>', 'name of the cluster, for people; left out: that of the node')
    .action(act(init));
  program
    .command('join-code')
    .description('on a node: a code with which one other machine can join (single use)')
    .option('--witness', 'for a witness: a machine that only runs the store, to give two nodes a majority')
    .option('--valid <duration>', 'how long it is good', '30m')
    .action(act(makeCode));
  addMachineOptions(
    program
      .command('join [code]')
      .description(
        'make this machine a node of the cluster that gave out the code; without one it is asked for, or read from standard input',
      ),
  )
    .option('--witness', 'only run the store here')
    .action(act(join));
  program
    .command('leave <node>')
    .description('on that node itself: take it out of the cluster; its disks stay')
    .action(act(leave));
}

/** Adds to the group `node` what is done about a node that is dead. */
export function addReplaceCommands(group: Command, world: CliWorld, run: (code: number) => void): void {
  const act = setupActions(world, run);
  group
    .command('replace <node>')
    .description('declare a dead node (or witness) dead for good: a new machine may join under its name')
    .action(act(replace));
  group
    .command('forget <node>')
    .description('delete what is known of a replaced node')
    .requiredOption('--disks-accounted-for', 'its disks were destroyed, or nothing on them is needed any more')
    .action(act(forget));
}

function addMachineOptions(command: Command): Command {
  return command
    .option('--name <name>', "this node's name; left out: the host name")
    .option('--address <address>', 'its address for the other nodes; left out: the only one it has')
    .option('--profile <profile>', 'timing: brisk, standard, lenient')
    .option('--watchdog <device>', 'its hardware watchdog (default: /dev/watchdog0)')
    .option('--accelerator <kind>', 'auto, kvm, tcg')
    .option(
      '--dataset <dataset>',
      "keep guests' disks in this dataset of a ZFS pool, e.g. tank/holdfast; the same driver on all nodes",
    )
    .option('--data <folder>', 'disks and the store (default: /var/lib/holdfast)')
    .option('--guests-cgroup <path>', "guests' control group, where another supervisor than systemd holds it")
    .option('--check', 'only look whether this machine is fit; change nothing');
}

function setupActions(world: CliWorld, run: (code: number) => void) {
  return (work: Work) =>
    async (...parts: unknown[]): Promise<void> => {
      const command = parts.at(-1) as Command;
      const options = { ...command.optsWithGlobals(), ...command.opts() };
      const printer = createPrinter(world.out, options['json'] === true);
      const say = (line: string) => world.err.write(`${line}\n`);
      await work({ world, tools: await world.loadSetup(), printer, say }, command.args, options);
      run(0);
    };
}

const init: Work = async ({ tools, printer, say }, _args, options) => {
  const { check, ...machine } = options as MachineOptions & { clusterName?: string };
  const setup = await tools.found({ ...machine, checkOnly: check === true }, tools.createParts(say));
  printer.show(setup, () =>
    setup === null
      ? 'this machine is fit to be a node; nothing was changed\n'
      : `cluster ${setup.cluster.name} is founded; ${setup.name} serves\nnext, for each other machine: holdfast join-code here, then holdfast join there\n`,
  );
};

const makeCode: Work = async ({ tools, printer }, _args, options) => {
  const role: ClusterRole = options['witness'] === true ? 'witness' : 'node';
  const validMs = parseDuration(String(options['valid']), 'valid');
  const config = options['config'] as string | undefined;
  const { code, expiresAtMs } = await tools.makeCode({ ...(config !== undefined && { config }), role, validMs });
  printer.show({ code, role, expiresAtMs }, () => `${code}\n`);
};

const join: Work = async ({ world, tools, printer, say }, [typed], options) => {
  const { check, witness, ...machine } = options as MachineOptions & { witness?: boolean };
  const role: ClusterRole = witness === true ? 'witness' : 'node';
  // Whoever lists this machine's processes must not find it; it is good for one machine and for minutes (docs/decisions/0009).
  if (typed !== undefined) world.hideArguments();
  const readCode = () => (typed === undefined ? world.readSecret('join code: ') : Promise.resolve(typed));
  const setup = await tools.enter({ ...machine, role, checkOnly: check === true }, readCode, tools.createParts(say));
  printer.show(setup, () =>
    setup === null
      ? `this machine is fit to be a ${role} of that cluster; nothing was changed and the code is still good\n`
      : `${setup.name} is a ${setup.role} of cluster ${setup.cluster.name}\n`,
  );
};

const leave: Work = async ({ tools, printer, say }, [name = ''], _options) => {
  const { notes, kept } = await tools.leave(name, tools.createParts(say));
  const lines = [`${name} has left the cluster`, ...notes.map((note) => `note: ${note}`), `kept: ${kept.join(', ')}`];
  printer.show({ node: name, notes, kept }, () => lines.map((line) => `${line}\n`).join(''));
};

const replace: Work = async ({ tools, printer }, [name = ''], options) => {
  const config = options['config'] as string | undefined;
  const { notes, disksOf } = await tools.replace({ ...(config !== undefined && { config }), name });
  const disks =
    disksOf.length === 0
      ? 'it had no disks of its own'
      : `it had disks of guests ${disksOf.join(', ')}: they are remembered until holdfast node forget`;
  const lines = [
    `${name} is out of the store; a new machine may join as ${name}`,
    disks,
    ...notes.map((note) => `note: ${note}`),
  ];
  printer.show({ node: name, notes, disksOf }, () => lines.map((line) => `${line}\n`).join(''));
};

const forget: Work = async ({ tools, printer }, [name = ''], options) => {
  if (options['disksAccountedFor'] !== true) throw new AppError('invalid', 'disks-accounted-for: say so');
  const config = options['config'] as string | undefined;
  await tools.forget({ ...(config !== undefined && { config }), name });
  printer.show({ node: name }, () => `what was known of the former ${name} is deleted\n`);
};
