import { AppError } from '#base/error.ts';
import { limits } from '#base/limits.ts';
import type { Qmp, QmpEvent } from '#ports/qmp.ts';

/**
 * The QMP of a QEMU that may not answer just now (frozen, or stopped by its own disks): connects in the background and again
 * after a loss, as long as `isAlive`. Commands wait for the connection within their own deadline; those under way when it is lost
 * fail. `closed` settles when the process is gone or `close` was called.
 */
export function createLastingQmp(params: { connect: () => Promise<Qmp>; isAlive: () => boolean }): Qmp {
  const listeners = new Set<(event: QmpEvent) => void>();
  const closed = Promise.withResolvers<void>();
  const stopping = new AbortController();
  let current = Promise.withResolvers<Qmp>();
  void keepConnected();

  async function keepConnected(): Promise<void> {
    while (!stopping.signal.aborted && params.isAlive()) {
      const qmp = await params.connect().catch(() => null);
      if (qmp === null) await pause(limits.guestExitPollMs, stopping.signal);
      else await serve(qmp);
    }
    current.promise.catch(() => {});
    current.reject(new AppError('unavailable', 'QMP: the process is gone or the connection was closed'));
    closed.resolve();
  }

  async function serve(qmp: Qmp): Promise<void> {
    qmp.onEvent((event) => Array.from(listeners).forEach((listener) => listener(event)));
    const stop = () => qmp.close();
    stopping.signal.addEventListener('abort', stop);
    if (stopping.signal.aborted) stop();
    current.resolve(qmp);
    await qmp.closed;
    stopping.signal.removeEventListener('abort', stop);
    current = Promise.withResolvers<Qmp>();
  }

  /** The connection, or AppError timeout; with what is left of the deadline. */
  async function connected(what: string, deadlineMs: number): Promise<{ qmp: Qmp; leftMs: number }> {
    const beganMs = performance.now();
    const late = Promise.withResolvers<never>();
    const timer = setTimeout(
      () => late.reject(new AppError('timeout', `${what}: QEMU's monitor did not answer within ${deadlineMs} ms; is it frozen?`)),
      deadlineMs,
    );
    try {
      const qmp = await Promise.race([current.promise, late.promise]);
      return { qmp, leftMs: Math.max(1, deadlineMs - (performance.now() - beganMs)) };
    } finally {
      clearTimeout(timer);
    }
  }

  return {
    async execute<T>(command: string, args?: Record<string, unknown>, options?: { deadlineMs?: number }) {
      const { qmp, leftMs } = await connected(command, options?.deadlineMs ?? limits.qmpCallMs);
      return qmp.execute<T>(command, args, { deadlineMs: leftMs });
    },
    async pipeline(commands, options) {
      try {
        const { qmp, leftMs } = await connected(commands[0]?.execute ?? 'pipeline', options?.deadlineMs ?? limits.qmpCallMs);
        return await qmp.pipeline(commands, { deadlineMs: leftMs });
      } catch (error) {
        const refusal = { error: error instanceof Error ? error : new Error(String(error)) };
        return commands.map(() => refusal);
      }
    },
    onEvent(listener) {
      listeners.add(listener);
      return () => listeners.delete(listener);
    },
    async waitForEvent(wanted, options) {
      const { qmp, leftMs } = await connected('wait for an event', options.deadlineMs);
      return qmp.waitForEvent(wanted, { deadlineMs: leftMs });
    },
    closed: closed.promise,
    close: () => stopping.abort(),
  };
}

function pause(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const timer = setTimeout(done, ms);
    signal.addEventListener('abort', done);
    function done(): void {
      clearTimeout(timer);
      signal.removeEventListener('abort', done);
      resolve();
    }
  });
}
