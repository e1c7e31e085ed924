/** A thread of `holdfast simulate`: runs the seeds it is given, one after the other, and posts what each came to. */
import { parentPort, workerData } from 'node:worker_threads';
import { assert } from '#base/assert.ts';
import { describeFailure, minimize } from '#sim/report.ts';
import { type RunOptions, type RunResult, runSeed } from '#sim/simulation.ts';
import { quietSwarm } from '#sim/swarm.ts';

export type WorkerOrder = {
  hoursPerSeed: number;
  quiet: boolean;
  /** Shared with the command: at 0 whether to stop, at `slot` how many thousandths of an hour of its present seed this thread has done. */
  board: Int32Array;
  slot: number;
};

/** `failure`: the story of a violation, with as few faults as were found to be enough. */
export type WorkerAnswer =
  | { kind: 'done'; seed: number; result: RunResult; failure: string | null }
  /** The simulator itself broke an assumption. */
  | { kind: 'crashed'; seed: number; error: string };

const { hoursPerSeed, quiet, board, slot } = workerData as WorkerOrder;
const port = parentPort;
assert(port !== null, 'this file runs as a worker thread only');

port.on('message', (seed: number) => {
  port.postMessage(work(seed));
});

function work(seed: number): WorkerAnswer {
  const order: RunOptions = {
    seed,
    hours: hoursPerSeed,
    isStopped: () => Atomics.load(board, 0) !== 0,
    ...(quiet ? { swarm: quietSwarm(seed) } : {}),
  };
  try {
    const result = runSeed({ ...order, onProgress: (hours) => Atomics.store(board, slot, Math.round(hours * 1_000)) });
    const failure = result.violation === null ? null : describeFailure(minimize(order, result), hoursPerSeed);
    return { kind: 'done', seed, result: { ...result, story: [] }, failure };
  } catch (error) {
    return { kind: 'crashed', seed, error: error instanceof Error ? (error.stack ?? error.message) : String(error) };
  } finally {
    Atomics.store(board, slot, 0);
  }
}
