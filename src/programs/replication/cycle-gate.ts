import { limits } from '#base/limits.ts';

/**
 * Who of a node's guests may send to which node now: at most `cyclesAtOnce` to one node, so that each gets its points through while they are fresh, and
 * of those that want to the one with the oldest data first. Nobody waits inside: a guest whose turn it is not looks after its other targets.
 */
export type CycleGate = {
  /** Whether the guest may begin; if so it has its place until `leave`. `dataAgeMs`: null when nothing has arrived yet. */
  tryEnter(vmid: number, target: string, dataAgeMs: number | null): boolean;
  leave(vmid: number, target: string): void;
  /** Calls `listener` when a place has become free, until what is returned is called. */
  onFree(listener: () => void): () => void;
};

type Wish = { vmid: number; target: string; ageMs: number; atMs: number };

/** `nowMs`: a clock that never goes back. */
export function createCycleGate(nowMs: () => number, atOnce: number = limits.cyclesAtOnce): CycleGate {
  const inside = new Set<string>();
  const wishes = new Map<string, Wish>();
  const listeners = new Set<() => void>();
  const key = (vmid: number, target: string): string => `${vmid} ${target}`;

  /** Guests that ended, or whose target is gone, do not renew their wish. */
  function isNewer(wish: Wish): boolean {
    return nowMs() - wish.atMs <= 2 * limits.agentRoundMs;
  }

  return {
    tryEnter(vmid, target, dataAgeMs) {
      const mine: Wish = { vmid, target, ageMs: dataAgeMs ?? Number.POSITIVE_INFINITY, atMs: nowMs() };
      const others = [...wishes.values()].filter((wish) => wish.target === target && wish.vmid !== vmid && isNewer(wish));
      const free = atOnce - [...inside].filter((entry) => entry.endsWith(` ${target}`)).length;
      const before = others.filter((wish) => wish.ageMs > mine.ageMs).length;
      if (before >= free) {
        wishes.set(key(vmid, target), mine);
        return false;
      }
      wishes.delete(key(vmid, target));
      inside.add(key(vmid, target));
      return true;
    },
    leave(vmid, target) {
      if (inside.delete(key(vmid, target))) for (const listener of listeners) listener();
    },
    onFree(listener) {
      listeners.add(listener);
      return () => void listeners.delete(listener);
    },
  };
}
