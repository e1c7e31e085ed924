import type { Command } from 'commander';
import { restoreBytes, restoreImage } from '#adapters/backup-client/image-restore.ts';
import { restoreTree } from '#adapters/backup-client/tree-restore.ts';
import { openSnapshot, restoreWidth, type SnapshotSource } from '#adapters/backup-client/snapshot-source.ts';
import { nodeBytes } from '#adapters/bytes/node-bytes.ts';
import { AppError, formatErrorChain, isAppError } from '#base/error.ts';
import { chooseArchive } from '#core/backup/archive-spec.ts';
import { formatSnapshot, formatSnapshotTime, parseArchiveName } from '#core/backup/names.ts';
import { diskOfArchive } from '#core/guest-backup/guest-blob.ts';
import { formatSize } from '#core/text/size.ts';
import type { Cell } from '#core/text/table.ts';
import { askStore, findSnapshot, reachServer, readKey, type AccessOptions, type KeyOptions } from '#cli/backup-access.ts';
import { addAccessOptions, addKeyOptions } from '#cli/backup-options.ts';
import { addFileOptions, serveFiles, type FileOptions } from '#cli/image-files.ts';
import { clientWorkers } from '#programs/backup-client/workers.ts';
import { startProgress } from '#cli/progress.ts';
import { createPrinter, type CommonOptions } from '#cli/session.ts';
import type { CliWorld } from '#cli/world.ts';

type ReadOptions = AccessOptions & KeyOptions & CommonOptions;

/** Adds the commands of the group `backup` that read. */
export function addBackupReadCommands(group: Command, world: CliWorld): void {
  const restore = group
    .command('restore <snapshot> <archive> <target>')
    .description('write an archive to a new file, a block device, a new directory, or - for standard output')
    .addHelpText('after', '\nSNAPSHOT is TYPE/ID/TIME, or TYPE/ID for the newest. Every chunk is checked before it is written.')
    .action(async (snapshot: string, archive: string, target: string, _options: object, command: Command) => {
      await restoreArchive(world, { snapshot, archive, target }, command.optsWithGlobals<ReadOptions>());
    });
  const verify = group
    .command('verify <snapshot>')
    .description('read every chunk of a snapshot and check it, also what is inside encrypted ones')
    .action(async (snapshot: string, _options: object, command: Command) => {
      await verifySnapshot(world, snapshot, command.optsWithGlobals<ReadOptions>());
    });
  const list = group
    .command('list')
    .description('the snapshots of the datastore')
    .action(async (_options: object, command: Command) => {
      await listSnapshots(world, command.optsWithGlobals<ReadOptions>());
    });
  const snapshotGroup = group.command('snapshot').description('look at one snapshot');
  const files = snapshotGroup
    .command('files <snapshot>')
    .description('the archives of a snapshot')
    .action(async (snapshot: string, _options: object, command: Command) => {
      await listFiles(world, snapshot, command.optsWithGlobals<ReadOptions>());
    });
  const inside = group
    .command('files <snapshot>')
    .description('single files out of the disk images of a snapshot (ext2 to 4, xfs, ntfs; partitions, LVM)')
    .action(async (snapshot: string, _options: object, command: Command) => {
      await readFiles(world, snapshot, command.optsWithGlobals<ReadOptions & FileOptions>());
    });
  addFileOptions(inside);
  for (const command of [restore, verify, inside]) addKeyOptions(addAccessOptions(command));
  for (const command of [list, files]) addAccessOptions(command);
}

type Wanted = { snapshot: string; archive: string; target: string };

async function restoreArchive(world: CliWorld, wanted: Wanted, options: ReadOptions): Promise<void> {
  const key = await readKey(world, options);
  const server = await reachServer(world, options);
  const snapshot = await findSnapshot(server, wanted.snapshot);
  using progress = startProgress(world.err);
  using session = await server.open('reader', snapshot);
  await using pool = clientWorkers.startPool(key);
  const source = await openSnapshot(session, key, pool, nodeBytes);
  warnOfTrust(world, source);
  const { name, kind } = chooseArchive(
    wanted.archive,
    source.manifest.files.map((file) => file.name),
  );
  const say = (done: number, total: number): void => progress.say(`${name} (${formatSize(done)} of ${formatSize(total)})`);
  if (kind === 'blob') {
    await restoreBytes(wanted.target, await source.readBlob(name));
  } else if (kind === 'fixed') {
    const index = await source.openIndex(name);
    const width = restoreWidth(pool);
    await restoreImage(wanted.target, source, { name, index, width }, (done) => say(done, index.sizeBytes));
  } else if (wanted.target === '-') {
    throw new AppError('invalid', `target: ${name} is no image that could be written to standard output; give a new directory`);
  } else if (name.endsWith('.pxar.didx')) {
    const index = await source.openIndex(name);
    const worker = clientWorkers.startTreeWriter({ target: wanted.target, isOwnerKept: process.geteuid?.() === 0 });
    await restoreTree(
      worker,
      source.readArchive(name, index),
      (done) => say(done, index.sizeBytes),
      (text) => world.err.write(`note: ${text}\n`),
    );
  } else {
    throw new AppError('unsupported', `archive: ${name} is neither an image, a directory (.pxar) nor a small file`);
  }
  progress[Symbol.dispose]();
  if (wanted.target !== '-') world.err.write(`${name} of ${formatSnapshot(snapshot)} is restored to ${wanted.target}\n`);
}

async function readFiles(world: CliWorld, text: string, options: ReadOptions & FileOptions): Promise<void> {
  const key = await readKey(world, options);
  const server = await reachServer(world, options);
  using session = await server.open('reader', await findSnapshot(server, text));
  await using pool = clientWorkers.startPool(key);
  const source = await openSnapshot(session, key, pool, nodeBytes);
  warnOfTrust(world, source);
  await serveFiles({ world, printer: createPrinter(world.out, options.json === true) }, source, imageOfArchive, options);
}

/** A guest's disk by its name, any other image by that of its archive. */
function imageOfArchive(archive: string): string | null {
  return diskOfArchive(archive) ?? /^(.+)\.img\.fidx$/.exec(archive)?.[1] ?? null;
}

async function verifySnapshot(world: CliWorld, text: string, options: ReadOptions): Promise<void> {
  const key = await readKey(world, options);
  const server = await reachServer(world, options);
  const snapshot = await findSnapshot(server, text);
  using progress = startProgress(world.err);
  using session = await server.open('reader', snapshot);
  await using pool = clientWorkers.startPool(key);
  const source = await openSnapshot(session, key, pool, nodeBytes);
  warnOfTrust(world, source);
  const results: { name: string; problem: string | null }[] = [];
  for (const { name } of source.manifest.files) {
    const problem = await verifyArchive(source, name, (done) => progress.say(`${name} (${formatSize(done)})`));
    results.push({ name, problem });
  }
  progress[Symbol.dispose]();
  createPrinter(world.out, options.json === true).show({ snapshot: formatSnapshot(snapshot), archives: results }, () =>
    results.map(({ name, problem }) => `${name}: ${problem ?? 'right'}\n`).join(''),
  );
  const bad = results.filter(({ problem }) => problem !== null).length;
  if (bad > 0) throw new AppError('conflict', `${formatSnapshot(snapshot)}: ${bad} of ${results.length} archives are damaged`);
}

async function verifyArchive(source: SnapshotSource, name: string, onProgress: (done: number) => void): Promise<string | null> {
  try {
    if (parseArchiveName(name).kind === 'blob') {
      await source.readBlob(name);
      return null;
    }
    const index = await source.openIndex(name);
    for await (const { start, data } of source.readArchive(name, index)) onProgress(start + data.length);
    return null;
  } catch (error) {
    if (isAppError(error, 'invalid', 'denied', 'missing', 'conflict')) return formatErrorChain(error);
    throw error;
  }
}

function warnOfTrust(world: CliWorld, { trust }: SnapshotSource): void {
  if (trust === 'unsigned') world.err.write('note: the manifest is not signed: the key cannot tell whether it was changed\n');
}

async function listSnapshots(world: CliWorld, options: ReadOptions): Promise<void> {
  const server = await reachServer(world, options);
  const list = (await askStore(server, 'snapshots', {})) as Record<string, unknown>[];
  const name = (item: Record<string, unknown>): string =>
    `${String(item['backup-type'])}/${String(item['backup-id'])}/${formatSnapshotTime(Number(item['backup-time']))}`;
  const sorted = list.toSorted((a, b) => (name(a) < name(b) ? -1 : 1));
  const printer = createPrinter(world.out, options.json === true);
  const rows = sorted.map((item): Cell[] => [
    name(item),
    item['size'] === undefined ? 'not finished' : formatSize(Number(item['size'])),
    typeof item['fingerprint'] === 'string' ? item['fingerprint'].slice(0, 23) : '',
    String((item['verification'] as { state?: string } | undefined)?.state ?? ''),
    item['protected'] === true ? 'protected' : '',
    typeof item['comment'] === 'string' ? item['comment'] : '',
  ]);
  const titles = ['SNAPSHOT', 'SIZE', 'KEY', 'VERIFIED', 'KEPT', 'NOTES'];
  const columns = titles.map((title) => ({ title }));
  printer.show(sorted, () => printer.table(columns, rows, 'there are no snapshots'));
}

async function listFiles(world: CliWorld, text: string, options: ReadOptions): Promise<void> {
  const server = await reachServer(world, options);
  const { type, id, atSeconds } = await findSnapshot(server, text);
  const query = { 'backup-type': type, 'backup-id': id, 'backup-time': atSeconds };
  const files = (await askStore(server, 'files', query)) as Record<string, unknown>[];
  const printer = createPrinter(world.out, options.json === true);
  const rows = files.map((file): Cell[] => [
    String(file['filename']),
    file['size'] === undefined ? '' : formatSize(Number(file['size'])),
    typeof file['crypt-mode'] === 'string' ? file['crypt-mode'] : '',
  ]);
  const columns = [{ title: 'FILE' }, { title: 'SIZE', align: 'right' as const }, { title: 'CRYPT MODE' }];
  printer.show(files, () => printer.table(columns, rows, 'it has no files'));
}
