import type { Command } from 'commander';
import { openArchive } from '#adapters/backup-client/archive-reader.ts';
import { browseImage, browseTree } from '#adapters/backup-client/browsable.ts';
import { serveMount } from '#adapters/backup-client/mount.ts';
import { openSnapshot } from '#adapters/backup-client/snapshot-source.ts';
import { nodeBytes } from '#adapters/bytes/node-bytes.ts';
import { AppError, formatErrorChain } from '#base/error.ts';
import { chooseArchive } from '#core/backup/archive-spec.ts';
import { formatSnapshot } from '#core/backup/names.ts';
import { clientWorkers } from '#programs/backup-client/workers.ts';
import { findSnapshot, reachServer, readKey, type AccessOptions, type KeyOptions } from '#cli/backup-access.ts';
import { addAccessOptions, addKeyOptions } from '#cli/backup-options.ts';
import type { CliWorld } from '#cli/world.ts';

/** Adds `backup mount`. */
export function addBackupMountCommand(group: Command, world: CliWorld): void {
  const mount = group
    .command('mount <snapshot> <archive> <directory>')
    .description('show a directory, or an image as a file, on a directory of this machine until Ctrl-C or umount; needs root')
    .addHelpText(
      'after',
      '\nOnly what is looked at is fetched. Owners and modes are those of the backup; nothing can be changed.',
    )
    .action(async (snapshot: string, archive: string, directory: string, _options: object, command: Command) => {
      await mountArchive(world, { snapshot, archive, directory }, command.optsWithGlobals<AccessOptions & KeyOptions>());
    });
  addKeyOptions(addAccessOptions(mount));
}

type Wanted = { snapshot: string; archive: string; directory: string };

async function mountArchive(world: CliWorld, wanted: Wanted, options: AccessOptions & KeyOptions): Promise<void> {
  const key = await readKey(world, options);
  const server = await reachServer(world, options);
  const snapshot = await findSnapshot(server, wanted.snapshot);
  // The session must outlive the signal: what is mounted is unmounted first.
  using session = await server.open('reader', snapshot);
  await using pool = clientWorkers.startPool(key);
  const source = await openSnapshot(session, key, pool, nodeBytes);
  const names = source.manifest.files.map((file) => file.name);
  const { name, kind } = chooseArchive(wanted.archive, names);
  const isTree = name.endsWith('.pxar.didx');
  if (!isTree && kind !== 'fixed') throw new AppError('unsupported', `archive: ${name} is neither a directory nor an image`);
  const archive = openArchive(source, name, await source.openIndex(name));
  const tree = isTree ? await browseTree(archive) : browseImage(archive, name.replace(/\.fidx$/, ''), snapshot.atSeconds);
  await serveMount(wanted.directory, tree, archive.sizeBytes, {
    signal: world.signal,
    onMounted: () =>
      world.err.write(`${name} of ${formatSnapshot(snapshot)} is mounted on ${wanted.directory}; Ctrl-C unmounts it\n`),
    onTrouble: (error) => world.err.write(`note: ${formatErrorChain(error)}\n`),
  });
}
