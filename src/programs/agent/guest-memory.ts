import { triesUnder, type OrderTries } from '#core/guest/order-tries.ts';
import type { ProcessState } from '#core/guest/process-state.ts';
import type { RunningGuest } from '#ports/hypervisor.ts';

/** What the loop remembers of one guest from round to round. It is lost with the agent: the next one finds out again what it needs. */
export type GuestMemory = {
  readonly vmid: number;
  process: RunningGuest | null;
  /** Of `process`. */
  state: ProcessState;
  /** We are ending `process`: its end is no failure. */
  isEnding: boolean;
  tries: OrderTries;
  /** An action other than an attempt at the order that failed, and when it may be done again. */
  failure: { key: string; count: number; retryAtBootMs: number } | null;
  /** The order under which a point was sent while the guest ran. */
  preCopiedUnder: string | null;
  /** Why its last state reached no other node, now that this one ends. */
  notCopied: string | null;
  /** When we began to stop it for a hand-over, for people. */
  haltedAtBootMs: number | null;
};

export function freshMemory(vmid: number): GuestMemory {
  return {
    vmid,
    process: null,
    state: 'unknown',
    isEnding: false,
    tries: triesUnder(null, ''),
    failure: null,
    preCopiedUnder: null,
    notCopied: null,
    haltedAtBootMs: null,
  };
}
