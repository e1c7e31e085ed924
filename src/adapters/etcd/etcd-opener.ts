import { type EtcdConnection, NotSent } from './etcd-connection.ts';

/** Connections to one member for those who need one of their own. */
export type Opener = {
  /** A connection, to be closed by the caller. Raises NotSent when there is none after the caller's patience, or when `signal` aborts. */
  take(signal: AbortSignal): Promise<EtcdConnection>;
  /** Nobody will ask again. */
  close(): void;
};

/**
 * A handshake that was begun goes on when whoever asked has lost patience and has gone to another member: the next who comes takes it. Begun anew
 * each time, handshakes that take longer than the patience would never end, and would keep a slow machine as busy as it is.
 *
 * `open`: begins a connection; it ends by itself when the member stays silent. `keepMs`: one that nobody came for is closed after that.
 */
export function createOpener(
  open: () => Promise<EtcdConnection>,
  { patienceMs, keepMs }: { patienceMs: number; keepMs: number },
): Opener {
  let pending: Promise<EtcdConnection> | null = null;

  function begin(): Promise<EtcdConnection> {
    const begun = open();
    begun.then(
      () => void setTimeout(() => pending === begun && discard(), keepMs).unref(),
      () => {
        if (pending === begun) pending = null;
      },
    );
    return begun;
  }

  function discard(): void {
    const unwanted = pending;
    pending = null;
    unwanted?.then(
      (connection) => connection.close(),
      () => undefined,
    );
  }

  return {
    async take(signal) {
      for (;;) {
        pending ??= begin();
        const mine = pending;
        const connection = await waitFor(mine, performance.now() + patienceMs, signal);
        if (pending !== mine) continue; // another one was quicker
        pending = null;
        if (!connection.gone) return connection;
      }
    },
    close: discard,
  };
}

/** Raises NotSent when `opened` does not settle in time (`untilMs` on the clock of `performance.now()`) or the caller gives up. */
export async function waitFor(opened: Promise<EtcdConnection>, untilMs: number, signal: AbortSignal): Promise<EtcdConnection> {
  const gaveUp = Promise.withResolvers<never>();
  const waitMs = Math.max(0, untilMs - performance.now());
  const timer = setTimeout(() => gaveUp.reject(new NotSent(`no connection in ${Math.round(waitMs)} ms`)), waitMs);
  const abort = () => gaveUp.reject(new NotSent('given up by the caller', { cause: signal.reason }));
  if (signal.aborted) abort();
  else signal.addEventListener('abort', abort, { once: true });
  try {
    return await Promise.race([opened, gaveUp.promise]);
  } finally {
    clearTimeout(timer);
    signal.removeEventListener('abort', abort);
  }
}
