import { AppError } from '#base/error.ts';
import { quote } from './bytes.ts';
import { parseDatastoreName } from './names.ts';
import { parseAuthId } from './owner.ts';

/** Where backups go, and as whom. `user`: user@realm or user@realm!token. */
export type Repository = { user: string; host: string; port: number; store: string };

export const defaultBackupPort = 8007;
const form = 'USER@REALM@HOST:PORT:STORE (a token: USER@REALM!TOKEN@HOST:PORT:STORE; IPv6 in square brackets)';

/** Reads `user@realm[!token]@host[:port]:store`. Raises AppError invalid, naming `field`. */
export function parseRepository(text: string, field = 'repository'): Repository {
  const match = /^(?:(.+)@)?(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]+)(?::(\d{1,5}))?:([^:@]+)$/.exec(text);
  const port = Number(match?.[3] ?? defaultBackupPort);
  if (match === null || match[1] === undefined || port < 1 || port > 65_535) {
    throw new AppError('invalid', `${field}: ${quote(text)} is not ${form}`);
  }
  return {
    user: parseAuthId(match[1], `${field}: user`),
    host: (match[2] ?? '').replace(/^\[|\]$/g, ''),
    port,
    store: parseDatastoreName(match[4], `${field}: store`),
  };
}

/** An API token logs in with every request, a user by a ticket. */
export function isToken(repository: Repository): boolean {
  return repository.user.includes('!');
}

/** Host and port as they stand in an address. */
export function formatAuthority({ host, port }: Repository): string {
  return `${host.includes(':') ? `[${host}]` : host}:${port}`;
}
