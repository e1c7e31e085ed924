import { connect, type Socket } from 'node:net';
import { AppError, formatErrorChain } from '#base/error.ts';
import { limits } from '#base/limits.ts';
import type { Qmp, QmpCommand, QmpEvent } from '#ports/qmp.ts';
import { createLineCutter } from './json-lines.ts';
import { createPendingAnswers, type Outcome } from './pending-answers.ts';
import { parseQmpMessage, type QmpMessage } from './qmp-message.ts';

/**
 * Opens a QMP connection to QEMU or qemu-storage-daemon and takes it out of negotiation mode. One attempt: a socket that is not
 * there yet is the caller's to retry.
 *
 * Raises AppError `unavailable` (nothing listens, or the peer hung up or speaks no QMP) or `timeout` (no greeting within
 * `deadlineMs`: a stopped or frozen process, or another client holds this monitor, which serves one at a time).
 */
export async function connectQmp(socketPath: string, options: { deadlineMs: number }): Promise<Qmp> {
  const session = createSession(connect(socketPath), socketPath);
  const timer = setTimeout(
    () => session.end(new AppError('timeout', `connect QMP ${socketPath}: no greeting within ${options.deadlineMs} ms`)),
    options.deadlineMs,
  );
  const qmp = createQmp(session);
  try {
    await session.greeted;
    await qmp.execute('qmp_capabilities', undefined, { deadlineMs: options.deadlineMs });
  } catch (error) {
    qmp.close();
    throw error;
  } finally {
    clearTimeout(timer);
  }
  return qmp;
}

type Listener = { event(event: QmpEvent): void; ended?(because: Error): void };

type Session = ReturnType<typeof createSession>;

/** One connection: its socket, who waits for which answer, who listens, and whether it is over. */
function createSession(socket: Socket, socketPath: string) {
  const answers = createPendingAnswers(socketPath);
  const listeners = new Set<Listener>();
  const greeting = Promise.withResolvers<void>();
  const closed = Promise.withResolvers<void>();
  let endedBecause: Error | null = null;
  // `end` may come after the greeting was taken, and then nobody waits for this promise any more.
  greeting.promise.catch(() => {});

  function end(because: Error): void {
    if (endedBecause !== null) return;
    endedBecause = because;
    socket.destroy();
    greeting.reject(because);
    answers.failAll(because);
    for (const listener of Array.from(listeners)) listener.ended?.(because);
    closed.resolve();
  }

  function take(message: QmpMessage): void {
    if (endedBecause !== null) return;
    if (message.kind === 'greeting') return greeting.resolve();
    if (message.kind === 'event') return Array.from(listeners).forEach((listener) => listener.event(message.event));
    const waiter = answers.take(message.id);
    if (waiter !== undefined) return waiter.settle(toOutcome(waiter.command, message));
    // From here on no answer could be matched to its command with certainty.
    const said = message.kind === 'error' ? message.text : 'a result';
    end(new AppError('unavailable', `QMP ${socketPath}: an answer to nothing we asked (${said}); connection closed`));
  }

  /** Writes all commands in one piece, so that nothing of ours comes between them. */
  function send(commands: QmpCommand[], deadlineMs: number): Promise<Outcome>[] {
    if (endedBecause !== null) {
      const error = new AppError('unavailable', `QMP ${socketPath}: no connection`, { cause: endedBecause });
      return commands.map(() => Promise.resolve({ error }));
    }
    const asked = commands.map((command) => ({ command, ...answers.expect(command.execute, deadlineMs) }));
    socket.write(asked.map(({ command, id }) => `${JSON.stringify({ ...command, id })}\n`).join(''));
    return asked.map(({ outcome }) => outcome);
  }

  receiveMessages(socket, take, (cause) =>
    end(new AppError('unavailable', `QMP ${socketPath}: ${formatErrorChain(cause)}`, { cause })),
  );
  return {
    socketPath,
    greeted: greeting.promise,
    closed: closed.promise,
    listeners,
    send,
    end,
    becauseEnded: () => endedBecause,
  };
}

function receiveMessages(socket: Socket, take: (message: QmpMessage) => void, fail: (cause: unknown) => void): void {
  const cutter = createLineCutter(limits.jsonLineBytes);

  function parse(chunk: Buffer): QmpMessage[] {
    try {
      return cutter.feed(chunk).map(parseQmpMessage);
    } catch (cause) {
      fail(cause);
      return [];
    }
  }

  socket.on('data', (chunk: Buffer) => parse(chunk).forEach(take));
  socket.on('error', fail);
  socket.on('close', () => fail('the peer closed the connection'));
}

function toOutcome(command: string, message: Extract<QmpMessage, { kind: 'return' | 'error' }>): Outcome {
  if (message.kind === 'return') return { ok: message.value };
  return { error: new AppError('conflict', `${command}: ${message.text} (${message.errorClass})`) };
}

function createQmp(session: Session): Qmp {
  function listen(listener: Listener): () => void {
    session.listeners.add(listener);
    return () => session.listeners.delete(listener);
  }

  // The answer's shape is QEMU's; callers name the type they rely on.
  async function execute<T>(execute: string, args?: Record<string, unknown>, options?: { deadlineMs?: number }): Promise<T> {
    const command = args === undefined ? { execute } : { execute, arguments: args };
    const [sent] = session.send([command], options?.deadlineMs ?? limits.qmpCallMs);
    const outcome = await sent!;
    if ('error' in outcome) throw outcome.error;
    return outcome.ok as T;
  }

  async function waitForEvent(wanted: (event: QmpEvent) => boolean, options: { deadlineMs: number }): Promise<QmpEvent> {
    const ended = session.becauseEnded();
    if (ended !== null) {
      throw new AppError('unavailable', `wait for an event on QMP ${session.socketPath}: no connection`, { cause: ended });
    }
    const found = Promise.withResolvers<QmpEvent>();
    const stop = listen({
      event: (event) => (wanted(event) ? found.resolve(event) : undefined),
      ended: (cause) =>
        found.reject(new AppError('unavailable', `wait for an event on QMP ${session.socketPath}: connection lost`, { cause })),
    });
    const timer = setTimeout(
      () =>
        found.reject(
          new AppError('timeout', `wait for an event on QMP ${session.socketPath}: none within ${options.deadlineMs} ms`),
        ),
      options.deadlineMs,
    );
    try {
      return await found.promise;
    } finally {
      clearTimeout(timer);
      stop();
    }
  }

  return {
    execute,
    pipeline: (commands, options) => Promise.all(session.send(commands, options?.deadlineMs ?? limits.qmpCallMs)),
    onEvent: (listener) => listen({ event: listener }),
    waitForEvent,
    closed: session.closed,
    close: () => session.end(new AppError('unavailable', `QMP ${session.socketPath}: closed by us`)),
  };
}
