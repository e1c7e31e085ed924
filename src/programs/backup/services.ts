import { mkdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { openTasks } from '#adapters/tasks/task-files.ts';
import type { LocalTime } from '#core/backup/prune.ts';
import type { Tasks } from '#ports/tasks.ts';
import { createAccess, type Access, type AccessRules } from './access.ts';
import { AccessBook, readBookFile } from './access-book.ts';
import type { Datastores } from './datastores.ts';
import { JobsBook, readJobsFile } from './jobs-book.ts';
import type { Stores } from './stores.ts';
import { openStateFile } from './state-file.ts';
import { readUsageFile, startUsageHistory, type UsageHistory } from './usage-history.ts';

/** What the server keeps of its own, beside the datastores. */
export type Services = {
  node: string;
  stores: Stores;
  datastores: Datastores;
  access: Access;
  book: AccessBook;
  jobs: JobsBook;
  usage: UsageHistory;
  tasks: Tasks;
  nowSeconds: () => number;
  toLocal: (atSeconds: number) => LocalTime;
  close(): Promise<void>;
};

/** Opens what lies in `stateFolder`. `rules`: of the configuration file. `key`: signs tickets. */
export function openServices(parts: {
  node: string;
  stateFolder: string;
  datastores: Datastores;
  rules: AccessRules;
  key: Uint8Array;
}): Services {
  const { node, stateFolder, datastores } = parts;
  const { stores } = datastores;
  const nowSeconds = (): number => Date.now() / 1_000;
  mkdirSync(stateFolder, { recursive: true, mode: 0o750 });
  const rules = { accounts: [...parts.rules.accounts], acl: [...parts.rules.acl] };
  const book = new AccessBook(rules, openStateFile(join(stateFolder, 'access.json'), { accounts: [], acl: [] }, readBookFile));
  const jobs = new JobsBook(openStateFile(join(stateFolder, 'jobs.json'), { jobs: [], remotes: [] }, readJobsFile));
  const usage = startUsageHistory(stores, openStateFile(join(stateFolder, 'usage.json'), {}, readUsageFile), nowSeconds);
  const tasks = openTasks({
    folder: join(stateFolder, 'tasks'),
    node,
    process: { pid: process.pid, startTicks: readStartTicks() },
    nowMs: Date.now,
  });
  return {
    node,
    stores,
    datastores,
    book,
    jobs,
    usage,
    tasks,
    access: createAccess(book, parts.key, nowSeconds),
    nowSeconds,
    toLocal,
    async close() {
      usage.stop();
      await tasks.close();
    },
  };
}

/** When this process began, in the kernel's ticks: with the process id it names the process for good. */
function readStartTicks(): number {
  const stat = readFileSync('/proc/self/stat', 'utf8');
  return Number(stat.slice(stat.lastIndexOf(')') + 2).split(' ')[19]);
}

/** The time on this server's wall. */
export function toLocal(atSeconds: number): LocalTime {
  const date = new Date(atSeconds * 1_000);
  return { year: date.getFullYear(), month: date.getMonth() + 1, day: date.getDate(), hour: date.getHours() };
}
