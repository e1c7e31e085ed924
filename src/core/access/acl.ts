/** What one may do with a datastore or a namespace in it. */
export type Privilege =
  | 'Datastore.Audit'
  | 'Datastore.Modify'
  | 'Datastore.Read'
  | 'Datastore.Verify'
  | 'Datastore.Backup'
  | 'Datastore.Prune'
  | 'Sys.Audit';
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

/** Roles as Proxmox Backup Server has them. */
export const roles: Readonly<Record<string, readonly Privilege[]>> = {
  NoAccess: [],
  Admin: [...datastore, 'Sys.Audit'],
  Audit: ['Datastore.Audit', 'Sys.Audit'],
  DatastoreAdmin: datastore,
  DatastoreAudit: ['Datastore.Audit'],
  DatastoreReader: ['Datastore.Audit', 'Datastore.Read', 'Datastore.Verify'],
  DatastoreBackup: ['Datastore.Backup'],
  DatastorePowerUser: ['Datastore.Backup', 'Datastore.Prune'],
};

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
