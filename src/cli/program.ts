import { Command, CommanderError } from 'commander';
import { AppError, exitCodeOf, formatErrorChain } from '#base/error.ts';
import { exitCodes } from '#cli/session.ts';
import type { CliWorld } from '#cli/world.ts';

type AddCommands = (program: Command, world: CliWorld, run: (code: number) => void) => void;
const clientCommands = new Set(['create', 'list', 'restore', 'snapshot', 'mount', 'verify', 'key']);

/**
 * Runs one command line (without the program's own name) and returns its exit code. Expected trouble is printed as one line with
 * its causes; a broken assumption is raised.
 */
export async function runCli(argv: string[], world: CliWorld): Promise<number> {
  let code: number = exitCodes.ok;
  const program = createProgram(await loadCommands(argv), world, (result) => {
    code = result;
  });
  try {
    await program.parseAsync(argv, { from: 'user' });
    return code;
  } catch (error) {
    return reportError(error, world);
  }
}

function reportError(error: unknown, world: CliWorld): number {
  // Help and version end here with 0; commander has already printed what is wrong with a command line.
  if (error instanceof CommanderError) return error.exitCode === 0 ? exitCodes.ok : exitCodeOf('invalid');
  if (world.signal.aborted) {
    world.err.write('interrupted\n');
    return exitCodes.interrupted;
  }
  if (error instanceof AppError) {
    world.err.write(`holdfast: ${formatErrorChain(error)}\n`);
    return exitCodeOf(error.kind);
  }
  throw error;
}

/** To read the modules of all commands takes longer than many commands: the client of backup servers needs but its own. */
async function loadCommands([group, command]: string[]): Promise<AddCommands> {
  const isClient = group === 'backup' && clientCommands.has(command ?? '');
  if (isClient) return (await import('#cli/commands/backup.ts')).addBackupCommands;
  // Its table of calls brings the server along.
  if (group === 'backup-server') return (await import('#cli/commands/backup-server.ts')).addBackupServerCommands;
  return (await import('#cli/all-commands.ts')).addAllCommands;
}

/** The command tree over one world. */
function createProgram(add: AddCommands, world: CliWorld, run: (code: number) => void): Command {
  const program = new Command('holdfast');
  program
    .description("keeps a clinic's virtual machines running when a server dies")
    .enablePositionalOptions()
    .option('--config <file>', "on a server: this node's configuration (default: /etc/holdfast/node.toml)")
    .option('--lab <name>', 'talk to this lab on this machine (default where there is no node.toml: the lab that is up)')
    .option('--json', 'print JSON for programs')
    .showSuggestionAfterError()
    .addHelpText(
      'after',
      '\nExit codes: 0 well, 2 bad input, 3 missing, 4 conflict, 8 unavailable, 9 timeout; `status` has its own.',
    );
  add(program, world, run);
  prepare(program, world);
  return program;
}

/** Gives every command the writer of the world, errors instead of exits, and the common options wherever people type them. */
function prepare(command: Command, world: CliWorld): void {
  command.exitOverride().configureOutput({
    writeOut: (text) => world.out.write(text),
    writeErr: (text) => world.err.write(text),
    outputError: (text, write) => write(text.replace(/^error: /, 'holdfast: ')),
    getOutHelpWidth: () => world.out.widthColumns,
    getErrHelpWidth: () => world.err.widthColumns,
  });
  // One that does something by itself may have others below it.
  if (command.commands.length === 0 || command.registeredArguments.length > 0) addCommonOptions(command);
  for (const child of command.commands) prepare(child, world);
}

function addCommonOptions(command: Command): void {
  const has = (name: string) => command.options.some((option) => option.long === name);
  if (!has('--json')) command.option('--json', 'print JSON for programs');
  if (!has('--config')) command.addOption(command.createOption('--config <file>').hideHelp());
  if (!has('--lab')) command.addOption(command.createOption('--lab <name>').hideHelp());
}
