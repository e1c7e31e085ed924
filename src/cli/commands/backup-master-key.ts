import type { Command } from 'commander';
import { makeMasterKey, openSealedKey } from '#adapters/backup-client/master-key.ts';
import { nodeBytes } from '#adapters/bytes/node-bytes.ts';
import { blobLimits, decodeBlob } from '#core/backup/blob.ts';
import { formatShortFingerprint } from '#core/backup/crypt-key.ts';
import { formatKeyFile, makeKeyFile, openKeyFile } from '#core/backup/key-file.ts';
import { parseManifest } from '#core/backup/manifest.ts';
import { formatSnapshot, manifestFile, sealedKeyFile } from '#core/backup/names.ts';
import { checkManifestKey } from '#core/backup/snapshot-check.ts';
import { parseChoice } from '#core/text/fields.ts';
import { findSnapshot, reachServer, readInput, readSecret, type AccessOptions } from '#cli/backup-access.ts';
import { formatNow, kdfOption, kdfs, protect, readNewPassphrase, writeSecretFile } from '#cli/backup-key-file.ts';
import { addAccessOptions } from '#cli/backup-options.ts';
import { createPrinter, type CommonOptions } from '#cli/session.ts';
import type { CliWorld } from '#cli/world.ts';

type RecoverOptions = AccessOptions &
  CommonOptions & { masterKey: string; masterPassphraseFile?: string; passphraseFile?: string; kdf: string; hint?: string };

/** Adds to `backup key`: the way back to a key of which no copy is left. */
export function addMasterKeyCommands(keys: Command, world: CliWorld): void {
  keys
    .command('create-master <private-file> <public-file>')
    .description('make a master key: backups made with its public half carry their own key, sealed')
    .option('--passphrase-file <file>', 'the passphrase of the private half (default: PBS_ENCRYPTION_PASSWORD, else asked for)')
    .action(async (privateFile: string, publicFile: string, _options: object, command: Command) => {
      const options = command.optsWithGlobals<CommonOptions & { passphraseFile?: string }>();
      const passphrase = await readNewPassphrase(world, options.passphraseFile ?? null, 'PBS_ENCRYPTION_PASSWORD');
      const { privatePem, publicPem } = await makeMasterKey(passphrase);
      await writeSecretFile(privateFile, privatePem, 'new');
      await writeSecretFile(publicFile, publicPem, 'new');
      createPrinter(world.out, options.json === true).show(
        { privateFile, publicFile },
        () => `give ${publicFile} to backups as --master-key; lock ${privateFile} away, not beside the backups\n`,
      );
    });
  const recover = keys
    .command('recover <snapshot> <file>')
    .description('get the key of an encrypted snapshot back with the private half of the master key')
    .requiredOption('--master-key <file>', 'the private half')
    .option('--master-passphrase-file <file>', 'its passphrase (default: asked for)')
    .option(...kdfOption)
    .option('--hint <text>', 'what reminds you of the passphrase; everybody can read it')
    .option('--passphrase-file <file>', "the new key file's passphrase (default: PBS_ENCRYPTION_PASSWORD, else asked for)")
    .action(async (snapshot: string, file: string, _options: object, command: Command) => {
      await recoverKey(world, snapshot, file, command.optsWithGlobals<RecoverOptions>());
    });
  addAccessOptions(recover);
}

async function recoverKey(world: CliWorld, text: string, path: string, options: RecoverOptions): Promise<void> {
  const kdf = parseChoice(options.kdf, 'kdf', kdfs);
  const privatePem = await readInput(options.masterKey, 'master-key');
  const masterPassphrase = await readSecret(world, {
    file: options.masterPassphraseFile ?? null,
    variable: null,
    question: `Passphrase of ${options.masterKey}: `,
    option: '--master-passphrase-file',
  });
  const passphrase =
    kdf === 'none' ? null : await readNewPassphrase(world, options.passphraseFile ?? null, 'PBS_ENCRYPTION_PASSWORD');
  const server = await reachServer(world, options);
  const snapshot = await findSnapshot(server, text);
  using session = await server.open('reader', snapshot);
  const fetchBlob = async (name: string): Promise<Uint8Array> => {
    const encoded = await session.fetch({ method: 'GET', path: 'download', query: { 'file-name': name } });
    return decodeBlob(encoded, { key: null, maxBytes: blobLimits.wholeBytes, what: name }, nodeBytes);
  };
  const key = openKeyFile(openSealedKey(privatePem, masterPassphrase, await fetchBlob(sealedKeyFile)), null, nodeBytes);
  // The sealed key could be anybody's: the snapshot's own is the one that signed its manifest.
  checkManifestKey(parseManifest(await fetchBlob(manifestFile)), key, nodeBytes);
  const now = formatNow(world);
  const about = { created: now, modified: now, hint: options.hint ?? null };
  await writeSecretFile(path, `${formatKeyFile(makeKeyFile(key, protect(kdf, passphrase), about, nodeBytes))}\n`, 'new');
  const short = formatShortFingerprint(key.fingerprint);
  createPrinter(world.out, options.json === true).show(
    { fingerprint: short },
    () => `key ${short} of ${formatSnapshot(snapshot)} is in ${path}\n`,
  );
}
