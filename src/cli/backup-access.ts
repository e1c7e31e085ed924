import { readFile } from 'node:fs/promises';
import { nodeBytes } from '#adapters/bytes/node-bytes.ts';
import { callRest, logIn, type Login, type Target } from '#adapters/backup-client/connection.ts';
import { openSession, type WireSession } from '#adapters/backup-client/wire-session.ts';
import { AppError, isAppError } from '#base/error.ts';
import { parseSnapshotText } from '#core/backup/archive-spec.ts';
import { parseFingerprint, type CryptKey } from '#core/backup/crypt-key.ts';
import { openKeyFile, parseKeyFile } from '#core/backup/key-file.ts';
import { formatGroup, parseNamespace, type SnapshotId } from '#core/backup/names.ts';
import { parseRepository } from '#core/backup/repository.ts';
import type { CliWorld } from '#cli/world.ts';

/** Options of every command that talks to a backup server. Names of variables are those that scripts for the original set. */
export type AccessOptions = { repository?: string; passwordFile?: string; fingerprint?: string; ns?: string };
export type KeyOptions = { keyfile?: string; passphraseFile?: string };

/** One backup server, logged in. */
export type BackupServer = {
  target: Target;
  login: Login;
  namespace: string[];
  open(kind: 'backup' | 'reader', snapshot: SnapshotId): Promise<WireSession>;
};

/** Logs in. Raises AppError. */
export async function reachServer(world: CliWorld, options: AccessOptions): Promise<BackupServer> {
  const text = options.repository ?? world.environment('PBS_REPOSITORY');
  if (text === null) {
    throw new AppError('invalid', 'repository: give --repository USER@REALM@HOST:PORT:STORE or set PBS_REPOSITORY');
  }
  const repository = parseRepository(text);
  const namespace = parseNamespace(options.ns ?? '', 'ns');
  const pinned = options.fingerprint ?? world.environment('PBS_FINGERPRINT');
  const fingerprint = pinned === null ? null : parseFingerprint(pinned, 'fingerprint');
  const target: Target = { repository, fingerprint, signal: world.signal };
  const secret = await readSecret(world, {
    file: options.passwordFile ?? null,
    variable: 'PBS_PASSWORD',
    question: `Password or token secret of ${repository.user}: `,
    option: '--password-file',
  });
  const login = await logIn(target, secret);
  return {
    target,
    login,
    namespace,
    open: (kind, snapshot) => openSession(kind, repository.store, snapshot, target, login),
  };
}

/** One call about the datastore. */
export function askStore(server: BackupServer, call: string, query: Record<string, string | number | null>): Promise<unknown> {
  const ns = server.namespace.length === 0 ? null : server.namespace.join('/');
  const path = `admin/datastore/${server.target.repository.store}/${call}`;
  return callRest(server.target, server.login, { method: 'GET', path, query: { ...query, ns } });
}

/** The snapshot that is meant: by its time, or the newest of its group. Raises AppError missing. */
export async function findSnapshot(server: BackupServer, text: string): Promise<SnapshotId> {
  const { type, id, atSeconds } = parseSnapshotText(text);
  const group = { namespace: server.namespace, type, id };
  if (atSeconds !== null) return { ...group, atSeconds };
  const list = (await askStore(server, 'snapshots', { 'backup-type': type, 'backup-id': id })) as Record<string, unknown>[];
  // Without a size it is not finished.
  const times = list.flatMap((item) => (item['size'] === undefined ? [] : [Number(item['backup-time'])]));
  if (times.length === 0) throw new AppError('missing', `snapshot: there is no finished backup of ${formatGroup(group)}`);
  return { ...group, atSeconds: Math.max(...times) };
}

/** The key of `--keyfile`; null without. Raises AppError, also for a wrong passphrase. */
export async function readKey(world: CliWorld, options: KeyOptions): Promise<CryptKey | null> {
  if (options.keyfile === undefined) return null;
  const file = parseKeyFile(await readInput(options.keyfile, 'key file'));
  const passphrase = file.kdf === null ? null : await readPassphrase(world, options.passphraseFile ?? null, options.keyfile);
  return openKeyFile(file, passphrase, nodeBytes);
}

/** The passphrase of an existing key file. */
export function readPassphrase(world: CliWorld, file: string | null, keyFile: string): Promise<string> {
  return readSecret(world, {
    file,
    variable: 'PBS_ENCRYPTION_PASSWORD',
    question: `Passphrase of ${keyFile}: `,
    option: '--passphrase-file',
  });
}

/** A secret from a file, else a variable, else the terminal: never from the command line, which everybody can see. */
export async function readSecret(
  world: CliWorld,
  from: { file: string | null; variable: string | null; question: string; option: string },
): Promise<string> {
  if (from.file !== null) {
    const secret = (await readInput(from.file, from.option.replace(/^--/, ''))).toString('utf8').replace(/\r?\n$/, '');
    if (secret === '') throw new AppError('invalid', `${from.option}: ${from.file} is empty`);
    return secret;
  }
  const set = from.variable === null ? null : world.environment(from.variable);
  if (set !== null) return set;
  try {
    return await world.readSecret(from.question);
  } catch (cause) {
    if (!isAppError(cause, 'invalid')) throw cause;
    const other = from.variable === null ? '' : ` or set ${from.variable}`;
    throw new AppError('unauthenticated', `a secret is needed and nobody is there to ask: give ${from.option} FILE${other}`, {
      cause,
    });
  }
}

/** A small file that the user named. Raises AppError invalid, naming `field`. */
export async function readInput(path: string, field: string): Promise<Buffer> {
  try {
    return await readFile(path);
  } catch (cause) {
    throw new AppError('invalid', `${field}: reading ${path}`, { cause });
  }
}
