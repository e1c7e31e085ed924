import { AppError } from '#base/error.ts';
import type { Privilege } from '#core/access/acl.ts';
import { createRouteMaker } from '#core/access/route.ts';
import { nameLimits } from '#core/backup/names.ts';
import { isOwnedBy } from '#core/backup/owner.ts';
import type { LocalTime } from '#core/backup/prune.ts';
import type { ByteFunctions } from '#core/backup/byte-functions.ts';
import type { Datastore, GroupInfo } from '#ports/datastore.ts';
import type { Tasks } from '#ports/tasks.ts';
import type { Access } from '../access.ts';
import type { AccessBook } from '../access-book.ts';
import type { Datastores } from '../datastores.ts';
import type { JobsBook } from '../jobs-book.ts';
import type { RestReply } from '../reply.ts';
import type { Stores } from '../stores.ts';
import type { UsageHistory } from '../usage-history.ts';

/** What every call of the REST API works with. `body`: only of calls whose body is raw. */
export type RestContext = {
  caller: string;
  body: Uint8Array;
  node: string;
  stores: Stores;
  datastores: Datastores;
  access: Access;
  book: AccessBook;
  jobs: JobsBook;
  usage: Pick<UsageHistory, 'history'>;
  tasks: Tasks;
  functions: ByteFunctions;
  nowSeconds: () => number;
  toLocal: (atSeconds: number) => LocalTime;
};

/** Makes the routes of this server. */
export const route = createRouteMaker<RestContext, RestReply>();

export function data(value: unknown, attributes?: Record<string, unknown>): RestReply {
  return { kind: 'json', data: value, attributes };
}

/** Raises AppError missing. To be asked only after the permission was checked. */
export function storeOf({ stores }: Pick<RestContext, 'stores'>, name: string): Datastore {
  const store = stores.get(name);
  if (store === undefined) throw new AppError('missing', `datastore ${name} does not exist`);
  return store;
}

/** The path on which privileges for a namespace are asked. */
export function privilegePath(store: string, namespace: readonly string[]): string {
  return ['/datastore', store, ...namespace].join('/');
}

/** True when the caller has `anywhere` there, or `ifOwner` and the group is his. */
export function maySee(
  { access, caller }: RestContext,
  store: string,
  { group, owner }: Pick<GroupInfo, 'group' | 'owner'>,
  anywhere: readonly Privilege[],
  ifOwner: readonly Privilege[],
): boolean {
  const path = privilegePath(store, group.namespace);
  if (anywhere.some((privilege) => access.has(caller, path, privilege))) return true;
  return owner !== null && isOwnedBy(owner, caller) && ifOwner.some((privilege) => access.has(caller, path, privilege));
}

/** The namespace and those below it, down to `depth` levels; null: all. */
export async function namespacesBelow(store: Datastore, namespace: readonly string[], depth: number | null): Promise<string[][]> {
  const found: string[][] = [[...namespace]];
  const deepest = namespace.length + (depth ?? nameLimits.depth);
  for (let at = 0; at < found.length; at += 1) {
    const current = found[at] ?? [];
    if (current.length < deepest) found.push(...(await store.listNamespaces(current)));
  }
  return found;
}
