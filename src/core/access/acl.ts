import { AppError } from '#base/error.ts';

/** What one may do on a path: with a datastore or a namespace in it, a remote server, this server. */
export type Privilege =
  | 'Datastore.Audit'
  | 'Datastore.Modify'
  | 'Datastore.Read'
  | 'Datastore.Verify'
  | 'Datastore.Backup'
  | 'Datastore.Prune'
  | 'Datastore.Allocate'
  | 'Remote.Audit'
  | 'Remote.Modify'
  | 'Remote.Read'
  | 'Permissions.Modify'
  | 'Sys.Audit'
  | 'Sys.Modify';
/** `who`: user@realm or user@realm!token. A path's rights hold below it too if `propagate`. */
export type AclEntry = { path: string; who: string; role: string; propagate: boolean };

const datastore = [
  'Datastore.Audit',
  'Datastore.Modify',
  'Datastore.Read',
  'Datastore.Verify',
  'Datastore.Backup',
  'Datastore.Prune',
] as const;

const remote = ['Remote.Audit', 'Remote.Modify', 'Remote.Read'] as const;

/** Roles as Proxmox Backup Server has them. */
export const roles: Readonly<Record<string, readonly Privilege[]>> = {
  NoAccess: [],
  Admin: [...datastore, 'Datastore.Allocate', ...remote, 'Permissions.Modify', 'Sys.Audit', 'Sys.Modify'],
  Audit: ['Datastore.Audit', 'Remote.Audit', 'Sys.Audit'],
  DatastoreAdmin: datastore,
  DatastoreAudit: ['Datastore.Audit'],
  DatastoreReader: ['Datastore.Audit', 'Datastore.Read', 'Datastore.Verify'],
  DatastoreBackup: ['Datastore.Backup'],
  DatastorePowerUser: ['Datastore.Backup', 'Datastore.Prune'],
  RemoteAudit: ['Remote.Audit'],
  RemoteAdmin: remote,
  RemoteSyncOperator: ['Remote.Audit', 'Remote.Read'],
};

/** True when `who` has the privilege on the path or anywhere below it: then the path itself is no secret to him. */
export function isAllowedBelow(entries: readonly AclEntry[], who: string, path: string, privilege: Privilege): boolean {
  if (isAllowed(entries, who, path, privilege)) return true;
  return entries.some((entry) => isBelow(entry.path, path) && isAllowed(entries, who, entry.path, privilege));
}

/** Reads a path of the access list: `/` or `/level/level…`. Raises AppError invalid, naming `field`. */
export function parseAclPath(value: string, field: string): string {
  const levels = value.split('/').slice(1);
  const isSafe = value.startsWith('/') && value.length <= 512 && levels.length <= 12;
  if (value === '/' || (isSafe && levels.every((level) => /^[A-Za-z0-9_][A-Za-z0-9._@!-]*$/.test(level)))) return value;
  throw new AppError('invalid', `${field}: ${JSON.stringify(value.slice(0, 80))} is not a path such as /datastore/store`);
}

/** The superuser; his tokens are not. */
const superuser = 'root@pam';

/** True when `who` has the privilege on the path. A token has at most what its user has. */
export function isAllowed(entries: readonly AclEntry[], who: string, path: string, privilege: Privilege): boolean {
  if (who === superuser) return true;
  const mark = who.indexOf('!');
  if (mark >= 0 && !isAllowed(entries, who.slice(0, mark), path, privilege)) return false;
  return rolesOn(entries, who, path).some((role) => roles[role]?.includes(privilege) === true);
}

/** The roles of the most specific path that names `who`. */
function rolesOn(entries: readonly AclEntry[], who: string, path: string): string[] {
  const mine = entries.filter(
    (entry) => entry.who === who && (entry.path === path || (entry.propagate && isBelow(path, entry.path))),
  );
  const deepest = Math.max(-1, ...mine.map((entry) => entry.path.length));
  return mine.filter((entry) => entry.path.length === deepest).map(({ role }) => role);
}

function isBelow(path: string, parent: string): boolean {
  return parent === '/' || path.startsWith(`${parent}/`);
}
