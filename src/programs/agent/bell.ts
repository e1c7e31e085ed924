/** An event only rings the bell; whoever waits does a full round and reads afresh. */
export type Bell = { ring(): void; next(waitMs: number, signal: AbortSignal): Promise<void> };

/** A bell that keeps one ring for a waiter that comes late. */
export function createBell(): Bell {
  let rung = false;
  let wake: (() => void) | null = null;
  return {
    ring() {
      rung = true;
      wake?.();
    },
    async next(waitMs, signal) {
      if (!rung && !signal.aborted) {
        await new Promise<void>((resolve) => {
          const timer = setTimeout(done, waitMs);
          // What it leaves on the signal, which lives as long as the agent, would be there for ever.
          function done(): void {
            clearTimeout(timer);
            signal.removeEventListener('abort', done);
            resolve();
          }
          wake = done;
          signal.addEventListener('abort', done, { once: true });
        });
      }
      wake = null;
      rung = false;
    },
  };
}
