/**
 * One command of `holdfast backup-server`: a call of the server's API under words that people use. All its options, their texts and limits
 * come from the call's own table.
 */
export type Verb = {
  words: string;
  /** Method and path of the call. */
  call: string;
  /** Parameters given by place; `group` and `snapshot` stand for the parameters that name one. `[…]`: may be left out. */
  places?: readonly string[];
  /** Parameters that the words say already. */
  fixed?: Readonly<Record<string, string | number | boolean>>;
  /** A parameter that nobody is to see typed: read from a file, or asked for. `canLack`: there is an option to leave it out. */
  secret?: { name: string; canLack: boolean };
  /** What a list shows, where that is not everything. */
  columns?: readonly string[];
  /** Instead of what the call says of itself. */
  what?: string;
};

const store = 'admin/datastore/{store}';
const tasks = 'nodes/{node}/tasks';
const here = { node: 'localhost' };
const jobKinds = ['prune', 'gc', 'verify', 'scrub', 'sync'] as const;
const jobColumns = ['id', 'store', 'schedule', 'disable', 'next-run', 'last-run-state', 'comment'];

/** What the commands of a group are about. */
export const groupTexts: Readonly<Record<string, string>> = {
  datastore: 'folders that hold backups',
  namespace: 'divisions of a datastore',
  group: 'all snapshots of one machine',
  snapshot: 'single backups',
  gc: 'removal of what no snapshot refers to any more',
  remote: 'other servers to sync with',
  job: 'work that is done by a schedule',
  user: 'who logs in',
  token: 'what machines log in with',
  acl: 'who may do what where',
  task: 'work that runs or ran',
};

/** The commands, in the order in which help lists them. */
export const verbs: readonly Verb[] = [
  { words: 'datastore list', call: 'GET config/datastore' },
  {
    words: 'datastore usage',
    call: 'GET status/datastore-usage',
    columns: ['store', 'total', 'used', 'avail', 'estimated-full-date'],
  },
  { words: 'datastore create', call: 'POST config/datastore', places: ['name', 'path'] },
  { words: 'datastore status', call: `GET ${store}/status`, places: ['store'], fixed: { verbose: true } },
  { words: 'datastore forget', call: 'DELETE config/datastore/{name}', places: ['name'] },
  { words: 'namespace list', call: `GET ${store}/namespace`, places: ['store'] },
  { words: 'namespace create', call: `POST ${store}/namespace`, places: ['store', 'name'] },
  { words: 'namespace remove', call: `DELETE ${store}/namespace`, places: ['store', 'ns'] },
  {
    words: 'group list',
    call: `GET ${store}/groups`,
    places: ['store'],
    columns: ['backup-type', 'backup-id', 'backup-count', 'last-backup', 'owner', 'comment'],
  },
  { words: 'group remove', call: `DELETE ${store}/groups`, places: ['store', 'group'] },
  { words: 'group give', call: `POST ${store}/change-owner`, places: ['store', 'group', 'new-owner'] },
  { words: 'group notes', call: `GET ${store}/group-notes`, places: ['store', 'group'] },
  { words: 'group set-notes', call: `PUT ${store}/group-notes`, places: ['store', 'group', 'notes'] },
  { words: 'group prune', call: `POST ${store}/prune`, places: ['store', 'group'], columns: ['time', 'mark', 'rule', 'error'] },
  { words: 'group forecast', call: `GET ${store}/prune-forecast`, places: ['store', 'group'] },
  {
    words: 'snapshot list',
    call: `GET ${store}/snapshots`,
    places: ['store', '[group]'],
    columns: ['backup-type', 'backup-id', 'backup-time', 'size', 'owner', 'protected', 'locked-until', 'verification', 'comment'],
  },
  { words: 'snapshot files', call: `GET ${store}/files`, places: ['store', 'snapshot'] },
  { words: 'snapshot forget', call: `DELETE ${store}/snapshots`, places: ['store', 'snapshot'] },
  { words: 'snapshot protect', call: `PUT ${store}/protected`, places: ['store', 'snapshot'], fixed: { protected: true } },
  {
    words: 'snapshot unprotect',
    call: `PUT ${store}/protected`,
    places: ['store', 'snapshot'],
    fixed: { protected: false },
    what: 'takes the protection from removal off',
  },
  { words: 'snapshot lock', call: `PUT ${store}/locked-until`, places: ['store', 'snapshot', 'until'] },
  { words: 'snapshot notes', call: `GET ${store}/notes`, places: ['store', 'snapshot'] },
  { words: 'snapshot set-notes', call: `PUT ${store}/notes`, places: ['store', 'snapshot', 'notes'] },
  { words: 'prune', call: `POST ${store}/prune-datastore`, places: ['store'] },
  { words: 'gc run', call: `POST ${store}/gc`, places: ['store'] },
  { words: 'gc status', call: `GET ${store}/gc`, places: ['store'] },
  { words: 'verify', call: `POST ${store}/verify`, places: ['store', '[group]'] },
  { words: 'pull', call: 'POST pull', places: ['store', 'remote', 'remote-store'] },
  { words: 'push', call: 'POST push', places: ['store', 'remote', 'remote-store'] },
  { words: 'remote list', call: 'GET config/remote' },
  {
    words: 'remote add',
    call: 'POST config/remote',
    places: ['name', 'host', 'auth-id'],
    secret: { name: 'password', canLack: false },
  },
  { words: 'remote remove', call: 'DELETE config/remote/{name}', places: ['name'] },
  ...jobKinds.flatMap((kind): Verb[] => [
    { words: `job ${kind} list`, call: `GET config/${kind}`, columns: jobColumns },
    { words: `job ${kind} show`, call: `GET config/${kind}/{id}`, places: ['id'] },
    { words: `job ${kind} add`, call: `POST config/${kind}`, places: ['id', 'store'] },
    { words: `job ${kind} change`, call: `PUT config/${kind}/{id}`, places: ['id'] },
    { words: `job ${kind} remove`, call: `DELETE config/${kind}/{id}`, places: ['id'] },
    { words: `job ${kind} run`, call: `POST admin/${kind}/{id}/run`, places: ['id'] },
  ]),
  { words: 'user list', call: 'GET access/users' },
  { words: 'user create', call: 'POST access/users', places: ['userid'], secret: { name: 'password', canLack: true } },
  { words: 'user change', call: 'PUT access/users/{userid}', places: ['userid'] },
  { words: 'user password', call: 'PUT access/password', places: ['userid'], secret: { name: 'password', canLack: false } },
  { words: 'user remove', call: 'DELETE access/users/{userid}', places: ['userid'] },
  { words: 'token list', call: 'GET access/users/{userid}/token', places: ['userid'] },
  { words: 'token create', call: 'POST access/users/{userid}/token/{token-name}', places: ['userid', 'token-name'] },
  { words: 'token change', call: 'PUT access/users/{userid}/token/{token-name}', places: ['userid', 'token-name'] },
  { words: 'token remove', call: 'DELETE access/users/{userid}/token/{token-name}', places: ['userid', 'token-name'] },
  { words: 'acl list', call: 'GET access/acl' },
  {
    words: 'acl grant',
    call: 'PUT access/acl',
    places: ['auth-id', 'role', 'path'],
    fixed: { delete: false },
    what: 'gives a role on a path',
  },
  {
    words: 'acl revoke',
    call: 'PUT access/acl',
    places: ['auth-id', 'role', 'path'],
    fixed: { delete: true },
    what: 'takes a role on a path',
  },
  { words: 'acl roles', call: 'GET access/roles' },
  { words: 'acl permissions', call: 'GET access/permissions' },
  {
    words: 'task list',
    call: `GET ${tasks}`,
    fixed: here,
    columns: ['starttime', 'endtime', 'worker_type', 'worker_id', 'user', 'status', 'upid'],
  },
  { words: 'task status', call: `GET ${tasks}/{upid}/status`, places: ['upid'], fixed: here },
  { words: 'task log', call: `GET ${tasks}/{upid}/log`, places: ['upid'], fixed: here },
  { words: 'task stop', call: `DELETE ${tasks}/{upid}`, places: ['upid'], fixed: here },
];
