import type { Command } from 'commander';
import { resolve } from 'node:path';
import { constants } from 'node:os';
import { AppError } from '#base/error.ts';
import { timingProfiles, type TimingProfileName } from '#core/ha/timing.ts';
import { parseDuration } from '#core/text/duration.ts';
import { parseChoice, parseWholeNumber } from '#core/text/fields.ts';
import { collect } from '#cli/command-options.ts';
import { showLabEvents } from '#cli/lab-events.ts';
import type { LabTools } from '#cli/lab-tools.ts';
import { formatLabStatus } from '#cli/lab-text.ts';
import { startProgress } from '#cli/progress.ts';
import { createPrinter, exitCodes, type CommonOptions, type Printer } from '#cli/session.ts';
import type { CliWorld } from '#cli/world.ts';

/** A command at work on a lab. */
type LabSession = { world: CliWorld; lab: LabTools; name: string; printer: Printer };
type LabWork = (session: LabSession, args: string[], options: Record<string, unknown>) => Promise<number | void>;
type UpOptions = { nodes: string; bmc: boolean; profile: string; accelerator: string; asset: string[]; ttl?: string };

const linkStates = ['up', 'down', 'cut-tx', 'cut-rx', 'delay'] as const;
const powers = ['off', 'on'] as const;

/** Adds the group `lab` to the program: the machine room on this machine. */
export function addLabCommands(program: Command, world: CliWorld, run: (code: number) => void): void {
  const group = program.command('lab').description('the machine room on this machine: nodes, plugs, cables, controllers');
  const act =
    (work: LabWork, choose: (lab: LabTools, name: string | undefined) => string = (lab, name) => lab.chooseLab(name)) =>
    async (...parts: unknown[]): Promise<void> => {
      const command = parts.at(-1) as Command;
      const options = { ...command.optsWithGlobals<CommonOptions>(), ...command.opts<CommonOptions>() };
      const lab = await world.loadLab();
      const session = { world, lab, name: choose(lab, options.lab), printer: createPrinter(world.out, options.json === true) };
      run((await work(session, command.args, command.opts())) ?? exitCodes.ok);
    };
  addUp(group).action(act((session, _args, options) => bringUp(session, options as UpOptions), namedOrDefault));
  group.command('down').description('end the lab and remove everything of it').action(act(takeDown, namedOrDefault));
  group.command('status').description('power, links, controllers and services of the nodes').action(act(showStatus));
  group
    .command('plug <node> <power>')
    .description('pull the plug (off): everything in the node ends at once; or put it back (on)')
    .option('--keep-bmc', "leave the node's management controller its power")
    .action(act((session, [node, power], { keepBmc }) => setPlug(session, node ?? '', power ?? '', keepBmc === true)));
  group
    .command('link <node> <state> [milliseconds]')
    .description(`the node's cable: ${linkStates.join(', ')}; cut-tx loses what it sends, cut-rx what is sent to it`)
    .action(act((session, [node, state, delay]) => setLink(session, node ?? '', state ?? '', delay)));
  group
    .command('switch <power>')
    .description("the switch's own power: off takes every cable")
    .action(act((session, [power]) => setSwitch(session, power ?? '')));
  addServiceCommands(group, act);
  group
    .command('exec <node> <command...>')
    .description('run a program inside a node: holdfast lab exec n1 -- ip address')
    .action(act((session, [node, ...argv]) => session.lab.runInNode(session.name, node ?? '', argv)));
  group
    .command('events')
    .description('what the room itself saw: power, links, watchdogs, services')
    .option('--limit <count>', 'the newest so many', '40')
    .option('-f, --follow', 'go on as more happens, until Ctrl-C')
    .action(
      act(({ world: eyes, lab, name, printer }, _args, { limit, follow }) =>
        showLabEvents(
          { world: eyes, printer, read: () => lab.readLabEvents(name) },
          parseWholeNumber(String(limit), 'limit', 1, 100_000),
          follow === true,
        ),
      ),
    );
}

/** To make or remove a lab, one must be named: that it happens to be the only one up does not mean that it is meant. */
function namedOrDefault(lab: LabTools, name: string | undefined): string {
  return name === undefined ? lab.defaultLab : lab.chooseLab(name);
}

function addUp(group: Command): Command {
  return group
    .command('up')
    .description('bring the lab up: nodes with their own power, network, watchdog, and our programs')
    .option('--nodes <count>', 'how many, named n1, n2, …', '3')
    .option('--no-bmc', 'without management controllers')
    .option('--profile <name>', `timing: ${Object.keys(timingProfiles).join(', ')}`, 'standard')
    .option('--accelerator <name>', 'for the guests: auto, kvm, tcg', 'auto')
    .option('--asset <name=file>', "a file for each node's assets folder, e.g. a kernel; several allowed", collect, [])
    .option('--ttl <duration>', 'the lab ends by itself after this');
}

function addServiceCommands(group: Command, act: (work: LabWork) => (...parts: unknown[]) => Promise<void>): void {
  group
    .command('signal <node> <service> <signal>')
    .description('send a signal such as SIGKILL or SIGSTOP to etcd, guard, relay or agent of a node')
    .action(
      act(async ({ lab, name, printer }, [node, service, text]) => {
        const signal = parseChoice(
          (text ?? '').toUpperCase().replace(/^(?!SIG)/, 'SIG'),
          'signal',
          Object.keys(constants.signals),
        );
        const pids = await lab.signalService(name, node ?? '', service ?? '', signal as NodeJS.Signals);
        printer.show({ node, service, signal, pids }, () => `${signal} sent to ${service} of ${node} (${pids.join(', ')})\n`);
      }),
    );
  group
    .command('service <node> <service> <order>')
    .description('start or stop a service of a node, as its supervisor would')
    .action(
      act(async ({ lab, name, printer }, [node, service, text]) => {
        const order = parseChoice(text ?? '', 'order', ['start', 'stop'] as const);
        const change = order === 'start' ? lab.startService : lab.stopService;
        const services = await change(name, node ?? '', service ?? '');
        printer.show(services, () => `${service} of ${node}: ${order} done\n`);
      }),
    );
}

async function bringUp({ world, lab, name, printer }: LabSession, options: UpOptions): Promise<void> {
  const wanted = {
    name,
    nodes: parseWholeNumber(options.nodes, 'nodes', 1, 9),
    bmc: options.bmc,
    timingProfile: parseChoice(options.profile, 'profile', Object.keys(timingProfiles) as TimingProfileName[]),
    accelerator: parseChoice(options.accelerator, 'accelerator', ['auto', 'kvm', 'tcg'] as const),
    assets: Object.fromEntries(options.asset.map(parseAsset)),
    ...(options.ttl === undefined ? {} : { ttlMs: parseDuration(options.ttl, 'ttl') }),
  };
  using progress = startProgress(world.err);
  const up = lab.labUp({ ...wanted, progress: progress.say });
  // A lab half made is removed again, as after any other failure.
  await Promise.race([up, rejectOnAbort(world.signal)]).catch(async (error: unknown) => {
    if (world.signal.aborted) await lab.labDown(name);
    throw error;
  });
  printer.show(wanted, () => `lab ${name} is up: ${wanted.nodes} nodes; look around with: holdfast status\n`);
}

function rejectOnAbort(signal: AbortSignal): Promise<never> {
  return new Promise((_resolve, reject) => {
    const refuse = () => reject(signal.reason as Error);
    if (signal.aborted) refuse();
    else signal.addEventListener('abort', refuse, { once: true });
  });
}

function parseAsset(text: string): [string, string] {
  const at = text.indexOf('=');
  const name = text.slice(0, Math.max(0, at));
  if (!/^[A-Za-z0-9][A-Za-z0-9._-]*$/.test(name) || at === text.length - 1) {
    throw new AppError('invalid', `asset: ${JSON.stringify(text)} is not NAME=FILE`);
  }
  return [name, resolve(text.slice(at + 1))];
}

async function takeDown({ lab, name, printer }: LabSession): Promise<void> {
  const existed = await lab.labDown(name);
  printer.show({ name, existed }, () => (existed ? `lab ${name} is down and removed\n` : `there was no lab ${name}\n`));
}

async function showStatus({ lab, name, printer }: LabSession): Promise<void> {
  const status = await lab.labStatus(name);
  printer.show(status, () => formatLabStatus(status, printer));
}

async function setPlug({ lab, name, printer }: LabSession, node: string, text: string, keepBmc: boolean): Promise<void> {
  const power = parseChoice(text, 'power', powers);
  if (keepBmc && power === 'on') throw new AppError('invalid', 'keep-bmc: makes sense only when the plug is pulled (off)');
  const cut = await lab.plug(name, node, power, { keepBmc });
  printer.show({ node, power, cut }, () => {
    if (power === 'on') return `${node} has power and boots\n`;
    return cut === null
      ? `${node} had no power already\n`
      : `${node} lost power; its last process was gone after ${Math.round(cut.emptyAfterMs)} ms\n`;
  });
}

async function setLink({ lab, name, printer }: LabSession, node: string, text: string, delay: string | undefined): Promise<void> {
  const state = parseChoice(text, 'state', linkStates);
  if ((state === 'delay') !== (delay !== undefined)) {
    throw new AppError('invalid', 'milliseconds: belong to `delay` and to nothing else, e.g. link n1 delay 50');
  }
  const to = state === 'delay' ? { delayMs: parseWholeNumber(delay ?? '', 'milliseconds', 1, 60_000) } : state;
  await lab.link(name, node, to);
  printer.show({ node, link: to }, () => `the link of ${node} is ${state}\n`);
}

async function setSwitch({ lab, name, printer }: LabSession, text: string): Promise<void> {
  const power = parseChoice(text, 'power', powers);
  await lab.switchPower(name, power);
  printer.show({ switch: power }, () => `the switch of lab ${name} is ${power}\n`);
}
