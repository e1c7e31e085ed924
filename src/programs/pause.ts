/**
 * Returns after `ms` or when `signal` aborts, and leaves nothing behind on the signal: one that lives as long as its program would keep
 * every listener it ever got, and each further one costs a walk past all of them.
 */
export function pause(ms: number, signal: AbortSignal): Promise<void> {
  if (signal.aborted) return Promise.resolve();
  return new Promise((resolve) => {
    const timer = setTimeout(done, ms);
    function done(): void {
      clearTimeout(timer);
      signal.removeEventListener('abort', done);
      resolve();
    }
    signal.addEventListener('abort', done, { once: true });
  });
}
