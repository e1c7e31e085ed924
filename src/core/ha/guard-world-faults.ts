/** What may happen in the guard's world: how it fails, and what people ask of it. */
export const faultKinds = [
  'store-down',
  'answers-lost',
  'commits-lost',
  'store-slow',
  'pause',
  'guard-killed',
  'freeze-stuck',
  'kill-stuck',
] as const;

export const otherKinds = ['release-asked', 'release-ordered', 'stopped', 'handed-over', 'power-cut', 'watchdog-gone'] as const;

/** `disarmed`: the manager's order stands for that long. `killed-inside`: between two orders of one step. `file-stuck`: guard.json cannot be written. */
export const disarmKinds = ['disarmed', 'killed-inside', 'file-stuck'] as const;

export type FaultKind = (typeof faultKinds)[number] | (typeof otherKinds)[number] | (typeof disarmKinds)[number];
export type Fault = { kind: FaultKind; afterMs: number; forMs: number };

/** What the parts of the world share: true time, the guard's clock, chance, and the faults in force. */
export type Surroundings = { readonly nowMs: number; bootMs(): number; chance(): number; is(kind: FaultKind): boolean };
