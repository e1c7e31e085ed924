import type { Engine, Entry } from '#sim/engine.ts';

/**
 * The programs of a node are written as generators that yield at each point where the real ones await: between any two of those the
 * process may be paused, or die and never go on.
 */
export type Outcome<T = unknown> = { ok: true; value: T } | { ok: false; error: unknown };
export type Wait = (resume: (outcome: Outcome) => void) => void;
export type Task<T> = Generator<Wait, T, Outcome>;

const done: Outcome = { ok: true, value: undefined };

/** Yields until `start` calls back, and gives its value or raises its error. */
export function* wait<T>(start: (resume: (outcome: Outcome<T>) => void) => void): Task<T> {
  const outcome = yield start as Wait;
  if (!outcome.ok) throw outcome.error;
  return outcome.value as T;
}

export type ProcessWorld = {
  engine: Engine;
  /** True time until which the whole machine stands still. */
  stillUntilMs: () => number;
  /** Rate of the machine's clock against true time. */
  rate: number;
  /** Asked at each step of a task: true kills the process right there. */
  crashNow: () => boolean;
  onCrash: () => void;
};

/** One process of a node: it may be paused and die; what is delivered to it meanwhile waits or is lost. */
export class Process {
  alive = true;
  pausedUntilMs = 0;
  readonly world: ProcessWorld;
  /** What came during a pause, in its order. */
  private readonly inbox: (() => void)[] = [];

  constructor(world: ProcessWorld) {
    this.world = world;
  }

  /** Hands something to the process: at once, after its pause, or never. */
  deliver(run: () => void): void {
    if (!this.alive) return;
    if (this.isReady()) return run();
    this.inbox.push(run);
    if (this.inbox.length === 1) this.drainLater();
  }

  /** Neither paused nor dead, and nothing waits before. */
  private isReady(): boolean {
    return this.alive && this.inbox.length === 0 && !this.isPaused();
  }

  private isPaused(): boolean {
    const { nowMs } = this.world.engine;
    return nowMs < this.pausedUntilMs || nowMs < this.world.stillUntilMs();
  }

  private drainLater(): void {
    this.world.engine.at(Math.max(this.pausedUntilMs, this.world.stillUntilMs()), () => {
      while (this.alive && !this.isPaused()) {
        const run = this.inbox[0];
        if (run === undefined) return;
        run();
        this.inbox.shift();
      }
      if (this.alive) this.drainLater();
    });
  }

  /** Calls back after `waitMs` of the machine's own clock, unless the entry is cancelled. */
  after(waitMs: number, run: () => void): Entry {
    return this.world.engine.after(waitMs / this.world.rate, () => this.deliver(run));
  }

  *sleep(waitMs: number): Task<void> {
    yield (resume) => this.after(waitMs, () => resume(done));
  }

  /** Runs tasks side by side, returns when all have ended and raises the first error among them. */
  *all(tasks: Task<void>[]): Task<void> {
    if (tasks.length === 0) return;
    yield* wait<void>((resume) => {
      let left = tasks.length;
      let failure: unknown = null;
      for (const task of tasks) {
        this.start(task, (error) => {
          failure ??= error;
          left -= 1;
          if (left === 0) resume(failure === null ? { ok: true, value: undefined } : { ok: false, error: failure });
        });
      }
    });
  }

  /** Starts a task. `onEnd` gets its error, null when it ended well. */
  start(task: Task<void>, onEnd: (error: unknown) => void): void {
    let waits = 0;
    const advance = (outcome: Outcome): void => {
      if (this.world.crashNow()) return this.world.onCrash();
      let step;
      try {
        step = task.next(outcome);
      } catch (error) {
        onEnd(error ?? 'failed');
        return;
      }
      if (step.done === true) return onEnd(null);
      const mine = waits;
      step.value((answer) => {
        // Only the first answer counts.
        if (waits !== mine) return;
        waits += 1;
        if (this.isReady()) advance(answer);
        else this.deliver(() => advance(answer));
      });
    };
    if (this.isReady()) advance(done);
    else this.deliver(() => advance(done));
  }
}

/** The bell of the agent's loops: keeps one ring for a waiter that comes late. */
export class SimBell {
  private rung = false;
  private wake: (() => void) | null = null;

  ring(): void {
    this.rung = true;
    this.wake?.();
  }

  *next(process: Process, waitMs: number): Task<void> {
    if (!this.rung) {
      yield (resume) => {
        const wake = () => {
          this.wake = null;
          process.world.engine.cancel(timer);
          resume(done);
        };
        this.wake = wake;
        const timer = process.after(waitMs, () => {
          if (this.wake === wake) wake();
        });
      };
    }
    this.wake = null;
    this.rung = false;
  }
}
