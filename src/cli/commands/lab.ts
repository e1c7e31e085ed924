import type { Command } from 'commander';
import type { CliWorld } from '#cli/world.ts';

/** Adds the group `lab` to the program. */
export function addLabCommands(program: Command, _world: CliWorld, _run: (code: number) => void): void {
  program.command('lab').description('the machine room on this machine');
}
