import { randomBytes } from 'node:crypto';
import { hostname } from 'node:os';
import { Option, type Command } from 'commander';
import { performBackup, type ArchiveFigures, type ClientParts } from '#adapters/backup-client/backup-run.ts';
import { sealKey } from '#adapters/backup-client/master-key.ts';
import type { TreeOptions } from '#adapters/backup-client/tree-reader.ts';
import { nodeBytes } from '#adapters/bytes/node-bytes.ts';
import { AppError } from '#base/error.ts';
import { parseArchiveSpecs } from '#core/backup/archive-spec.ts';
import type { CryptKey } from '#core/backup/crypt-key.ts';
import type { CryptMode } from '#core/backup/manifest.ts';
import { formatSnapshot, parseBackupId, parseBackupType, readSnapshotTime, type SnapshotId } from '#core/backup/names.ts';
import { parseChoice } from '#core/text/fields.ts';
import { formatSize } from '#core/text/size.ts';
import { reachServer, readInput, readKey, type AccessOptions, type KeyOptions } from '#cli/backup-access.ts';
import { formatNow } from '#cli/backup-key-file.ts';
import { addAccessOptions, addKeyOptions } from '#cli/backup-options.ts';
import { addBackupKeyCommands } from '#cli/commands/backup-key.ts';
import { addBackupMountCommand } from '#cli/commands/backup-mount.ts';
import { addBackupReadCommands } from '#cli/commands/backup-read.ts';
import { startProgress, type Progress } from '#cli/progress.ts';
import { clientWorkers } from '#programs/backup-client/workers.ts';
import { createPrinter, type CommonOptions } from '#cli/session.ts';
import type { CliWorld } from '#cli/world.ts';

type CreateOptions = AccessOptions &
  KeyOptions &
  CommonOptions & {
    cryptMode?: string;
    backupId?: string;
    backupType: string;
    backupTime?: string;
    acrossFileSystems?: boolean;
    skipUnreadable?: boolean;
    masterKey?: string;
    exclude: string[];
  };

/** Adds the group `backup`: a client of backup servers that speak the protocol of Proxmox Backup Server. Returns the group. */
export function addBackupCommands(program: Command, world: CliWorld): Command {
  const group = program.command('backup').description('back up to a backup server, look at what is there, and restore');
  const create = group
    .command('create <archives...>')
    .description('back up images (NAME.img:PATH), directories (NAME.pxar:DIRECTORY) and small files (NAME.conf:FILE)')
    .option('--crypt-mode <mode>', 'none, encrypt or sign-only (default: encrypt with a key file, else none)')
    .option('--backup-id <id>', "what is backed up (default: this machine's name)")
    .option('--backup-type <type>', 'vm, ct or host', 'host')
    .addOption(new Option('--backup-time <time>', 'YYYY-MM-DDTHH:MM:SSZ (default: now)'))
    .option(
      '--master-key <file>',
      'a public master key: add the key of this backup, sealed so that only the private one opens it',
    )
    .option('--across-file-systems', 'directories: also what is mounted below them')
    .option('--exclude <path>', 'directories: leave this out, a path from their root (can be given again)', collect, [])
    .option('--skip-unreadable', 'directories: leave out what may not be read, and tell it, instead of failing')
    .addHelpText(
      'after',
      [
        '',
        'What the last backup of the same name holds is not sent again. Ctrl-C ends the backup; nothing of it is kept.',
        'Secrets come from files, from PBS_PASSWORD and PBS_ENCRYPTION_PASSWORD, or are asked for.',
      ].join('\n'),
    )
    .action(async (archives: string[], _options: object, command: Command) => {
      await createBackup(world, archives, command.optsWithGlobals<CreateOptions>());
    });
  addKeyOptions(addAccessOptions(create));
  addBackupReadCommands(group, world);
  addBackupMountCommand(group, world);
  addBackupKeyCommands(group, world);
  return group;
}

async function createBackup(world: CliWorld, texts: string[], options: CreateOptions): Promise<void> {
  const archives = parseArchiveSpecs(texts);
  const modes: CryptMode[] = ['none', 'encrypt', 'sign-only'];
  const wanted = options.cryptMode ?? (options.keyfile === undefined ? 'none' : 'encrypt');
  const cryptMode = parseChoice(wanted, 'crypt-mode', modes);
  if (cryptMode !== 'none' && options.keyfile === undefined) {
    throw new AppError('invalid', `crypt-mode: ${cryptMode} needs a key; make one with \`holdfast backup key create\``);
  }
  const atSeconds = options.backupTime === undefined ? Math.floor(world.nowMs() / 1_000) : readSnapshotTime(options.backupTime);
  if (atSeconds === null) throw new AppError('invalid', 'backup-time: not a time as YYYY-MM-DDTHH:MM:SSZ');
  const type = parseBackupType(options.backupType);
  const id = parseBackupId(options.backupId ?? hostname());
  const key = await readKey(world, options);
  const sealedKey = await sealForMaster(world, options, key);
  const server = await reachServer(world, options);
  const snapshot: SnapshotId = { namespace: server.namespace, type, id, atSeconds };
  const notices: string[] = [];
  const startMs = performance.now();
  using progress = startProgress(world.err);
  using session = await server.open('backup', snapshot);
  const tree: TreeOptions = {
    acrossFileSystems: options.acrossFileSystems === true,
    skipUnreadable: options.skipUnreadable === true,
    exclude: options.exclude.map((path) => path.replace(/^\/+|\/+$/g, '')),
  };
  const plan = { snapshot, archives, cryptMode, key, sealedKey, tree };
  const figures = await performBackup(
    session,
    plan,
    clientParts(progress, (text) => notices.push(text)),
  );
  progress[Symbol.dispose]();
  for (const notice of notices) world.err.write(`note: ${notice}\n`);
  const tookMs = Math.round(performance.now() - startMs);
  const printer = createPrinter(world.out, options.json === true);
  printer.show({ snapshot: formatSnapshot(snapshot), cryptMode, archives: figures, notices, tookMs }, () =>
    [
      ...figures.map(describeFigures),
      `backup ${formatSnapshot(snapshot)} is complete after ${(tookMs / 1_000).toFixed(1)} s (${cryptMode === 'none' ? 'not encrypted' : cryptMode})`,
      '',
    ].join('\n'),
  );
}

async function sealForMaster(world: CliWorld, options: CreateOptions, key: CryptKey | null): Promise<Uint8Array | null> {
  if (options.masterKey === undefined) return null;
  if (key === null) throw new AppError('invalid', 'master-key: it seals the key of a backup; give that with --keyfile');
  return sealKey(await readInput(options.masterKey, 'master-key'), key, formatNow(world));
}

/** What the client needs of this process. */
export function clientParts(progress: Progress, onNotice: (text: string) => void): ClientParts {
  return {
    functions: nodeBytes,
    workers: clientWorkers,
    randomBytes: (count) => Uint8Array.from(randomBytes(count)),
    onProgress: (name, done, total) =>
      progress.say(total === null ? `${name} (${formatSize(done)})` : `${name} (${formatSize(done)} of ${formatSize(total)})`),
    onNotice,
  };
}

function collect(value: string, before: string[]): string[] {
  return [...before, value];
}

function describeFigures({
  name,
  readBytes,
  chunks,
  sentChunks,
  sentDataBytes,
  sentWireBytes,
  hasBase,
  tree,
}: ArchiveFigures): string {
  if (name.endsWith('.blob')) return `${name}: ${formatSize(readBytes)}`;
  const base = hasBase ? 'compared with the last backup' : 'no last backup to compare with';
  const sent = `sent ${sentChunks} of ${chunks} chunks (${formatSize(sentDataBytes)}, on the wire ${formatSize(sentWireBytes)})`;
  const what = tree === null ? formatSize(readBytes) : `${tree.files} files (${formatSize(tree.contentBytes)})`;
  return `${name}: read ${what}, ${sent}; ${base}`;
}
