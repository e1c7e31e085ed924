import { randomBytes } from 'node:crypto';
import { open, rename, unlink } from 'node:fs/promises';
import type { Command } from 'commander';
import { nodeBytes } from '#adapters/bytes/node-bytes.ts';
import { AppError } from '#base/error.ts';
import { deriveCryptKey, formatShortFingerprint } from '#core/backup/crypt-key.ts';
import {
  formatKeyFile,
  keyLimits,
  makeKeyFile,
  openKeyFile,
  parseKeyFile,
  type KeyDerivation,
  type KeyFile,
} from '#core/backup/key-file.ts';
import { formatPaperKey } from '#core/backup/paper-key.ts';
import { parseChoice } from '#core/text/fields.ts';
import { readInput, readPassphrase, readSecret } from '#cli/backup-access.ts';
import { createPrinter, type CommonOptions } from '#cli/session.ts';
import type { CliWorld } from '#cli/world.ts';

type KeyCommandOptions = CommonOptions & { kdf: string; hint?: string; passphraseFile?: string; newPassphraseFile?: string };
const kdfs = ['scrypt', 'pbkdf2', 'none'] as const;
const kdfOption = ['--kdf <kdf>', 'how a passphrase protects the key: scrypt, pbkdf2, or none', 'scrypt'] as const;

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
}

async function createKey(world: CliWorld, path: string, options: KeyCommandOptions): Promise<void> {
  const kdf = parseChoice(options.kdf, 'kdf', kdfs);
  const passphrase =
    kdf === 'none' ? null : await readNewPassphrase(world, options.passphraseFile ?? null, 'PBS_ENCRYPTION_PASSWORD');
  const key = deriveCryptKey(fresh(32), nodeBytes);
  const now = formatNow(world);
  const about = { created: now, modified: now, hint: options.hint ?? null };
  const file = makeKeyFile(key, protect(kdf, passphrase), about, nodeBytes);
  await writeKeyFile(path, file, 'new');
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
  await writeKeyFile(path, file, 'replace');
  report(world, options, file, `key ${formatShortFingerprint(key.fingerprint)} in ${path} has another passphrase`);
}

async function readNewPassphrase(world: CliWorld, file: string | null, variable: string | null): Promise<string> {
  const option = variable === null ? '--new-passphrase-file' : '--passphrase-file';
  const first = await readSecret(world, { file, variable, question: 'New passphrase: ', option });
  const isTyped = file === null && (variable === null || world.environment(variable) === null) && world.err.isTerminal;
  if (isTyped && (await world.readSecret('The same again: ')) !== first) {
    throw new AppError('invalid', 'passphrase: the two are not the same; nothing was changed');
  }
  return first;
}

function protect(kdf: (typeof kdfs)[number], passphrase: string | null): Parameters<typeof makeKeyFile>[1] {
  if (kdf === 'none' || passphrase === null) return null;
  const salt = fresh(keyLimits.saltBytes);
  const derivation: Exclude<KeyDerivation, null> =
    kdf === 'scrypt'
      ? { kind: 'scrypt', ...keyLimits.scrypt, salt }
      : { kind: 'pbkdf2', iterations: keyLimits.pbkdf2Iterations, salt };
  return { passphrase, kdf: derivation, iv: fresh(16) };
}

/** Only for its owner, on disk before it counts, and never over a key that is there unless that is meant. */
async function writeKeyFile(path: string, file: KeyFile, how: 'new' | 'replace'): Promise<void> {
  const written = how === 'new' ? path : `${path}.new-${process.pid}`;
  const handle = await open(written, 'wx', 0o600).catch((cause: unknown) => {
    const isThere = (cause as NodeJS.ErrnoException).code === 'EEXIST';
    throw new AppError(
      isThere ? 'conflict' : 'invalid',
      `key file: ${written} ${isThere ? 'exists already' : 'cannot be written'}`,
      {
        cause,
      },
    );
  });
  try {
    await handle.writeFile(`${formatKeyFile(file)}\n`);
    await handle.sync();
    await handle.close();
    if (how === 'replace') await rename(written, path);
  } catch (error) {
    await handle.close().catch(() => {});
    await unlink(written).catch(() => {});
    throw error;
  }
}

function report(world: CliWorld, options: CommonOptions, { fingerprint }: KeyFile, text: string): void {
  const short = fingerprint === null ? '' : formatShortFingerprint(fingerprint);
  createPrinter(world.out, options.json === true).show({ fingerprint: short }, () => `${text}\n`);
}

function formatNow(world: CliWorld): string {
  return new Date(world.nowMs()).toISOString().replace(/\.\d+Z$/, '+00:00');
}

function fresh(count: number): Uint8Array {
  return Uint8Array.from(randomBytes(count));
}
