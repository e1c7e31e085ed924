import { X509Certificate } from 'node:crypto';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { callRest, logIn, type Login, type Target } from '#adapters/backup-client/connection.ts';
import { AppError } from '#base/error.ts';
import { parseFingerprint } from '#core/backup/crypt-key.ts';
import { parseAuthId } from '#core/backup/owner.ts';
import { adminToken, adminTokenFile } from '#programs/backup/first-run.ts';
import { readBackupConfig } from '#programs/backup/config.ts';
import { readSecret } from '#cli/backup-access.ts';
import type { CliWorld } from '#cli/world.ts';

export type ServerOptions = { serverConfig: string; as?: string; secretFile?: string };
export type Method = 'GET' | 'POST' | 'PUT' | 'DELETE';
/** Asks the server; `data` of its answer. Raises AppError with the server's words. */
export type Ask = (
  method: Method,
  path: string,
  params: Readonly<Record<string, string | number | boolean | string[]>>,
) => Promise<unknown>;

/**
 * The way to the server of this machine: its own configuration tells the port and the certificate, and the token that `init` made is in a
 * file that only root reads. Raises AppError.
 */
export async function reachOwnServer(world: CliWorld, options: ServerOptions): Promise<Ask> {
  if (!existsSync(options.serverConfig))
    throw new AppError('missing', `${options.serverConfig} is not there: set a server up with \`holdfast backup-server init\``);
  const config = readBackupConfig(options.serverConfig);
  const { host, port } = config.listen;
  const user = options.as === undefined ? adminToken : parseAuthId(options.as, 'as');
  const target: Target = {
    repository: { user, host: ownAddress(host), port, store: '' },
    fingerprint: parseFingerprint(readCertificate(config.certFile).toLowerCase(), 'certificate'),
    signal: world.signal,
  };
  const login = await logIn(target, await readLogin(world, options, join(config.stateFolder, adminTokenFile)));
  return (method, path, params) => ask(target, login, method, path, params);
}

function ask(target: Target, login: Login, method: Method, path: string, params: Parameters<Ask>[2]): Promise<unknown> {
  if (method !== 'GET' && method !== 'DELETE') return callRest(target, login, { method, path, body: params });
  const query = Object.fromEntries(
    Object.entries(params).map(([name, value]) => [name, typeof value === 'object' ? value.join(',') : value]),
  );
  return callRest(target, login, { method, path, query });
}

function readLogin(world: CliWorld, { as, secretFile }: ServerOptions, ownFile: string): Promise<string> {
  const isOwn = as === undefined && secretFile === undefined;
  if (isOwn && !existsSync(ownFile))
    throw new AppError('missing', `${ownFile} is not there: say who you are with --as USER@REALM!TOKEN --secret-file FILE`);
  const file = isOwn ? ownFile : (secretFile ?? null);
  return readSecret(world, {
    file,
    variable: null,
    question: `Password or secret of ${as ?? adminToken}: `,
    option: '--secret-file',
  });
}

/** What listens everywhere is reached here. */
function ownAddress(host: string): string {
  if (host === '0.0.0.0') return '127.0.0.1';
  return host === '::' ? '::1' : host;
}

function readCertificate(file: string): string {
  try {
    return new X509Certificate(readFileSync(file)).fingerprint256;
  } catch (cause) {
    throw new AppError('invalid', `cert: ${file} cannot be read as a certificate`, { cause });
  }
}
