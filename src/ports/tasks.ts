/** One line of a task's log. */
export type TaskNote = (text: string) => void;

/** `end` null: it runs. `status`: `OK`, `WARNINGS: n`, or why it failed. */
export type TaskInfo = {
  upid: string;
  node: string;
  pid: number;
  processStart: number;
  startSeconds: number;
  type: string;
  id: string | null;
  who: string;
  end: { atSeconds: number; status: string } | null;
};

/** Work that people may watch and abort, each with a log that outlives it. */
export interface Tasks {
  /**
   * Starts `run` and returns its name. It ends with `run`; `signal` is aborted when somebody asks for it. `warn` is a line of the log that
   * shows in the status.
   */
  start(
    head: { type: string; id: string | null; who: string },
    run: (parts: { upid: string; note: TaskNote; warn: TaskNote; signal: AbortSignal }) => Promise<void>,
  ): string;
  /** Newest first. */
  list(): TaskInfo[];
  /** Raises AppError missing. */
  read(upid: string): TaskInfo;
  /** Lines from number `start` (0 first), at most `limit`. Raises AppError missing. */
  readLog(upid: string, start: number, limit: number): Promise<{ lines: string[]; total: number }>;
  /** Asks a running task to end; one that has ended is left alone. Raises AppError missing. */
  abort(upid: string): void;
  /** Resolves when the task has ended. Raises AppError missing. */
  wait(upid: string): Promise<TaskInfo>;
  /** Aborts what runs and waits for it. */
  close(): Promise<void>;
}
