import { spawn, type ChildProcess } from 'node:child_process';
import { setTimeout as pause } from 'node:timers/promises';
import { AppError, formatErrorChain } from '#base/error.ts';
import { limits } from '#base/limits.ts';
import type { Timing } from '#core/ha/timing.ts';
import type { GuardEvents } from './events.ts';
import type { GuardOrders } from './loop.ts';
import type { createStoreCalls } from './store-calls.ts';

/**
 * A guard is replaced by one that is ready beside it, so that a slow start costs time and not the watchdog's patience
 * (docs/decisions/0017).
 *
 *   former                                                   successor (in the same control group)
 *   SIGUSR2: starts it, guards on ─────────────────────────► loads, reads its settings, sees its records in the store
 *   its rules may end it (loop.ts) ◄──────────────── ready ─
 *   lets go of the watchdog, armed, and of the lock ─ go ──► lock, guard.json, renews, opens the watchdog
 *   ends with 0 ◄─────────────────────────────────── known ─ told systemd that it is the main process
 *
 * A former that ends before its `go` takes its successor with it. Where nobody can be told of another main process (no systemd), the former
 * stays for its supervisor, guards nothing, passes signals on and ends as its successor ends.
 */
const flag = '--successor';
type Word = { kind: 'ready'; pid: number } | { kind: 'go' | 'known' | 'ended' };

/** A shell in between ends at once, so that the successor is a child of systemd's: it would not notice the end of another one's. */
const orphaned = 'exec "$0" "$@" &';

export function isSuccessor(args: string[]): boolean {
  return args.includes(flag);
}

export type HandOver = {
  /** Starts a successor; the orders say `handOver` once it is ready. One that fails or is late is given up, with a line in the log. */
  begin(): void;
  /** SIGTERM: no hand-over any more; one that was done is the successor's to stop. */
  stop(): void;
  /** To be called once watchdog and lock are free. Returns the exit status to end with. */
  complete(): Promise<number>;
};

export function createHandOver(orders: GuardOrders, events: GuardEvents): HandOver {
  let successor: ChildProcess | null = null;
  let pid: number | null = null;
  let isDone = false;

  function begin(): void {
    if (isDone) return signal('SIGUSR2');
    if (successor !== null || orders.stop) return;
    const again = process.argv.slice(1).filter((word) => word !== flag);
    const child = spawn('/bin/sh', ['-c', orphaned, process.execPath, ...process.execArgv, ...again, flag], {
      stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
    });
    successor = child;
    const giveUp = (why: string): void => {
      clearTimeout(timer);
      if (isDone || successor !== child) return;
      abandon();
      events.handOverFailed(why);
    };
    const timer = setTimeout(giveUp, limits.guardSuccessorMs, `it was not ready within ${limits.guardSuccessorMs} ms`);
    child.once('error', (error) => giveUp(error.message));
    child.once('disconnect', () => giveUp('it ended before it was ready; its own words tell why'));
    child.on('message', (word: Word) => {
      if (word.kind !== 'ready' || successor !== child) return;
      clearTimeout(timer);
      pid = word.pid;
      orders.handOver = true;
      orders.ring();
    });
  }

  /** The guard goes on as if no successor had been started; that ends when it finds itself alone. */
  function abandon(): void {
    if (successor?.connected === true) successor.disconnect();
    [successor, pid, orders.handOver] = [null, null, false];
  }

  function signal(name: NodeJS.Signals): void {
    // Without the way to it, it has ended, and its number may be another's.
    if (pid !== null && successor?.connected === true) process.kill(pid, name);
  }

  return {
    begin,
    stop() {
      if (isDone) return signal('SIGTERM');
      abandon();
      orders.stop = true;
      orders.ring();
    },
    async complete() {
      isDone = true;
      const child = successor;
      if (child?.connected !== true) return 1;
      const { promise, resolve } = Promise.withResolvers<number>();
      child.once('disconnect', () => resolve(1));
      child.on('message', (word: Word) => {
        if (word.kind === 'known' || word.kind === 'ended') resolve(0);
      });
      // That it cannot be told is told by its end.
      child.send({ kind: 'go' } satisfies Word, () => {});
      return await promise;
    },
  };
}

/**
 * Does what needs no watchdog and no lock: sees the node's records in the store, so that the connection is there and the code compiled. Raises
 * AppError unavailable when the store gives no answer within the time that the former waits, or that waits no longer.
 */
export async function warmUp(call: ReturnType<typeof createStoreCalls>, timing: Timing): Promise<void> {
  for (;;) {
    const answer = await call({ kind: 'look', deadlineMs: timing.watchdogMs });
    if (answer.kind === 'sight') return;
    if (!process.connected) throw formerGone();
    if (performance.now() > limits.guardSuccessorMs) {
      const why = 'problem' in answer ? answer.problem : answer.kind;
      throw new AppError('unavailable', `taking over from the former guard: the store gives no answer (${why}); it goes on`);
    }
    await pause(limits.etcdRetryMs);
  }
}

function formerGone(): AppError {
  return new AppError('unavailable', 'the former guard ended, or goes on, without handing over; nothing was touched');
}

/** In a successor: says that it is ready and returns when the former has let go. Raises AppError when that ended or nobody started this one. */
export async function awaitFormer(): Promise<void> {
  if (process.send === undefined) throw new AppError('invalid', `${flag} is what a guard starts its successor with`);
  if (!process.connected) throw formerGone();
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  const onEnd = () => reject(formerGone());
  process.once('disconnect', onEnd);
  process.once('message', () => resolve());
  process.send({ kind: 'ready', pid: process.pid } satisfies Word);
  await promise;
  process.off('disconnect', onEnd);
}

/** In a successor that guards: makes it the main process of its unit, where there is a systemd, and lets the former go. */
export function becomeMain(events: GuardEvents): void {
  if (process.env['NOTIFY_SOCKET'] === undefined) return;
  // By itself it waits until systemd has read it: from then on the former's end is nobody's end.
  const child = spawn('systemd-notify', [`MAINPID=${process.pid}`], { stdio: 'ignore' });
  child.once('error', (error) => events.handOverFailed(`systemd-notify: ${formatErrorChain(error)}; the former process stays`));
  child.once('exit', (code) => {
    if (code === 0) process.send?.({ kind: 'known' } satisfies Word, () => {});
    else events.handOverFailed(`systemd-notify ended with status ${code}; the former process stays`);
  });
}

/** A guard that ends well: a former one that stays for its supervisor ends with it. */
export async function sayEnded(): Promise<void> {
  if (process.send === undefined || !process.connected) return;
  await new Promise<void>((resolve) => process.send?.({ kind: 'ended' } satisfies Word, () => resolve()));
}
