import { AppError } from '#base/error.ts';
import { readParameters } from '#core/access/parameter.ts';
import { decidePermission } from '#core/access/permission.ts';
import { describeRoutes, findRoute, type RouteDescription } from '#core/access/route.ts';
import { blobLimits } from '#core/backup/blob.ts';
import type { GroupId } from '#core/backup/names.ts';
import { isOwnedBy } from '#core/backup/owner.ts';
import type { RestReply } from './reply.ts';
import { accessRoutes } from './rest/access-routes.ts';
import { contentRoutes } from './rest/content-routes.ts';
import { type RestContext } from './rest/context.ts';
import { datastoreRoutes } from './rest/datastore-routes.ts';
import { jobRoutes } from './rest/job-routes.ts';
import { snapshotRoutes } from './rest/snapshot-routes.ts';
import { storeRoutes } from './rest/store-routes.ts';
import { taskRoutes } from './rest/task-routes.ts';
import { workRoutes } from './rest/work-routes.ts';

const routes = [
  ...storeRoutes,
  ...datastoreRoutes,
  ...snapshotRoutes,
  ...contentRoutes,
  ...workRoutes,
  ...taskRoutes,
  ...accessRoutes,
  ...jobRoutes,
];

/** The largest body a call may have. */
export const restBodyBytes = { parameters: 512 * 1024, raw: blobLimits.chunkBytes + blobLimits.headerBytes } as const;

/** What is known of a request before its body is read. `path`: without `api2/json`. */
export type RestHead = { method: string; path: readonly string[] };
export type FoundRoute = NonNullable<ReturnType<typeof findRoute<RestContext, RestReply>>>;

/** null: there is no such call. */
export function findRest({ method, path }: RestHead): FoundRoute | null {
  return findRoute(routes, method, path);
}

/** The whole API, from the tables that it runs by. */
export function describeRest(): RouteDescription[] {
  return describeRoutes(routes);
}

/**
 * Answers a call: reads its parameters by the route's table, checks the permission, and only then looks at anything. Raises AppError.
 */
export async function answerRest(
  { route, values }: FoundRoute,
  given: Readonly<Record<string, unknown>>,
  context: RestContext,
): Promise<RestReply> {
  const params = readParameters(route.parameters, { ...given, ...values });
  const { access, caller } = context;
  const verdict = decidePermission(route.permission, params, (path, privilege) => access.has(caller, path, privilege));
  if (verdict === 'denied' || (verdict === 'if-owner' && !(await isOwner(params, context))))
    throw new AppError('denied', 'permission check failed');
  return route.run(params, context);
}

/** What is not there is nobody's: who may only see his own learns no difference. */
async function isOwner(params: Readonly<Record<string, unknown>>, { stores, caller }: RestContext): Promise<boolean> {
  const group = { namespace: params['ns'], type: params['backup-type'], id: params['backup-id'] } as GroupId;
  try {
    const { owner } = (await stores.get(String(params['store']))?.readGroup(group)) ?? { owner: null };
    return owner !== null && isOwnedBy(owner, caller);
  } catch (error) {
    if (error instanceof AppError && error.kind === 'missing') return false;
    throw error;
  }
}
