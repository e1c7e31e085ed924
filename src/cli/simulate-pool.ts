import { availableParallelism } from 'node:os';
import { Worker } from 'node:worker_threads';
import { AppError } from '#base/error.ts';
import type { WorkerAnswer, WorkerOrder } from '#cli/simulate-worker.ts';
import type { RunResult } from '#sim/simulation.ts';

export type SeedRun = { result: RunResult; failure: string | null };

/** `onFailure`: is told of each violation at once; a long run need not be over for it to be looked at. */
export type PoolOrder = {
  first: number;
  last: number;
  hoursPerSeed: number;
  quiet: boolean;
  jobs: number;
  onFailure?: (story: string) => void;
};

/** How far a pool is: `hours` counts the seeds under way, too. */
export type PoolProgress = { seedsDone: number; hours: number; violations: number };

/** What stopped threads may take to end their round; a round lasts a second at most. */
const stopMs = 15_000;
const jobsAtMost = 256;

/** Reads `--jobs`; undefined: one for each core. Raises AppError invalid. */
export function parseJobs(text: string | undefined): number {
  if (text === undefined) return availableParallelism();
  const jobs = Number(text);
  if (!Number.isInteger(jobs) || jobs < 1 || jobs > jobsAtMost) {
    throw new AppError('invalid', `jobs: ${text} is not a whole number from 1 to ${jobsAtMost}`);
  }
  return jobs;
}

/**
 * Runs every seed on one of `jobs` threads. The runs come back in the order of their seeds, whichever thread was faster. When `signal`
 * aborts, the seeds under way end with their round and what they came to is given back with the rest.
 */
export class SimulationPool {
  private readonly order: PoolOrder;
  private readonly runs = new Map<number, SeedRun>();
  private readonly board: Int32Array;
  private readonly workers = new Set<Worker>();
  private next: number;
  private stopped = false;

  constructor(order: PoolOrder) {
    this.order = order;
    this.next = order.first;
    const threads = Math.min(order.jobs, order.last - order.first + 1);
    this.board = new Int32Array(new SharedArrayBuffer(Int32Array.BYTES_PER_ELEMENT * (threads + 1)));
  }

  progress(): PoolProgress {
    const done = [...this.runs.values()];
    const underWay = [...this.board.keys()].slice(1).reduce((sum, slot) => sum + Atomics.load(this.board, slot) / 1_000, 0);
    return {
      seedsDone: done.length,
      hours: done.reduce((sum, { result }) => sum + result.hours, 0) + underWay,
      violations: done.filter(({ failure }) => failure !== null).length,
    };
  }

  /** Raises Error when the simulator itself fails, naming the seed. */
  async run(signal: AbortSignal): Promise<SeedRun[]> {
    const stop = () => {
      this.stopped = true;
      Atomics.store(this.board, 0, 1);
      // A thread that does not answer takes what it had with it.
      setTimeout(() => this.endAll(), stopMs).unref();
    };
    if (signal.aborted) stop();
    signal.addEventListener('abort', stop, { once: true });
    try {
      await Promise.all([...this.board.keys()].slice(1).map((slot) => this.runThread(slot)));
    } finally {
      signal.removeEventListener('abort', stop);
      this.endAll();
    }
    return [...this.runs.entries()].sort(([a], [b]) => a - b).map(([, run]) => run);
  }

  private runThread(slot: number): Promise<void> {
    const { hoursPerSeed, quiet } = this.order;
    const workerData: WorkerOrder = { hoursPerSeed, quiet, board: this.board, slot };
    const worker = new Worker(new URL('simulate-worker.ts', import.meta.url), { workerData, execArgv: [] });
    this.workers.add(worker);
    return new Promise((resolve, reject) => {
      const giveNext = () => {
        if (this.stopped || this.next > this.order.last) return resolve();
        worker.postMessage(this.next);
        this.next += 1;
      };
      worker.on('message', (answer: WorkerAnswer) => {
        if (answer.kind === 'crashed') return reject(new Error(`seed ${answer.seed}: ${answer.error}`));
        this.runs.set(answer.seed, answer);
        if (answer.failure !== null) this.order.onFailure?.(answer.failure);
        giveNext();
      });
      worker.on('error', reject);
      worker.on('exit', () => (this.stopped ? resolve() : reject(new Error('a thread of the simulator ended by itself'))));
      giveNext();
    });
  }

  private endAll(): void {
    for (const worker of this.workers) void worker.terminate();
    this.workers.clear();
  }
}
