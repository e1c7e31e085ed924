import { hostname } from 'node:os';
import type { Command } from 'commander';
import { AppError } from '#base/error.ts';
import { parseDatastoreName } from '#core/backup/names.ts';
import { defaultBackupPort } from '#core/backup/repository.ts';
import { performFirstRun } from '#programs/backup/first-run.ts';
import { createPrinter, type CommonOptions } from '#cli/session.ts';
import type { CliWorld } from '#cli/world.ts';

type InitOptions = CommonOptions & {
  name?: string;
  listen: string;
  port: string;
  reachedAt: string[];
  datastore?: string;
  path?: string;
  folder: string;
  state: string;
};

/** Adds `init`: all that a server needs to be started. */
export function addInit(group: Command, world: CliWorld): void {
  group
    .command('init')
    .description(
      'set a backup server up on this machine: certificate, token for this command line, first datastore, configuration',
    )
    .option('--name <name>', "the server's name (default: this machine's)")
    .option('--listen <address>', 'what it listens on', '0.0.0.0')
    .option('--port <port>', 'its port', String(defaultBackupPort))
    .option('--reached-at <address...>', 'names and addresses for its certificate', [])
    .option('--datastore <name>', 'a first datastore')
    .option('--path <folder>', 'its folder: empty, or not there')
    .option('--folder <folder>', 'where the configuration goes', '/etc/holdfast')
    .option('--state <folder>', 'what the server keeps of its own', '/var/lib/holdfast-backup')
    .action(async (options: InitOptions, command: Command) => {
      const port = Number(options.port);
      if (!Number.isInteger(port) || port < 1 || port > 65_535)
        throw new AppError('invalid', `port: ${options.port} is not a port`);
      if ((options.datastore === undefined) !== (options.path === undefined))
        throw new AppError('invalid', 'datastore: a name takes --path, and a path takes --datastore');
      if (options.path !== undefined && !options.path.startsWith('/'))
        throw new AppError('invalid', 'path: give it from the root on');
      const datastore =
        options.datastore === undefined || options.path === undefined
          ? null
          : { name: parseDatastoreName(options.datastore, 'datastore'), path: options.path };
      const run = {
        folder: options.folder,
        stateFolder: options.state,
        name: options.name ?? hostname(),
        address: options.listen,
        port,
        reachedAt: options.reachedAt,
        datastore,
      };
      const made = await performFirstRun(run);
      const printer = createPrinter(world.out, command.optsWithGlobals<CommonOptions>().json === true);
      printer.show(made, () =>
        [
          `configuration  ${made.configFile}`,
          `fingerprint    ${made.fingerprint}`,
          ...(datastore === null ? [] : [`datastore      ${datastore.name} in ${datastore.path}`]),
          '',
          'Start it with: systemctl enable --now holdfast-backup',
          'Then, for each machine that backs up (a token has never more than its user):',
          '  holdfast backup-server user create NAME@pbs --no-password',
          '  holdfast backup-server token create NAME@pbs TOKEN',
          "  holdfast backup-server acl grant NAME@pbs DatastoreBackup /datastore/STORE   and again for 'NAME@pbs!TOKEN'",
          '',
        ].join('\n'),
      );
    });
}
