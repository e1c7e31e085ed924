import { toWall } from '#adapters/clock/wall-clock.ts';
import { nextCalendarEvent, parseCalendarEvent } from '#core/text/calendar-event.ts';
import { formatErrorChain } from '#base/error.ts';
import type { TaskInfo } from '#ports/tasks.ts';
import type { Log } from '#programs/log.ts';
import type { Job } from './jobs-book.ts';
import { jobRules, startJob, type JobContext } from './rest/job-kinds.ts';

const lookEveryMs = 20_000;

/** When a job is due next, seconds since 1970: the first time of its schedule after it last began. null: never by itself. */
export function nextRun(job: Job, tasks: readonly TaskInfo[], nowSeconds: number): number | null {
  if (job.schedule === null || job.isDisabled) return null;
  const last = tasks.find((task) => isOf(job, task));
  const since = Math.max(job.createdSeconds, last?.startSeconds ?? 0);
  // A clock that was set back must not keep a job from running until it has caught up.
  return nextCalendarEvent(parseCalendarEvent(job.schedule), Math.min(since, nowSeconds), toWall);
}

/** Runs jobs by their schedules; one that was missed while the server was off runs once when it is back. */
export function startSchedule(context: JobContext, log: Log): { look(): void; stop(): void } {
  const look = (): void => {
    const tasks = context.tasks.list();
    const now = context.nowSeconds();
    for (const job of context.jobs.jobs) {
      const next = nextRun(job, tasks, now);
      const isRunning = tasks.some((task) => task.end === null && isOf(job, task));
      if (next === null || next > now || isRunning) continue;
      try {
        const upid = startJob(job, context);
        log.info({ event: 'job.started', job: `${job.kind}/${job.id}`, task: upid }, 'a job began by its schedule');
      } catch (err) {
        log.error({ event: 'job.refused', job: `${job.kind}/${job.id}`, err: formatErrorChain(err) }, 'a job could not begin');
      }
    }
  };
  const timer = setInterval(look, lookEveryMs);
  timer.unref();
  return { look, stop: () => clearInterval(timer) };
}

function isOf(job: Job, { type, id }: TaskInfo): boolean {
  return type === jobRules[job.kind].task && id === `${job.store}:${job.id}`;
}
