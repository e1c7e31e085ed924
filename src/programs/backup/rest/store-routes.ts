import { flag, parsed } from '#core/access/parameter.ts';
import { nameLimits, parseNamespace } from '#core/backup/names.ts';
import { depthParameter, namespaceParameter, storeParameter } from '#core/backup/rest-parameters.ts';
import { data, namespacesBelow, privilegePath, route, storeOf, type RestContext } from './context.ts';

const base = 'admin/datastore/{store}';

/** The server, its datastores and their namespaces. */
export const storeRoutes = [
  route({
    method: 'GET',
    path: 'ping',
    what: 'answers, also to those who have not logged in',
    permission: { kind: 'anybody' },
    parameters: {},
    run: () => Promise.resolve(data({ pong: true })),
  }),
  route({
    method: 'GET',
    path: 'version',
    what: 'the version whose behaviour this server has',
    permission: { kind: 'known' },
    parameters: {},
    run: () => Promise.resolve(data({ version: '3.2', release: '4', repoid: 'holdfast' })),
  }),
  route({
    method: 'GET',
    path: 'admin/datastore',
    what: 'lists the datastores in which one may see something',
    permission: { kind: 'known' },
    parameters: {},
    run(_, context) {
      const known = new Map(context.datastores.list().map((entry) => [entry.name, entry]));
      const listed = visibleStores(context).map((store) => {
        const comment = known.get(store)?.comment ?? null;
        return { store, ...(comment === null ? {} : { comment }) };
      });
      return Promise.resolve(data(listed));
    },
  }),
  route({
    method: 'GET',
    path: 'status/datastore-usage',
    what: 'space of all visible datastores, and when each will be full if it goes on filling as it did',
    permission: { kind: 'known' },
    parameters: {},
    async run(_, context) {
      const found: unknown[] = [];
      for (const store of visibleStores(context)) {
        const usage = await readUsage(context, store);
        const history = context.usage.history(store);
        const collected = await storeOf(context, store).readGarbageStatus();
        found.push({ store, ...usage, ...history, ...(collected === null ? {} : { 'gc-status': collected }) });
      }
      return data(found);
    },
  }),
  route({
    method: 'GET',
    path: `${base}/status`,
    what: 'space of a datastore; with `verbose` also counts and the last garbage collection',
    permission: { kind: 'rights', on: '/datastore/{store}', any: ['Datastore.Audit', 'Datastore.Backup'] },
    parameters: { store: storeParameter, verbose: flag('counts too') },
    async run({ store, verbose }, context) {
      const usage = await readUsage(context, store);
      if (!verbose) return data(usage);
      const collected = await storeOf(context, store).readGarbageStatus();
      return data({
        ...usage,
        counts: await countGroups(context, store),
        ...(collected === null ? {} : { 'gc-status': collected }),
      });
    },
  }),
  route({
    method: 'GET',
    path: `${base}/namespace`,
    what: 'lists the namespaces in or above which one may see something',
    permission: { kind: 'known' },
    parameters: { store: storeParameter, parent: namespaceParameter('where to begin'), 'max-depth': depthParameter },
    async run(params, context) {
      // Whoever may see nothing below learns nothing, not even whether it is there.
      if (!maySeeBelow(context, params.store, params.parent)) return data([]);
      const found = await namespacesBelow(storeOf(context, params.store), params.parent, params['max-depth']);
      const visible = found.filter((ns) => maySeeBelow(context, params.store, ns));
      return data(visible.map((ns) => ({ ns: ns.join('/') })));
    },
  }),
  route({
    method: 'POST',
    path: `${base}/namespace`,
    what: 'makes a namespace',
    permission: { kind: 'rights', on: '/datastore/{store}/{parent}', any: ['Datastore.Modify'] },
    parameters: {
      store: storeParameter,
      parent: namespaceParameter('where'),
      name: parsed(nameLimits.componentChars, 'its last level', (value, field) => parseNamespace(value, field)),
    },
    async run({ store, parent, name }, context) {
      const namespace = parseNamespace([...parent, ...name].join('/'), 'name');
      await storeOf(context, store).createNamespace(namespace);
      return data(namespace.join('/'));
    },
  }),
  route({
    method: 'DELETE',
    path: `${base}/namespace`,
    what: 'removes an empty namespace, or one with all that is in it and not protected, locked or in use',
    permission: { kind: 'rights', on: '/datastore/{store}/{ns:parent}', any: ['Datastore.Modify'] },
    parameters: { store: storeParameter, ns: namespaceParameter('which'), 'delete-groups': flag('with its groups') },
    async run(params, context) {
      await storeOf(context, params.store).removeNamespace(params.ns, { withGroups: params['delete-groups'] });
      return data(null);
    },
  }),
];

function visibleStores(context: RestContext): string[] {
  return [...context.stores.keys()].filter((store) => maySeeBelow(context, store, []));
}

function maySeeBelow({ access, caller }: RestContext, store: string, namespace: readonly string[]): boolean {
  const path = privilegePath(store, namespace);
  return (['Datastore.Audit', 'Datastore.Backup', 'Datastore.Read'] as const).some((privilege) =>
    access.hasBelow(caller, path, privilege),
  );
}

async function readUsage(context: RestContext, store: string): Promise<{ total: number; used: number; avail: number }> {
  const { totalBytes, availableBytes } = await storeOf(context, store).readUsage();
  return { total: totalBytes, used: totalBytes - availableBytes, avail: availableBytes };
}

async function countGroups(context: RestContext, name: string): Promise<Record<string, { groups: number; snapshots: number }>> {
  const store = storeOf(context, name);
  const counts: Record<string, { groups: number; snapshots: number }> = {};
  for (const ns of await namespacesBelow(store, [], null)) {
    for (const { group, snapshots } of await store.listGroups(ns)) {
      const count = (counts[group.type] ??= { groups: 0, snapshots: 0 });
      count.groups += 1;
      count.snapshots += snapshots.length;
    }
  }
  return counts;
}
