import type { Command } from 'commander';
import { nodeBytes } from '#adapters/bytes/node-bytes.ts';
import { deriveCryptKey, formatShortFingerprint } from '#core/backup/crypt-key.ts';
import { formatKeyFile, makeKeyFile, openKeyFile, parseKeyFile, type KeyFile } from '#core/backup/key-file.ts';
import { formatPaperKey } from '#core/backup/paper-key.ts';
import { parseChoice } from '#core/text/fields.ts';
import { readInput, readPassphrase } from '#cli/backup-access.ts';
import { formatNow, fresh, kdfOption, kdfs, protect, readNewPassphrase, writeSecretFile } from '#cli/backup-key-file.ts';
import { addMasterKeyCommands } from '#cli/commands/backup-master-key.ts';
import { createPrinter, type CommonOptions } from '#cli/session.ts';
import type { CliWorld } from '#cli/world.ts';

type KeyCommandOptions = CommonOptions & { kdf: string; hint?: string; passphraseFile?: string; newPassphraseFile?: string };

/** Adds `backup key`: files that hold the keys of encrypted backups. */
export function addBackupKeyCommands(group: Command, world: CliWorld): void {
  const keys = group.command('key').description('keys of encrypted and signed backups; without its key a backup is lost');
  keys
    .command('create <file>')
    .description('make a new key')
    .option(...kdfOption)
    .option('--hint <text>', 'what reminds you of the passphrase; everybody can read it')
    .option('--passphrase-file <file>', 'the passphrase (default: PBS_ENCRYPTION_PASSWORD, else asked for)')
    .action(async (file: string, _options: object, command: Command) => {
      await createKey(world, file, command.optsWithGlobals<KeyCommandOptions>());
    });
  keys
    .command('change <file>')
    .description('give a key another passphrase; the key itself, and so every backup made with it, stays')
    .option(...kdfOption)
    .option('--hint <text>', 'what reminds you of the passphrase; everybody can read it')
    .option('--passphrase-file <file>', 'the passphrase it has (default: PBS_ENCRYPTION_PASSWORD, else asked for)')
    .option('--new-passphrase-file <file>', 'the new one (default: asked for)')
    .action(async (file: string, _options: object, command: Command) => {
      await changeKey(world, file, command.optsWithGlobals<KeyCommandOptions>());
    });
  keys
    .command('paper <file>')
    .description('print a key as a page of text to lock away')
    .option('--subject <text>', 'what it is for', '')
    .action(async (file: string, options: { subject: string }) => {
      world.out.write(formatPaperKey(parseKeyFile(await readInput(file, 'key file')), options.subject));
    });
  addMasterKeyCommands(keys, world);
}

async function createKey(world: CliWorld, path: string, options: KeyCommandOptions): Promise<void> {
  const kdf = parseChoice(options.kdf, 'kdf', kdfs);
  const passphrase =
    kdf === 'none' ? null : await readNewPassphrase(world, options.passphraseFile ?? null, 'PBS_ENCRYPTION_PASSWORD');
  const key = deriveCryptKey(fresh(32), nodeBytes);
  const now = formatNow(world);
  const about = { created: now, modified: now, hint: options.hint ?? null };
  const file = makeKeyFile(key, protect(kdf, passphrase), about, nodeBytes);
  await writeSecretFile(path, `${formatKeyFile(file)}\n`, 'new');
  report(
    world,
    options,
    file,
    `key ${formatShortFingerprint(key.fingerprint)} is in ${path}; keep a copy elsewhere: without it nothing can be restored`,
  );
}

async function changeKey(world: CliWorld, path: string, options: KeyCommandOptions): Promise<void> {
  const kdf = parseChoice(options.kdf, 'kdf', kdfs);
  const before = parseKeyFile(await readInput(path, 'key file'));
  const old = before.kdf === null ? null : await readPassphrase(world, options.passphraseFile ?? null, path);
  const key = openKeyFile(before, old, nodeBytes);
  const passphrase = kdf === 'none' ? null : await readNewPassphrase(world, options.newPassphraseFile ?? null, null);
  const about = { created: before.created, modified: formatNow(world), hint: options.hint ?? null };
  const file = makeKeyFile(key, protect(kdf, passphrase), about, nodeBytes);
  await writeSecretFile(path, `${formatKeyFile(file)}\n`, 'replace');
  report(world, options, file, `key ${formatShortFingerprint(key.fingerprint)} in ${path} has another passphrase`);
}

function report(world: CliWorld, options: CommonOptions, { fingerprint }: KeyFile, text: string): void {
  const short = fingerprint === null ? '' : formatShortFingerprint(fingerprint);
  createPrinter(world.out, options.json === true).show({ fingerprint: short }, () => `${text}\n`);
}
