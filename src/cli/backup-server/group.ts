import type { Command } from 'commander';

/** The group without what is in it, for help. */
export function addBackupServerGroup(program: Command): Command {
  return program
    .command('backup-server')
    .description('on a backup server: set it up; datastores, snapshots, users, rights, jobs, tasks');
}
