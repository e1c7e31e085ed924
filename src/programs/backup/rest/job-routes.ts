import { AppError } from '#base/error.ts';
import {
  integer,
  list,
  optional,
  parsed,
  readParameters,
  text,
  type Parameter,
  type ParameterTable,
} from '#core/access/parameter.ts';
import type { Route } from '#core/access/route.ts';
import { parseCalendarEvent } from '#core/text/calendar-event.ts';
import { parseFingerprint } from '#core/backup/crypt-key.ts';
import { defaultBackupPort } from '#core/backup/repository.ts';
import { authIdParameter, storeParameter } from '#core/backup/rest-parameters.ts';
import type { Job, JobKind } from '../jobs-book.ts';
import type { RestReply } from '../reply.ts';
import { nextRun } from '../schedule.ts';
import { data, privilegePath, route, storeOf, type RestContext } from './context.ts';
import { jobParameters, jobRules, remoteName, runSync, startJob, syncOptions } from './job-kinds.ts';

const known = { kind: 'known' } as const;
const jobId = parsed(32, 'name of the job', (value, field) => {
  if (!/^[A-Za-z0-9_][A-Za-z0-9._-]*$/.test(value))
    throw new AppError('invalid', `${field}: letters, digits and . _ - make a name`);
  return value;
});

/** The calls of one kind of job. */
function routesOf(kind: JobKind): Route<RestContext, RestReply>[] {
  const { options, privilege, what } = jobRules[kind];
  const rights = { kind: 'rights', on: '/datastore/{store}', any: [privilege] } as const;
  const table: ParameterTable = { id: jobId, ...jobParameters, ...options };
  const changeTable: ParameterTable = {
    ...Object.fromEntries(
      Object.entries<Parameter<unknown>>({ ...jobParameters, ...options }).map(([name, each]) => [name, optional(each)]),
    ),
    id: jobId,
    delete: list(text(64, 'name of an option'), 32, 'options to be taken away'),
  };
  return [
    route({
      method: 'GET',
      path: `config/${kind}`,
      what: `lists jobs: ${what}`,
      permission: known,
      parameters: { store: optional(storeParameter) },
      run: (params, context) =>
        Promise.resolve(
          data(
            context.jobs.jobs
              .filter((job) => job.kind === kind && (params.store ?? job.store) === job.store && maySee(context, job))
              .map((job) => describeJob(job, context)),
          ),
        ),
    }),
    route({
      method: 'POST',
      path: `config/${kind}`,
      what: `makes a job: ${what}`,
      permission: rights,
      parameters: table,
      run(params, context) {
        context.jobs.add(readJob(kind, params, context));
        return Promise.resolve(data(null));
      },
    }),
    route({
      method: 'GET',
      path: `config/${kind}/{id}`,
      what: 'one job',
      permission: known,
      parameters: { id: jobId },
      run: ({ id }, context) => Promise.resolve(data(describeJob(findJob(context, kind, id), context))),
    }),
    route({
      method: 'PUT',
      path: `config/${kind}/{id}`,
      what: 'changes a job; what is not given stays',
      permission: known,
      parameters: changeTable,
      run(params, context) {
        const old = findJob(context, kind, String(params['id'])); // he must have the right to it, and to where it goes
        const job = readJob(kind, readParameters(table, changedJob(old, params, table)), context);
        if (!maySee(context, job)) throw new AppError('denied', 'permission check failed');
        context.jobs.replace(job);
        return Promise.resolve(data(null));
      },
    }),
    route({
      method: 'DELETE',
      path: `config/${kind}/{id}`,
      what: 'removes a job',
      permission: known,
      parameters: { id: jobId },
      run({ id }, context) {
        context.jobs.remove(kind, findJob(context, kind, id).id);
        return Promise.resolve(data(null));
      },
    }),
    route({
      method: 'POST',
      path: `admin/${kind}/{id}/run`,
      what: 'runs a job now',
      permission: known,
      parameters: { id: jobId },
      run: ({ id }, context) => Promise.resolve(data(startJob(findJob(context, kind, id), context))),
    }),
  ];
}

/** Jobs, remotes, and a sync by hand. */
export const jobRoutes = [
  ...(Object.keys(jobRules) as JobKind[]).flatMap(routesOf),
  route({
    method: 'GET',
    path: 'config/remote',
    what: 'lists other servers; never their secrets',
    permission: known,
    parameters: {},
    run: (_, context) =>
      Promise.resolve(
        data(
          context.jobs.remotes
            .filter(({ name }) => context.access.has(context.caller, `/remote/${name}`, 'Remote.Audit'))
            .map(({ name, host, port, authId, fingerprint, comment }) => ({
              name,
              host,
              port,
              'auth-id': authId,
              ...(fingerprint === null ? {} : { fingerprint }),
              ...(comment === null ? {} : { comment }),
            })),
        ),
      ),
  }),
  route({
    method: 'POST',
    path: 'config/remote',
    what: 'adds another server, or replaces what is known of it',
    permission: { kind: 'rights', on: '/remote/{name}', any: ['Remote.Modify'] },
    parameters: {
      name: remoteName,
      host: parsed(255, 'address or name', (value, field) => {
        if (!/^[A-Za-z0-9.:-]+$/.test(value)) throw new AppError('invalid', `${field}: this is no address`);
        return value;
      }),
      port: optional(integer(1, 65_535, 'port')),
      'auth-id': authIdParameter,
      password: text(1_024, 'its password, or the secret of the token'),
      fingerprint: optional(parsed(128, 'SHA-256 of its certificate', (value, field) => (parseFingerprint(value, field), value))),
      comment: optional(text(256, 'a remark')),
    },
    run(params, context) {
      const { name, host, fingerprint, comment } = params;
      const login = { authId: params['auth-id'], secret: params.password };
      context.jobs.putRemote({ name, host, port: params.port ?? defaultBackupPort, ...login, fingerprint, comment });
      return Promise.resolve(data(null));
    },
  }),
  route({
    method: 'DELETE',
    path: 'config/remote/{name}',
    what: 'forgets another server',
    permission: { kind: 'rights', on: '/remote/{name}', any: ['Remote.Modify'] },
    parameters: { name: remoteName },
    run({ name }, context) {
      context.jobs.removeRemote(name);
      return Promise.resolve(data(null));
    },
  }),
  ...(['pull', 'push'] as const).map((direction) =>
    route({
      method: 'POST',
      path: direction,
      what: direction === 'pull' ? 'brings groups of another server here' : 'sends groups to another server',
      permission: { kind: 'rights', on: '/datastore/{store}/{ns}', any: ['Datastore.Modify'] },
      parameters: { store: storeParameter, ...syncOptions },
      run(params, context) {
        requireRemote(context, params.remote, params['remote-store']);
        const store = storeOf(context, params.store);
        context.jobs.findRemote(params.remote);
        const head = {
          type: direction === 'pull' ? 'sync' : 'syncpush',
          id: `${params.store}:${params.remote}`,
          who: context.caller,
        };
        const options = { ...params, 'sync-direction': direction };
        return Promise.resolve(data(context.tasks.start(head, (work) => runSync({ ...work, store }, options, context))));
      },
    }),
  ),
];

function readJob(kind: JobKind, params: Readonly<Record<string, unknown>>, context: RestContext): Job {
  const { store, schedule, comment } = params as { store: string; schedule: string | null; comment: string | null };
  storeOf(context, store);
  if (schedule !== null) parseCalendarEvent(schedule);
  const given = Object.keys(jobRules[kind].options).map((name) => [name, plain(name, params[name])] as const);
  const options = Object.fromEntries(given.filter(([, value]) => value !== null && value !== ''));
  if (kind === 'sync') {
    requireRemote(context, String(options['remote']), String(options['remote-store']));
    context.jobs.findRemote(String(options['remote']));
  }
  const isDisabled = params['disable'] === true;
  return {
    kind,
    id: String(params['id']),
    store,
    schedule,
    isDisabled,
    comment,
    createdSeconds: Math.floor(context.nowSeconds()),
    options,
  };
}

/** The job's parameters after a change, as a call that made it would give them. */
function changedJob(old: Job, params: Readonly<Record<string, unknown>>, table: ParameterTable): Record<string, unknown> {
  const before: Record<string, unknown> = {
    ...old.options,
    store: old.store,
    schedule: old.schedule,
    comment: old.comment,
    disable: old.isDisabled,
  };
  for (const name of params['delete'] as string[]) {
    if (table[name]?.isOptional !== true) throw new AppError('invalid', `delete: ${name} is nothing that can be taken away`);
    delete before[name];
  }
  const given = Object.entries(params).filter(([name, value]) => name !== 'delete' && value !== null);
  return { ...before, ...Object.fromEntries(given.map(([name, value]) => [name, plain(name, value)])) };
}

/** As it was given: namespaces are text again. */
function plain(name: string, value: unknown): unknown {
  return Array.isArray(value) && (name === 'ns' || name === 'remote-ns') ? value.join('/') : value;
}

function findJob(context: RestContext, kind: JobKind, id: string): Job {
  const job = context.jobs.jobs.find((candidate) => candidate.kind === kind && candidate.id === id);
  if (job === undefined || !maySee(context, job)) throw new AppError('missing', `${kind} job ${id} does not exist`);
  return job;
}

function maySee({ access, caller }: RestContext, { kind, store }: Job): boolean {
  return access.has(caller, privilegePath(store, []), jobRules[kind].privilege);
}

function requireRemote({ access, caller }: RestContext, remote: string, store: string): void {
  if (!access.has(caller, `/remote/${remote}/${store}`, 'Remote.Read')) throw new AppError('denied', 'permission check failed');
}

function describeJob(job: Job, context: RestContext): Record<string, unknown> {
  const { id, store, schedule, isDisabled, comment, options } = job;
  const last = context.tasks.list().find((task) => task.type === jobRules[job.kind].task && task.id === `${store}:${id}`);
  const next = nextRun(job, context.tasks.list(), context.nowSeconds());
  return {
    id,
    store,
    ...(schedule === null ? {} : { schedule }),
    ...(isDisabled ? { disable: true } : {}),
    ...(comment === null ? {} : { comment }),
    ...options,
    ...(next === null ? {} : { 'next-run': next }),
    ...(last === undefined ? {} : { 'last-run-upid': last.upid, 'last-run-state': last.end?.status ?? 'running' }),
  };
}
