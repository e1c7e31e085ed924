import {
  choice,
  flag,
  integer,
  list,
  optional,
  parsed,
  readParameters,
  text,
  type ParametersOf,
  type ParameterTable,
} from '#core/access/parameter.ts';
import type { Privilege } from '#core/access/acl.ts';
import { parseGroupFilter } from '#core/backup/group-filter.ts';
import { parseDatastoreName } from '#core/backup/names.ts';
import {
  authIdParameter,
  depthParameter,
  keepParameters,
  keepRulesOf,
  namespaceParameter,
} from '#core/backup/rest-parameters.ts';
import { sync, type SyncChoice } from '../sync/sync.ts';
import type { Job, JobKind } from '../jobs-book.ts';
import { storeOf, type RestContext } from './context.ts';
import { collect, pruneScope, scrub, verifyScope, type Work } from './work.ts';

/** A kind of job: its options, who may have one, and what it does. `task`: the type of its tasks. */
export type JobRule = {
  kind: JobKind;
  task: string;
  what: string;
  privilege: Privilege;
  options: ParameterTable;
  run: (work: Work, options: Readonly<Record<string, unknown>>, context: JobContext) => Promise<void>;
};
export type JobContext = Pick<RestContext, 'stores' | 'tasks' | 'functions' | 'nowSeconds' | 'jobs'>;

/** Jobs act for the superuser: what they may do was decided when they were made. */
const jobOwner = 'root@pam';
const scope = { ns: namespaceParameter('where to begin'), 'max-depth': depthParameter };
const everything = () => true;

export const remoteName = parsed(32, 'name of the other server', parseDatastoreName);
export const syncOptions = {
  remote: remoteName,
  'remote-store': parsed(32, 'datastore there', parseDatastoreName),
  'remote-ns': namespaceParameter('namespace there'),
  ns: namespaceParameter('namespace here'),
  'sync-direction': optional(
    choice<'pull' | 'push'>(['pull', 'push'], 'from there to here, or from here to there; pull if missing'),
  ),
  owner: optional(authIdParameter),
  'max-depth': depthParameter,
  'group-filter': list(
    parsed(
      256,
      'all, type:, group: or regex:, after exclude: what is left out',
      (value, field) => (parseGroupFilter(value, field), value),
    ),
    100,
    'which groups',
  ),
  'transfer-last': optional(integer(1, 100_000, 'of each group at most so many of the newest')),
  'remove-vanished': flag('of a pull: what is gone there goes here'),
};

function rule<Table extends ParameterTable>(
  parts: Omit<JobRule, 'options' | 'run'> & {
    options: Table;
    run: (work: Work, options: ParametersOf<Table>, context: JobContext) => Promise<void>;
  },
): JobRule {
  return { ...parts, run: parts.run as unknown as JobRule['run'] };
}

export const jobRules: Readonly<Record<JobKind, JobRule>> = {
  prune: rule({
    kind: 'prune',
    task: 'prunejob',
    what: 'prunes all groups by rules',
    privilege: 'Datastore.Modify',
    options: { ...scope, ...keepParameters },
    run: (work, options) =>
      pruneScope(
        work,
        { namespace: options.ns, depth: options['max-depth'], type: null, id: null },
        keepRulesOf(options),
        false,
        everything,
      ),
  }),
  verify: rule({
    kind: 'verify',
    task: 'verificationjob',
    what: 'verifies snapshots',
    privilege: 'Datastore.Verify',
    options: {
      ...scope,
      'ignore-verified': optional(flag('pass over what was verified before; on if missing')),
      'outdated-after': optional(integer(0, 36_500, 'days after which a verification counts no more')),
    },
    run(work, options, { nowSeconds }) {
      const choices = {
        atSeconds: null,
        ignoreVerified: options['ignore-verified'] ?? true,
        outdatedAfterDays: options['outdated-after'],
      };
      return verifyScope(
        work,
        { namespace: options.ns, depth: options['max-depth'], type: null, id: null },
        choices,
        nowSeconds(),
        everything,
      );
    },
  }),
  scrub: rule({
    kind: 'scrub',
    task: 'scrubjob',
    what: 'reads the chunks longest not looked at, as many as its budget allows',
    privilege: 'Datastore.Verify',
    options: {
      'budget-mib': integer(1, 1_073_741_824, 'how much is read in one run'),
      'older-than-days': optional(integer(0, 36_500, 'chunks looked at since are left; 30 if missing')),
    },
    run(work, options, { nowSeconds }) {
      const olderThan = Math.floor(nowSeconds()) - (options['older-than-days'] ?? 30) * 86_400;
      return scrub(work, { bytes: options['budget-mib'] * 1024 * 1024, olderThan });
    },
  }),
  gc: rule({
    kind: 'gc',
    task: 'garbage_collection',
    what: 'collects garbage',
    privilege: 'Datastore.Modify',
    options: {},
    run: (work) => collect(work),
  }),
  sync: rule({
    kind: 'sync',
    task: 'syncjob',
    what: 'keeps groups here and at another server in step',
    privilege: 'Datastore.Modify',
    options: syncOptions,
    run: (work, options, context) => runSync(work, options, context),
  }),
};

/** A sync by its options. */
export function runSync(
  work: Work,
  options: ParametersOf<typeof syncOptions>,
  { jobs, functions }: Pick<JobContext, 'jobs' | 'functions'>,
): Promise<void> {
  const choices: SyncChoice = {
    direction: options['sync-direction'] ?? 'pull',
    namespace: options.ns,
    remoteStore: options['remote-store'],
    remoteNamespace: options['remote-ns'],
    owner: options.owner ?? jobOwner,
    depth: options['max-depth'],
    filters: options['group-filter'].map((filter) => parseGroupFilter(filter)),
    transferLast: options['transfer-last'],
    removeVanished: options['remove-vanished'],
  };
  return sync(work, jobs.findRemote(options.remote), choices, functions);
}

/** Starts a job now; returns the name of its task. */
export function startJob(job: Job, context: JobContext): string {
  const { task, options, run } = jobRules[job.kind];
  const values = readParameters(options, job.options);
  const store = storeOf(context, job.store);
  const head = { type: task, id: `${job.store}:${job.id}`, who: jobOwner };
  return context.tasks.start(head, (work) => run({ ...work, store }, values, context));
}

/** Parameters that all jobs have. */
export const jobParameters = {
  store: parsed(32, 'datastore', parseDatastoreName),
  schedule: optional(text(128, 'calendar event, such as "mon..fri 02:30"; by hand if missing')),
  disable: flag('do not run by the schedule'),
  comment: optional(text(256, 'a remark')),
};
