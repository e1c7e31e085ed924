import { resolve } from 'node:path';
import { AppError } from '#base/error.ts';
import { choice, flag, integer, optional, parsed, text } from '#core/access/parameter.ts';
import { nameLimits, parseDatastoreName } from '#core/backup/names.ts';
import { storeParameter } from '#core/backup/rest-parameters.ts';
import { defaultReserveMib } from '../config.ts';
import type { DatastoreEntry } from '../datastores.ts';
import { data, route } from './context.ts';

const allocate = { kind: 'rights', on: '/datastore', any: ['Datastore.Allocate'] } as const;
const mebibyte = 1024 * 1024;
const folder = parsed(1_024, 'folder on the server, absolute', (value, field) => {
  if (!value.startsWith('/') || value === '/' || resolve(value) !== value || /[\0\n]/.test(value))
    throw new AppError('invalid', `${field}: not the absolute path of a folder, without . and ..`);
  return value;
});

/** Making datastores and giving them up. */
export const datastoreRoutes = [
  route({
    method: 'GET',
    path: 'config/datastore',
    what: 'lists datastores with their folders and settings',
    permission: { kind: 'rights', on: '/datastore', any: ['Datastore.Allocate', 'Datastore.Audit'] },
    parameters: {},
    run: (_, { datastores }) =>
      Promise.resolve(
        data(
          datastores.list().map(({ name, path, comment, sync, lockDays, reserveBytes, verifiesNew, touchesChunks, ...more }) => ({
            name,
            path,
            ...(comment === null ? {} : { comment }),
            sync,
            'lock-days': lockDays,
            'reserve-mib': reserveBytes / mebibyte,
            'verify-new': verifiesNew,
            'touch-chunks': touchesChunks,
            fixed: more.isFixed,
            ...(more.trouble === null ? {} : { maintenance: `offline: ${more.trouble}` }),
          })),
        ),
      ),
  }),
  route({
    method: 'POST',
    path: 'config/datastore',
    what: 'makes a datastore in a folder that is empty or not there; a task',
    permission: allocate,
    parameters: {
      name: parsed(nameLimits.componentChars, 'name', (value, field) => parseDatastoreName(value, field)),
      path: folder,
      comment: optional(text(256, 'a remark')),
      sync: optional(choice(['filesystem', 'file', 'none'] as const, 'what is on disk when a backup is acknowledged')),
      'lock-days': optional(integer(0, 36_500, 'nobody removes a new snapshot for so long')),
      'reserve-mib': optional(integer(0, 1_048_576, 'kept free so that prune and collection work on a full disk')),
      'verify-new': flag('verify each snapshot when it is finished'),
      'touch-chunks': flag('set access times at each collection, for a program that collects by them'),
      'reuse-datastore': flag('there is a datastore in the folder: serve it'),
    },
    run(params, { datastores, tasks, caller }) {
      const entry: DatastoreEntry = {
        name: params.name,
        path: params.path,
        comment: params.comment,
        sync: params.sync ?? 'filesystem',
        lockDays: params['lock-days'] ?? 0,
        reserveBytes: (params['reserve-mib'] ?? defaultReserveMib) * mebibyte,
        verifiesNew: params['verify-new'],
        touchesChunks: params['touch-chunks'],
      };
      datastores.check(entry);
      const upid = tasks.start({ type: 'create-datastore', id: entry.name, who: caller }, async ({ note }) => {
        note(params['reuse-datastore'] ? `opening ${entry.path}` : `making a datastore in ${entry.path}`);
        await datastores.add(entry, params['reuse-datastore']);
        note(`datastore ${entry.name} is served`);
      });
      return Promise.resolve(data(upid));
    },
  }),
  route({
    method: 'DELETE',
    path: 'config/datastore/{name}',
    what: 'no longer serves a datastore; its folder and all that is in it stay',
    permission: allocate,
    parameters: { name: storeParameter },
    async run({ name }, { datastores, jobs, tasks }) {
      const running = tasks.list().find(({ id, end }) => end === null && id?.split(':')[0] === name);
      if (running !== undefined) throw new AppError('busy', `${running.upid} works on datastore ${name}; end it first`);
      const job = jobs.jobs.find(({ store }) => store === name);
      if (job !== undefined)
        throw new AppError('conflict', `the ${job.kind} job ${job.id} is about datastore ${name}; remove it first`);
      await datastores.forget(name);
      return data(null);
    },
  }),
];
