import { randomBytes, randomUUID } from 'node:crypto';
import { existsSync, mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { makeOwnCertificate } from '#adapters/pki/own-certificate.ts';
import { AppError } from '#base/error.ts';
import { hashSecret } from './access.ts';
import { makeDatastore } from './make-datastore.ts';

/** The token with which the command line on the server's own machine does everything. */
export const adminToken = 'root@pam!local';
/** In the state folder: its secret, which only root reads. */
export const adminTokenFile = 'admin-token';

export type FirstRun = {
  /** Where the configuration goes, and where the server keeps what is its own. */
  folder: string;
  stateFolder: string;
  name: string;
  /** What it listens on; names and addresses of its certificate. */
  address: string;
  port: number;
  reachedAt: readonly string[];
  datastore: { name: string; path: string } | null;
};

/**
 * Makes all that a server needs to be started: key and certificate, a token for this machine, the first datastore, and last of all the
 * configuration file. Interrupted anywhere it can be run again. Raises AppError conflict when there is a configuration.
 */
export async function performFirstRun(run: FirstRun): Promise<{ configFile: string; fingerprint: string }> {
  const configFile = join(run.folder, 'backup.toml');
  if (existsSync(configFile)) throw new AppError('conflict', `${configFile} is there already; this server has been set up`);
  mkdirSync(run.folder, { recursive: true, mode: 0o755 });
  mkdirSync(run.stateFolder, { recursive: true, mode: 0o750 });
  const [certFile, keyFile] = [join(run.folder, 'backup-cert.pem'), join(run.folder, 'backup-key.pem')];
  const fingerprint = await makeOwnCertificate({ name: run.name, addresses: run.reachedAt, certFile, keyFile });
  const secret = randomUUID();
  writeFileSync(join(run.stateFolder, adminTokenFile), `${secret}\n`, { mode: 0o600 });
  writeFileSync(join(run.stateFolder, 'ticket.key'), randomBytes(32), { mode: 0o600 });
  if (run.datastore !== null && !existsSync(join(run.datastore.path, '.chunks'))) await makeDatastore(run.datastore.path);
  writeFileSync(configFile, formatConfig(run, certFile, keyFile, hashSecret(secret)), { mode: 0o600, flag: 'wx' });
  return { configFile, fingerprint };
}

function formatConfig(
  { name, address, port, stateFolder, datastore }: FirstRun,
  cert: string,
  key: string,
  hash: string,
): string {
  const quoted = (text: string): string => JSON.stringify(text);
  return [
    '[server]',
    `name = ${quoted(name)}`,
    `address = ${quoted(address)}`,
    `port = ${port}`,
    `cert = ${quoted(cert)}`,
    `key = ${quoted(key)}`,
    `ticket-key = ${quoted(join(stateFolder, 'ticket.key'))}`,
    `state = ${quoted(stateFolder)}`,
    '',
    ...(datastore === null ? [] : ['[[datastore]]', `name = ${quoted(datastore.name)}`, `path = ${quoted(datastore.path)}`, '']),
    `# The command line on this machine; its secret is in ${join(stateFolder, adminTokenFile)}.`,
    '[[account]]',
    `id = ${quoted(adminToken)}`,
    `secret-hash = ${quoted(hash)}`,
    '',
    '[[acl]]',
    'path = "/"',
    `who = ${quoted(adminToken)}`,
    'role = "Admin"',
    '',
  ].join('\n');
}
