import { limits } from '#base/limits.ts';
import type { GuestRecord } from '#core/guest/guest-record.ts';

/**
 * How the attempts of one agent at one order went: starts of a guest that is to run, steps of a hand-over.
 *
 *   an attempt fails, or QEMU ends by itself before it ran for guestSteadyMs ──> one more failure, the next try after a pause
 *   more failures than retries are allowed ──> given up under this order
 *   QEMU ends by itself later ──> started again at once, counted from nothing
 */
export type OrderTries = {
  /** Which order this is about; see `orderKey`. */
  key: string;
  failed: number;
  /** Why the last one failed. */
  because: string;
  retryAtBootMs: number;
  /** When the guest was let run; null: it does not run, or was found running, and then it ran for long enough. */
  startedAtBootMs: number | null;
};

/** What an order's end counts under: its number, the node's epoch, and the generation. */
export function orderKey(record: GuestRecord): string {
  return `${record.order?.id ?? 0}/${record.order?.nodeEpoch ?? 0}/${record.generation}`;
}

/** The tries under this order: those known so far when it is the same. */
export function triesUnder(known: OrderTries | null, key: string): OrderTries {
  if (known?.key === key) return known;
  return { key, failed: 0, because: '', retryAtBootMs: 0, startedAtBootMs: known?.startedAtBootMs ?? null };
}

export function noteStarted(tries: OrderTries, nowBootMs: number): OrderTries {
  return { ...tries, startedAtBootMs: nowBootMs };
}

export function noteFailed(tries: OrderTries, because: string, nowBootMs: number): OrderTries {
  const failed = tries.failed + 1;
  const waitMs = Math.min(limits.guestRetryMs * 2 ** (failed - 1), limits.guestRetryMaxMs);
  return { ...tries, failed, because, retryAtBootMs: nowBootMs + waitMs, startedAtBootMs: null };
}

/** QEMU ended without having been told to. */
export function noteDeath(tries: OrderTries, reason: string, nowBootMs: number): OrderTries {
  if (isSteady(tries, nowBootMs)) return { ...tries, failed: 0, because: '', retryAtBootMs: 0, startedAtBootMs: null };
  const ranMs = nowBootMs - (tries.startedAtBootMs ?? nowBootMs);
  return noteFailed(tries, `it ended ${ranMs} ms after its start: ${reason}`, nowBootMs);
}

/** It has run for so long that its start counts as a good one. */
export function isSteady(tries: OrderTries, nowBootMs: number): boolean {
  return tries.startedAtBootMs === null || nowBootMs - tries.startedAtBootMs >= limits.guestSteadyMs;
}

export type Retry = { kind: 'now' } | { kind: 'later' | 'gave-up'; because: string };

/** Whether the order may be tried (again) now. `retries`: how often after the first failure. */
export function planRetry(tries: OrderTries, retries: number, nowBootMs: number): Retry {
  if (tries.failed === 0) return { kind: 'now' };
  const because = `try ${tries.failed} of ${retries + 1} failed: ${tries.because}`;
  if (tries.failed > retries) return { kind: 'gave-up', because };
  return nowBootMs >= tries.retryAtBootMs ? { kind: 'now' } : { kind: 'later', because };
}
