import type { Command } from 'commander';

/** The options that name a server. */
export function addAccessOptions(command: Command): Command {
  return command
    .option('--repository <where>', 'USER@REALM[!TOKEN]@HOST:PORT:STORE (default: PBS_REPOSITORY)')
    .option('--password-file <file>', 'the password or token secret (default: PBS_PASSWORD, else asked for)')
    .option('--fingerprint <hex>', "SHA-256 of the server's certificate (default: PBS_FINGERPRINT)")
    .option('--ns <namespace>', 'below the root of the datastore');
}

/** The options that give a key. */
export function addKeyOptions(command: Command): Command {
  return command
    .option('--keyfile <file>', 'the key of encrypted or signed backups')
    .option('--passphrase-file <file>', 'its passphrase (default: PBS_ENCRYPTION_PASSWORD, else asked for)');
}
