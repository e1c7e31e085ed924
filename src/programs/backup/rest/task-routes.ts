import { AppError } from '#base/error.ts';
import { flag, integer, optional, parsed, text } from '#core/access/parameter.ts';
import { userOf } from '#core/backup/owner.ts';
import { storeParameter } from '#core/backup/rest-parameters.ts';
import { formatUpid, parseUpid } from '#core/task/upid.ts';
import type { TaskInfo } from '#ports/tasks.ts';
import { data, route, type RestContext } from './context.ts';

const taskPath = 'nodes/{node}/tasks/{upid}';
const seconds = integer(0, 253_402_300_799, 'seconds since 1970');
const node = text(64, 'this server, whatever it is called');
const upid = parsed(1_024, 'name of a task', (value, field) => formatUpid(parseUpid(value, field)));

/** Tasks: one sees his own and those of his tokens, with Sys.Audit on /system/tasks all. */
export const taskRoutes = [
  route({
    method: 'GET',
    path: 'nodes/{node}/tasks',
    what: 'lists tasks, newest first',
    permission: { kind: 'known' },
    parameters: {
      node,
      start: optional(integer(0, 1_000_000, 'how many to pass over')),
      limit: optional(integer(0, 10_000, 'how many at most; 0: all')),
      running: flag('only those that run'),
      errors: flag('only those that failed'),
      userfilter: optional(text(128, 'part of the name of who started it')),
      typefilter: optional(text(64, 'part of the type')),
      store: optional(storeParameter),
      since: optional(seconds),
      until: optional(seconds),
    },
    run(params, context) {
      const found = context.tasks.list().filter((task) => {
        if (!maySeeTask(context, task)) return false;
        if (params.running && task.end !== null) return false;
        if (params.errors && (task.end === null || task.end.status === 'OK')) return false;
        if (params.userfilter !== null && !task.who.includes(params.userfilter)) return false;
        if (params.typefilter !== null && !task.type.includes(params.typefilter)) return false;
        if (params.store !== null && task.id?.split(':')[0] !== params.store) return false;
        return task.startSeconds >= (params.since ?? 0) && task.startSeconds <= (params.until ?? Number.MAX_SAFE_INTEGER);
      });
      const first = params.start ?? 0;
      const count = params.limit === 0 ? found.length : (params.limit ?? 50);
      return Promise.resolve(data(found.slice(first, first + count).map(describeTask), { total: found.length }));
    },
  }),
  route({
    method: 'GET',
    path: `${taskPath}/status`,
    what: 'whether a task runs, and how it ended',
    permission: { kind: 'known' },
    parameters: { node, upid },
    run(params, context) {
      const task = findTask(context, params.upid);
      const [user, tokenid] = task.who.split('!');
      return Promise.resolve(
        data({
          upid: task.upid,
          node: task.node,
          pid: task.pid,
          pstart: task.processStart,
          starttime: task.startSeconds,
          type: task.type,
          ...(task.id === null ? {} : { id: task.id }),
          user,
          ...(tokenid === undefined ? {} : { tokenid }),
          ...(task.end === null ? { status: 'running' } : { status: 'stopped', exitstatus: task.end.status }),
        }),
      );
    },
  }),
  route({
    method: 'GET',
    path: `${taskPath}/log`,
    what: 'lines of the log of a task',
    permission: { kind: 'known' },
    parameters: {
      node,
      upid,
      start: optional(integer(0, 1_000_000, 'the first line, counted from 0')),
      limit: optional(integer(0, 50_000, 'how many lines; 0: all')),
      'test-status': flag('tell also whether it runs'),
    },
    async run(params, context) {
      const task = findTask(context, params.upid);
      const start = params.start ?? 0;
      const limit = params.limit === 0 ? 50_000 : (params.limit ?? 50);
      const { lines, total } = await context.tasks.readLog(task.upid, start, limit);
      const numbered = lines.map((line, at) => ({ n: start + at + 1, t: line }));
      return data(numbered, { total, ...(params['test-status'] ? { active: task.end === null } : {}) });
    },
  }),
  route({
    method: 'DELETE',
    path: taskPath,
    what: 'asks a task to end',
    permission: { kind: 'known' },
    parameters: { node, upid },
    run(params, context) {
      const task = findTask(context, params.upid);
      if (!isOwn(context, task) && !context.access.has(context.caller, '/system/tasks', 'Sys.Modify'))
        throw new AppError('denied', 'permission check failed');
      context.tasks.abort(task.upid);
      return Promise.resolve(data(null));
    },
  }),
];

/** What is not there and what one may not see are refused alike. */
function findTask(context: RestContext, wanted: string): TaskInfo {
  const task = context.tasks.list().find((candidate) => candidate.upid === wanted);
  if (task === undefined || !maySeeTask(context, task)) throw new AppError('missing', `task ${wanted} does not exist`);
  return task;
}

function maySeeTask(context: RestContext, task: TaskInfo): boolean {
  return isOwn(context, task) || context.access.has(context.caller, '/system/tasks', 'Sys.Audit');
}

function isOwn({ caller }: RestContext, { who }: TaskInfo): boolean {
  return who === caller || userOf(who) === caller;
}

function describeTask({ upid: name, node: at, pid, processStart, startSeconds, type, id, who, end }: TaskInfo): unknown {
  return {
    upid: name,
    node: at,
    pid,
    pstart: processStart,
    starttime: startSeconds,
    worker_type: type,
    worker_id: id,
    user: who,
    ...(end === null ? {} : { endtime: end.atSeconds, status: end.status }),
  };
}
