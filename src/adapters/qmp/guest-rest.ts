import { formatErrorChain } from '#base/error.ts';
import { limits } from '#base/limits.ts';
import { askGuestAgent } from './guest-agent.ts';

/**
 * Runs `work` while the guest's own agent keeps its file systems still (QEMU guest agent, guest-fsfreeze-freeze). Not for longer than
 * `guestRestMs`: then they are let go, whatever `work` does, and the outcome says so. Where no agent answers
 * within that time `work` runs all the same.
 */
export async function withGuestAtRest<T>(
  socketPath: string,
  work: () => Promise<T>,
): Promise<{ result: T; isRested: boolean; because: string }> {
  const frozen = await ask(socketPath, 'guest-fsfreeze-freeze', limits.guestRestMs);
  let isOver = false;
  const thaw = async (): Promise<void> => {
    if (isOver) return;
    isOver = true;
    // Also when the freeze was refused or not confirmed: it may have been carried out.
    const failure = await ask(socketPath, 'guest-fsfreeze-thaw', limits.guestRestMs);
    if (failure !== null && frozen === null) await ask(socketPath, 'guest-fsfreeze-thaw', limits.guestRestMs);
  };
  const timer = setTimeout(() => void thaw(), limits.guestRestMs);
  try {
    const result = await work();
    // Let go before the work was done: what was taken may be from after that.
    const because = frozen ?? (isOver ? `it was not done within ${limits.guestRestMs} ms` : 'at rest');
    return { result, isRested: frozen === null && !isOver, because };
  } finally {
    clearTimeout(timer);
    await thaw();
  }
}

/** null: done; else why not. */
async function ask(socketPath: string, execute: string, deadlineMs: number): Promise<string | null> {
  try {
    const [ping, answer] = await askGuestAgent(socketPath, ['{"execute":"guest-ping"}', JSON.stringify({ execute })], deadlineMs);
    const refusal = ping?.error ?? answer?.error;
    return refusal === undefined ? null : `the agent in the guest refused: ${refusal.desc ?? 'without a reason'}`;
  } catch (error) {
    return formatErrorChain(error);
  }
}
