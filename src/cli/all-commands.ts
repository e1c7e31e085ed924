import type { Command } from 'commander';
import { addBackupCommands } from '#cli/commands/backup.ts';
import { addGuestBackupCommands } from '#cli/commands/backup-guest.ts';
import { addBackupServerGroup } from '#cli/backup-server/group.ts';
import { addDrillCommands } from '#cli/commands/drill.ts';
import { addGuestCommands } from '#cli/commands/guest.ts';
import { addHaCommands } from '#cli/commands/ha.ts';
import { addLabCommands } from '#cli/commands/lab.ts';
import { addNodeCommands } from '#cli/commands/node.ts';
import { addPoolCommands } from '#cli/commands/pool.ts';
import { addReplicationCommands } from '#cli/commands/replication.ts';
import { addRequestsCommands } from '#cli/commands/requests.ts';
import { addSetupCommands } from '#cli/commands/setup.ts';
import { addSimulateCommand } from '#cli/commands/simulate.ts';
import { addStatusCommand } from '#cli/commands/status.ts';
import { addWhatIfCommand } from '#cli/commands/whatif.ts';
import type { CliWorld } from '#cli/world.ts';

/** Adds every command there is. */
export function addAllCommands(program: Command, world: CliWorld, run: (code: number) => void): void {
  addStatusCommand(program, world, run);
  addSetupCommands(program, world, run);
  addGuestCommands(program, world, run);
  addHaCommands(program, world, run);
  addReplicationCommands(program, world, run);
  addPoolCommands(program, world, run);
  addGuestBackupCommands(program, addBackupCommands(program, world), world, run);
  addBackupServerGroup(program);
  addWhatIfCommand(program, world, run);
  addNodeCommands(program, world, run);
  addRequestsCommands(program, world, run);
  addLabCommands(program, world, run);
  addDrillCommands(program, world, run);
  addSimulateCommand(program, world, run);
}
