import { AppError, isAppError } from '#base/error.ts';
import type { AgentProcess } from '#sim/agent.ts';
import type { Task } from '#sim/process.ts';

/** Runs a part whose expected trouble only means that the next round tries again. */
export function* tryOnce(task: Task<unknown>): Task<void> {
  try {
    yield* task;
  } catch (error) {
    if (!isAppError(error)) throw error;
  }
}

/** As writeOwnedRecord of programs/agent/world.ts. Raises AppError when four attempts were not enough. */
export function* writeOwned(agent: AgentProcess, key: string, value: unknown): Task<void> {
  const text = JSON.stringify(value);
  for (let attempt = 0; attempt < 4; attempt += 1) {
    const current = yield* agent.readNow(key);
    if (JSON.stringify(current?.value) === text) return;
    const outcome = yield* agent.commit([{ key, modRevision: current?.modRevision ?? 0n }], [{ key, value: text }]);
    if (outcome.kind === 'committed') return;
  }
  throw new AppError('conflict', `writing ${key}: four attempts failed`);
}
