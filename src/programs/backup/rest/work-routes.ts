import { AppError } from '#base/error.ts';
import { flag, integer, optional } from '#core/access/parameter.ts';
import { formatSnapshotTime } from '#core/backup/names.ts';
import { keepsAnything, simulatePrune } from '#core/backup/prune.ts';
import {
  depthParameter,
  groupOf,
  groupParameters,
  keepParameters,
  keepRulesOf,
  namespaceParameter,
  scopeParameters,
  storeParameter,
} from '#core/backup/rest-parameters.ts';
import type { PruneResult } from '#ports/datastore.ts';
import { taskIdOf } from '../stores.ts';
import { data, maySee, route, storeOf } from './context.ts';
import { collect, pruneGroup, pruneScope, verifyScope } from './work.ts';

const base = 'admin/datastore/{store}';
const dryRun = flag('tell what would go, and remove nothing');

/** Prune, garbage collection and verification, by hand. */
export const workRoutes = [
  route({
    method: 'POST',
    path: `${base}/prune`,
    what: 'prunes a group by rules',
    permission: { kind: 'rights', on: '/datastore/{store}/{ns}', any: ['Datastore.Modify'], ifOwner: ['Datastore.Prune'] },
    parameters: { ...groupParameters, ...keepParameters, 'dry-run': dryRun, 'use-task': flag('as a task; returns its name') },
    async run(params, context) {
      const store = storeOf(context, params.store);
      const [group, rules] = [groupOf(params), keepRulesOf(params)];
      await store.readGroup(group);
      const head = { type: 'prune', id: taskIdOf(params.store, group), who: context.caller };
      if (params['use-task'])
        return data(context.tasks.start(head, (work) => pruneGroup({ ...work, store }, group, rules, params['dry-run'])));
      return data((await store.prune(group, rules, { dryRun: params['dry-run'] })).map(describeVerdict));
    },
  }),
  route({
    method: 'POST',
    path: `${base}/prune-datastore`,
    what: 'prunes all groups of a namespace and those below; with Datastore.Prune alone only his own',
    permission: { kind: 'rights', on: '/datastore/{store}/{ns}', any: ['Datastore.Modify', 'Datastore.Prune'] },
    parameters: {
      store: storeParameter,
      ns: namespaceParameter('where to begin'),
      'max-depth': depthParameter,
      ...keepParameters,
      'dry-run': dryRun,
    },
    run(params, context) {
      const store = storeOf(context, params.store);
      const rules = keepRulesOf(params);
      const scope = { namespace: params.ns, depth: params['max-depth'], type: null, id: null };
      const upid = context.tasks.start({ type: 'prune', id: params.store, who: context.caller }, (work) =>
        pruneScope({ ...work, store }, scope, rules, params['dry-run'], (group) =>
          maySee(context, params.store, group, ['Datastore.Modify'], ['Datastore.Prune']),
        ),
      );
      return Promise.resolve(data(upid));
    },
  }),
  route({
    method: 'GET',
    path: `${base}/prune-forecast`,
    what: 'which snapshots rules would leave after a time of backups at an interval, beginning with those that are there',
    permission: { kind: 'rights', on: '/datastore/{store}/{ns}', any: ['Datastore.Audit'], ifOwner: ['Datastore.Backup'] },
    parameters: {
      ...groupParameters,
      ...keepParameters,
      'interval-hours': integer(1, 24 * 366, 'a backup this often'),
      days: integer(1, 3_660, 'for so long'),
    },
    async run(params, context) {
      const store = storeOf(context, params.store);
      const { snapshots } = await store.readGroup(groupOf(params));
      const rules = keepRulesOf(params);
      if (!keepsAnything(rules))
        throw new AppError('invalid', 'keep-last: give at least one rule; without any, everything stays');
      const now = Math.floor(context.nowSeconds());
      const step = params['interval-hours'] * 3_600;
      const count = Math.floor((params.days * 86_400) / step);
      const coming = Array.from({ length: count }, (_, at) => now + (at + 1) * step);
      const { left, most } = simulatePrune(
        [...snapshots.map(({ snapshot }) => snapshot.atSeconds), ...coming],
        rules,
        context.toLocal,
      );
      return data({ most, left: left.map(({ atSeconds, rule }) => ({ 'backup-time': atSeconds, rule })) });
    },
  }),
  route({
    method: 'POST',
    path: `${base}/gc`,
    what: 'collects garbage',
    permission: { kind: 'rights', on: '/datastore/{store}', any: ['Datastore.Modify'] },
    parameters: { store: storeParameter },
    run(params, context) {
      const store = storeOf(context, params.store);
      const head = { type: 'garbage_collection', id: params.store, who: context.caller };
      return Promise.resolve(data(context.tasks.start(head, (work) => collect({ ...work, store }))));
    },
  }),
  route({
    method: 'GET',
    path: `${base}/gc`,
    what: 'figures of the last garbage collection, and whether one runs',
    permission: { kind: 'rights', on: '/datastore/{store}', any: ['Datastore.Audit'] },
    parameters: { store: storeParameter },
    async run(params, context) {
      const status = await storeOf(context, params.store).readGarbageStatus();
      const last = context.tasks.list().find(({ type, id }) => type === 'garbage_collection' && id === params.store);
      return data({
        store: params.store,
        ...status,
        ...(last === undefined ? {} : { 'last-run-upid': last.upid, 'last-run-state': last.end?.status ?? 'running' }),
        'last-run-endtime': last?.end?.atSeconds, // left out of JSON while there is none
      });
    },
  }),
  route({
    method: 'POST',
    path: `${base}/verify`,
    what: 'verifies snapshots; with Datastore.Backup alone only his own',
    permission: { kind: 'rights', on: '/datastore/{store}/{ns}', any: ['Datastore.Verify', 'Datastore.Backup'] },
    parameters: {
      ...scopeParameters,
      'backup-time': optional(integer(1, 253_402_300_799, 'time of one snapshot')),
      'ignore-verified': flag('pass over what was verified before'),
      'outdated-after': optional(integer(0, 36_500, 'days after which a verification counts no more')),
      'max-depth': depthParameter,
    },
    run(params, context) {
      const store = storeOf(context, params.store);
      const scope = { namespace: params.ns, depth: params['max-depth'], type: params['backup-type'], id: params['backup-id'] };
      const choice = {
        atSeconds: params['backup-time'],
        ignoreVerified: params['ignore-verified'],
        outdatedAfterDays: params['outdated-after'],
      };
      const type =
        params['backup-time'] === null ? (params['backup-id'] === null ? 'verify' : 'verify_group') : 'verify_snapshot';
      const upid = context.tasks.start({ type, id: params.store, who: context.caller }, (work) =>
        verifyScope({ ...work, store }, scope, choice, context.nowSeconds(), (group) =>
          maySee(context, params.store, group, ['Datastore.Verify'], ['Datastore.Backup']),
        ),
      );
      return Promise.resolve(data(upid));
    },
  }),
];

function describeVerdict({ snapshot, mark, rule, error }: PruneResult): Record<string, unknown> {
  return {
    'backup-type': snapshot.type,
    'backup-id': snapshot.id,
    'backup-time': snapshot.atSeconds,
    ...(snapshot.namespace.length === 0 ? {} : { ns: snapshot.namespace.join('/') }),
    time: formatSnapshotTime(snapshot.atSeconds),
    keep: mark !== 'remove',
    protected: mark === 'protected',
    mark,
    ...(rule === null ? {} : { rule }),
    ...(error === null ? {} : { error }),
  };
}
