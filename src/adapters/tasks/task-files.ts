import { closeSync, mkdirSync, openSync, readdirSync, readFileSync, rmSync, writeSync, appendFileSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { AppError, formatErrorChain } from '#base/error.ts';
import { formatUpid, parseUpid, type Upid } from '#core/task/upid.ts';
import type { TaskInfo, TaskNote, Tasks } from '#ports/tasks.ts';

const taskLimits = {
  /** Logs that are kept; the oldest go first. */
  logs: 2_000,
  /** Lines of one log; what comes after them is left out but for the end. */
  lines: 50_000,
  lineChars: 2_000,
} as const;

type Running = { abort: AbortController; done: Promise<void> };
type Task = { info: TaskInfo; file: string; running: Running | null };

/**
 * Tasks whose logs are files in `folder`: the first line is the task's name, the last one how it ended. A log without an end was cut off
 * when its process ended, and is given one here.
 */
export function openTasks(parts: {
  folder: string;
  node: string;
  process: { pid: number; startTicks: number };
  nowMs: () => number;
}): Tasks {
  const { folder, nowMs } = parts;
  mkdirSync(folder, { recursive: true, mode: 0o750 });
  const tasks = readLogs(folder, nowMs);
  let lastNumber = 0;

  function find(upid: string): Task {
    const task = tasks.get(upid);
    if (task === undefined) throw new AppError('missing', `task ${upid.slice(0, 200)} does not exist`);
    return task;
  }

  function dropOldest(): void {
    for (const [upid, { file, running }] of tasks) {
      if (tasks.size <= taskLimits.logs) return;
      if (running !== null) continue;
      rmSync(file, { force: true });
      tasks.delete(upid);
    }
  }

  return {
    start({ type, id, who }, run) {
      lastNumber += 1;
      const startSeconds = Math.floor(nowMs() / 1_000);
      const head: Upid = {
        node: parts.node,
        pid: parts.process.pid,
        processStart: parts.process.startTicks,
        number: lastNumber,
        startSeconds,
        type,
        id,
        who,
      };
      const upid = formatUpid(head);
      const file = join(folder, `${nameOf(head)}.log`);
      const log = openLog(file, upid, nowMs);
      const abort = new AbortController();
      const task: Task = { info: infoOf(upid, head), file, running: null };
      const job = async (): Promise<void> => {
        let failure: unknown = null;
        try {
          await run({ upid, note: log.note, warn: log.warn, signal: abort.signal });
        } catch (error) {
          failure = error ?? new Error('it failed without a word');
        }
        const status = log.end(failure === null ? null : abort.signal.aborted ? 'aborted' : formatErrorChain(failure));
        task.info = { ...task.info, end: { atSeconds: Math.floor(nowMs() / 1_000), status } };
        task.running = null;
      };
      tasks.set(upid, task);
      task.running = { abort, done: job() };
      dropOldest();
      return upid;
    },
    list: () => [...tasks.values()].map(({ info }) => info).toReversed(),
    read: (upid) => find(upid).info,
    async readLog(upid, start, limit) {
      const lines = (await readFile(find(upid).file, 'utf8')).split('\n').slice(1, -1);
      return { lines: lines.slice(start, start + limit), total: lines.length };
    },
    abort: (upid) => find(upid).running?.abort.abort(new AppError('conflict', 'aborted on request')),
    async wait(upid) {
      await find(upid).running?.done;
      return find(upid).info;
    },
    async close() {
      const running = [...tasks.values()].flatMap((task) => (task.running === null ? [] : [task.running]));
      for (const { abort } of running) abort.abort(new AppError('conflict', 'the server ends'));
      await Promise.all(running.map(({ done }) => done));
    },
  };
}

/** A disk that is full costs lines of a log, never the task. */
function openLog(
  file: string,
  upid: string,
  nowMs: () => number,
): { note: TaskNote; warn: TaskNote; end(error: string | null): string } {
  let fd: number | null = null;
  let lines = 0;
  let warnings = 0;
  const put = (text: string): void => {
    try {
      fd ??= openSync(file, 'a', 0o640);
      writeSync(fd, `${text.replaceAll(/[\r\n]+/g, ' ').slice(0, taskLimits.lineChars)}\n`);
    } catch {
      lines = taskLimits.lines;
    }
  };
  const say = (text: string): void => {
    lines += 1;
    if (lines <= taskLimits.lines) put(`${new Date(nowMs()).toISOString()}: ${text}`);
  };
  put(upid);
  return {
    note: say,
    warn(text) {
      warnings += 1;
      say(`warning: ${text}`);
    },
    end(error) {
      const status = error ?? (warnings > 0 ? `WARNINGS: ${warnings}` : 'OK');
      put(endLine(nowMs(), error === null ? status : `ERROR: ${error}`));
      if (fd !== null) closeSync(fd);
      return status;
    },
  };
}

function endLine(atMs: number, words: string): string {
  return `${new Date(atMs).toISOString()}: TASK ${words}`;
}

/** Oldest first, as they are listed by their names. */
function readLogs(folder: string, nowMs: () => number): Map<string, Task> {
  const tasks = new Map<string, Task>();
  for (const name of readdirSync(folder).toSorted()) {
    if (!name.endsWith('.log')) continue;
    const file = join(folder, name);
    const lines = readFileSync(file, 'utf8').split('\n');
    let head: Upid;
    try {
      head = parseUpid(lines[0]);
    } catch {
      rmSync(file); // torn at its birth: it tells nothing
      continue;
    }
    const upid = lines[0] ?? '';
    const found = readEnd(lines.findLast((line) => line !== '') ?? '');
    if (found === null) appendFileSync(file, `${endLine(nowMs(), `ERROR: ${cutOff}`)}\n`);
    const end = found ?? { atSeconds: Math.floor(nowMs() / 1_000), status: cutOff };
    tasks.set(upid, { info: { ...infoOf(upid, head), end }, file, running: null });
  }
  return tasks;
}

const cutOff = 'the server ended while it ran';

function readEnd(line: string): { atSeconds: number; status: string } | null {
  const parts = /^(\S+Z): TASK (?:ERROR: )?(.*)$/.exec(line);
  return parts === null ? null : { atSeconds: Math.floor(Date.parse(parts[1] ?? '') / 1_000), status: parts[2] ?? '' };
}

function infoOf(upid: string, { node, pid, processStart, startSeconds, type, id, who }: Upid): TaskInfo {
  return { upid, node, pid, processStart, startSeconds, type, id, who, end: null };
}

/** Sorts by time; the id, which may be long, stays inside the file. */
function nameOf({ startSeconds, pid, processStart, number }: Upid): string {
  return [startSeconds, pid, processStart, number].map((value) => value.toString(16).padStart(10, '0')).join('-');
}
