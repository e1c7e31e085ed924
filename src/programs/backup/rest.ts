import { AppError } from '#base/error.ts';
import type { Privilege } from '#core/access/acl.ts';
import { blobLimits } from '#core/backup/blob.ts';
import {
  formatSnapshotTime,
  parseBackupId,
  parseBackupType,
  parseNamespace,
  manifestFile,
  type GroupId,
} from '#core/backup/names.ts';
import { isOwnedBy } from '#core/backup/owner.ts';
import { parseKeepRules, type KeepRule } from '#core/backup/prune.ts';
import { readFlag, readInteger, readSnapshot, readText, type WireParameters } from '#core/backup/wire-parameters.ts';
import type { Datastore, SnapshotInfo } from '#ports/datastore.ts';
import type { Access } from './access.ts';
import type { Reply } from './reply.ts';
import type { Stores } from './sessions.ts';

export type RestRequest = { method: string; path: string[]; params: WireParameters; body: Uint8Array; caller: string };
type Context = { request: RestRequest; store: Datastore; name: string; access: Access };
type Route = (context: Context) => Promise<Reply>;

/** Calls below admin/datastore/{store}. Each checks its own privilege, as some depend on whose group it is. */
const routes: Readonly<Record<string, Route>> = {
  'GET status': readStatus,
  'GET groups': listGroups,
  'GET snapshots': listSnapshots,
  'DELETE snapshots': removeSnapshot,
  'GET files': listFiles,
  'GET notes': async (context) => {
    const manifest = await context.store.readManifest(await allow(context, 'Datastore.Audit', 'Datastore.Backup'));
    return data(manifest.unprotected['notes'] ?? '');
  },
  'PUT notes': async (context) => {
    const snapshot = await allow(context, 'Datastore.Modify', 'Datastore.Backup');
    const notes = readText(context.request.params, 'notes', 65_536);
    await context.store.updateUnprotected(snapshot, (unprotected) => ({ ...unprotected, notes }));
    return data(null);
  },
  'GET protected': async (context) => {
    const snapshot = await allow(context, 'Datastore.Audit', 'Datastore.Backup');
    const { snapshots } = await context.store.readGroup(snapshot);
    return data(snapshots.find((info) => info.snapshot.atSeconds === snapshot.atSeconds)?.isProtected ?? false);
  },
  'PUT protected': async (context) => {
    const snapshot = await allow(context, 'Datastore.Modify', 'Datastore.Backup');
    await context.store.setProtected(snapshot, readFlag(context.request.params, 'protected'));
    return data(null);
  },
  'POST prune': prune,
  'POST upload-backup-log': async (context) => {
    const snapshot = await allow(context, null, 'Datastore.Backup');
    await context.store.addLog(snapshot, context.request.body);
    return data(null);
  },
  'GET namespace': async ({ request, store, access, name }) => {
    const parent = parseNamespace(request.params['parent'], 'parent');
    const found = await store.listNamespaces(parent);
    const visible = found.filter((ns) => access.has(request.caller, pathOf(name, ns), 'Datastore.Audit'));
    return data([parent, ...visible].map((ns) => ({ ns: ns.join('/') })));
  },
  'POST namespace': async ({ request, store, access, name }) => {
    const parent = parseNamespace(request.params['parent'], 'parent');
    require(access.has(request.caller, pathOf(name, parent), 'Datastore.Modify'));
    const namespace = parseNamespace([...parent, readText(request.params, 'name', 32)].join('/'), 'name');
    await store.createNamespace(namespace);
    return data(namespace.join('/'));
  },
  'POST gc': async ({ request, store, access, name }) => {
    require(access.has(request.caller, pathOf(name, []), 'Datastore.Modify'));
    return data(await store.collectGarbage());
  },
};

/** Bodies of these calls are no parameters. */
export function isRawRest(method: string, path: readonly string[]): boolean {
  return method === 'POST' && path.at(-1) === 'upload-backup-log';
}

/** Answers a call of the REST API; `path` without `api2/json`. Raises AppError. */
export async function answerRest(request: RestRequest, stores: Stores, access: Access): Promise<Reply> {
  const { method, path, caller } = request;
  const [first, second, name = '', ...rest] = path;
  if (method === 'GET' && path.length === 1 && first === 'version')
    return data({ version: '3.2', release: '4', repoid: 'holdfast' });
  if (first === 'admin' && second === 'datastore' && path.length === 2 && method === 'GET') {
    const visible = [...stores.keys()].filter((store) => canSee(access, caller, store));
    return data(visible.map((store) => ({ store })));
  }
  if (first === 'admin' && second === 'datastore' && rest.length === 1) {
    const route = routes[`${method} ${rest[0]}`];
    if (route !== undefined) {
      // Who may not see a store does not learn whether there is one.
      const store = stores.get(name);
      if (!canSee(access, caller, name)) throw new AppError('denied', 'permission check failed');
      if (store === undefined) throw new AppError('missing', `datastore ${name} does not exist`);
      return route({ request, store, name, access });
    }
  }
  throw new AppError('missing', `Path '/api2/json/${path.join('/')}' not found.`);
}

async function readStatus({ store, request, access, name }: Context): Promise<Reply> {
  const path = pathOf(name, []);
  require(access.has(request.caller, path, 'Datastore.Audit') || access.has(request.caller, path, 'Datastore.Backup'));
  const { totalBytes, availableBytes } = await store.readUsage();
  return data({ total: totalBytes, used: totalBytes - availableBytes, avail: availableBytes });
}

async function listGroups(context: Context): Promise<Reply> {
  const { store, request } = context;
  const groups = await store.listGroups(parseNamespace(request.params['ns']));
  const visible = groups.filter(({ group, owner }) => maySee(context, group, owner, 'Datastore.Audit', 'Datastore.Backup'));
  return data(
    visible.map(({ group, owner, notes, snapshots }) => {
      const finished = snapshots.filter(({ isFinished }) => isFinished);
      return {
        'backup-type': group.type,
        'backup-id': group.id,
        'last-backup': finished[0]?.snapshot.atSeconds ?? 0,
        'backup-count': finished.length,
        files: finished[0]?.files ?? [],
        owner,
        ...(notes === null ? {} : { comment: notes.split('\n')[0] }),
      };
    }),
  );
}

async function listSnapshots(context: Context): Promise<Reply> {
  const { store, request } = context;
  const { params } = request;
  const type = params['backup-type'] === undefined ? null : parseBackupType(params['backup-type']);
  const id = params['backup-id'] === undefined ? null : parseBackupId(params['backup-id']);
  const list: unknown[] = [];
  for (const { group, owner, snapshots } of await store.listGroups(parseNamespace(params['ns']))) {
    if ((type !== null && group.type !== type) || (id !== null && group.id !== id)) continue;
    if (!maySee(context, group, owner, 'Datastore.Audit', 'Datastore.Backup')) continue;
    for (const info of snapshots) list.push(await describeSnapshot(store, info));
  }
  return data(list, { total: list.length });
}

async function describeSnapshot(store: Datastore, info: SnapshotInfo): Promise<Record<string, unknown>> {
  const { snapshot, owner, isProtected, isFinished } = info;
  const head = {
    'backup-type': snapshot.type,
    'backup-id': snapshot.id,
    'backup-time': snapshot.atSeconds,
    owner,
    protected: isProtected,
  };
  const bare = { ...head, files: info.files.map((filename) => ({ filename })) };
  if (!isFinished) return bare;
  try {
    const { files, unprotected } = await store.readManifest(snapshot);
    const notes = unprotected['notes'];
    return {
      ...head,
      files: [
        ...files.map(({ name, cryptMode, sizeBytes }) => ({ filename: name, 'crypt-mode': cryptMode, size: sizeBytes })),
        { filename: manifestFile },
      ],
      size: files.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0),
      ...(typeof notes === 'string' ? { comment: notes.split('\n')[0] } : {}),
      ...(unprotected['key-fingerprint'] === undefined ? {} : { fingerprint: unprotected['key-fingerprint'] }),
      ...(unprotected['verify_state'] === undefined ? {} : { verification: unprotected['verify_state'] }),
    };
  } catch (error) {
    if (error instanceof AppError) return bare; // its manifest is damaged: it is listed, without what it would say
    throw error;
  }
}

async function removeSnapshot(context: Context): Promise<Reply> {
  await context.store.removeSnapshot(await allow(context, 'Datastore.Modify', 'Datastore.Prune'));
  return data(null);
}

async function listFiles(context: Context): Promise<Reply> {
  const snapshot = await allow(context, 'Datastore.Audit', 'Datastore.Backup');
  const { files, signature } = await context.store.readManifest(snapshot);
  return data([
    ...files.map(({ name, cryptMode, sizeBytes }) => ({ filename: name, 'crypt-mode': cryptMode, size: sizeBytes })),
    { filename: manifestFile, 'crypt-mode': signature === null ? 'none' : 'sign-only' },
  ]);
}

async function prune(context: Context): Promise<Reply> {
  const { params } = context.request;
  const group = readGroup(params);
  await allowGroup(context, group, 'Datastore.Modify', 'Datastore.Prune');
  const keep = (rule: KeepRule): number | undefined =>
    params[`keep-${rule}`] === undefined ? undefined : readInteger(params, `keep-${rule}`, 0, 100_000);
  const rules = parseKeepRules({
    last: keep('last'),
    hourly: keep('hourly'),
    daily: keep('daily'),
    weekly: keep('weekly'),
    monthly: keep('monthly'),
    yearly: keep('yearly'),
  });
  const verdicts = await context.store.prune(group, rules, { dryRun: readFlag(params, 'dry-run') });
  return data(
    verdicts.map(({ snapshot, mark, error }) => ({
      'backup-type': snapshot.type,
      'backup-id': snapshot.id,
      'backup-time': snapshot.atSeconds,
      time: formatSnapshotTime(snapshot.atSeconds),
      keep: mark !== 'remove',
      protected: mark === 'protected',
      ...(error === null ? {} : { error }),
    })),
  );
}

function readGroup(params: WireParameters): GroupId {
  return {
    namespace: parseNamespace(params['ns']),
    type: parseBackupType(params['backup-type']),
    id: parseBackupId(params['backup-id']),
  };
}

/** The snapshot that is asked for, if the caller has `anywhere`, or `ifOwner` and the group is his. */
async function allow(context: Context, anywhere: Privilege | null, ifOwner: Privilege): Promise<ReturnType<typeof readSnapshot>> {
  const snapshot = readSnapshot(context.request.params);
  await allowGroup(context, snapshot, anywhere, ifOwner);
  return snapshot;
}

async function allowGroup(context: Context, group: GroupId, anywhere: Privilege | null, ifOwner: Privilege): Promise<void> {
  const { access, request, name, store } = context;
  const path = pathOf(name, group.namespace);
  if (anywhere !== null && access.has(request.caller, path, anywhere)) return;
  require(access.has(request.caller, path, ifOwner));
  const { owner } = await store.readGroup(group);
  require(owner !== null && isOwnedBy(owner, request.caller));
}

function maySee(
  { access, request, name }: Context,
  group: GroupId,
  owner: string | null,
  anywhere: Privilege,
  ifOwner: Privilege,
): boolean {
  const path = pathOf(name, group.namespace);
  if (access.has(request.caller, path, anywhere)) return true;
  return access.has(request.caller, path, ifOwner) && owner !== null && isOwnedBy(owner, request.caller);
}

function canSee(access: Access, caller: string, store: string): boolean {
  const path = pathOf(store, []);
  return access.has(caller, path, 'Datastore.Audit') || access.has(caller, path, 'Datastore.Backup');
}

function pathOf(store: string, namespace: readonly string[]): string {
  return ['/datastore', store, ...namespace].join('/');
}

function require(isAllowed: boolean): void {
  if (!isAllowed) throw new AppError('denied', 'permission check failed');
}

function data(value: unknown, attributes?: Record<string, unknown>): Reply {
  return { kind: 'json', data: value, attributes };
}

/** The largest body a call may have. */
export const restBodyBytes = { parameters: 512 * 1024, raw: blobLimits.chunkBytes + blobLimits.headerBytes } as const;
