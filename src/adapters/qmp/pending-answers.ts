import { AppError } from '#base/error.ts';

export type Outcome = { ok: unknown } | { error: Error };
type Waiter = { command: string; settle: (outcome: Outcome) => void };

/** The commands of one connection that still wait for their answers, by id. */
export function createPendingAnswers(peer: string) {
  const waiters = new Map<number, Waiter>();
  let lastId = 0;

  /** Takes a new id for `command`; `outcome` settles with the answer, or with AppError timeout after `deadlineMs`. */
  function expect(command: string, deadlineMs: number): { id: number; outcome: Promise<Outcome> } {
    const id = ++lastId;
    const { promise, resolve } = Promise.withResolvers<Outcome>();
    const timer = setTimeout(() => {
      // The id stays known: a late answer must be told from an answer to nothing.
      waiters.set(id, { command, settle: () => {} });
      resolve({ error: new AppError('timeout', `${command}: no answer within ${deadlineMs} ms from ${peer}`) });
    }, deadlineMs);
    waiters.set(id, {
      command,
      settle: (outcome) => {
        clearTimeout(timer);
        resolve(outcome);
      },
    });
    return { id, outcome: promise };
  }

  /** Takes the waiter with this id out; undefined: nobody asked. */
  function take(id: unknown): Waiter | undefined {
    if (typeof id !== 'number') return undefined;
    const waiter = waiters.get(id);
    waiters.delete(id);
    return waiter;
  }

  /** Every waiter gets `error`. */
  function failAll(error: Error): void {
    for (const waiter of waiters.values()) waiter.settle({ error });
    waiters.clear();
  }

  return { expect, take, failAll };
}
