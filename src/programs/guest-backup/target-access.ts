import { readFile } from 'node:fs/promises';
import { nodeBytes } from '#adapters/bytes/node-bytes.ts';
import { AppError } from '#base/error.ts';
import { parseFingerprint, type CryptKey } from '#core/backup/crypt-key.ts';
import { openKeyFile, parseKeyFile } from '#core/backup/key-file.ts';
import { parseNamespace } from '#core/backup/names.ts';
import { parseRepository } from '#core/backup/repository.ts';
import type { BackupTarget } from '#core/guest-backup/records.ts';
import type { TargetAccess } from '#programs/guest-backup/upload-messages.ts';

/** What it takes to reach a target from this node: the secrets come from this node's files. Raises AppError invalid or missing. */
export async function readTargetAccess(target: BackupTarget): Promise<TargetAccess> {
  const what = `backup target ${target.id}`;
  return {
    repository: parseRepository(target.repository, `${what}: repository`),
    fingerprint: target.fingerprint === null ? null : parseFingerprint(target.fingerprint, `${what}: fingerprint`),
    namespace: parseNamespace(target.namespace, `${what}: namespace`),
    secret: (await readSecretFile(target.passwordFile, `${what}: password file`)).toString('utf8').replace(/\r?\n$/, ''),
    key: target.keyFile === null ? null : await readKey(target.keyFile, what),
  };
}

async function readKey(path: string, what: string): Promise<CryptKey> {
  const file = parseKeyFile(await readSecretFile(path, `${what}: key file`));
  if (file.kdf !== null) {
    throw new AppError(
      'invalid',
      `${what}: the key file ${path} is protected by a passphrase, and nobody is there to ask at night; put a copy without one there (mode 0600)`,
    );
  }
  return openKeyFile(file, null, nodeBytes);
}

async function readSecretFile(path: string, what: string): Promise<Buffer> {
  return await readFile(path).catch((cause: unknown) => {
    throw new AppError('missing', `${what}: ${path} cannot be read on this node; put it there`, { cause });
  });
}
