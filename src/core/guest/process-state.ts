import type { ReplicaPoint } from '#core/guest/guest-record.ts';

/**
 * What a guest's QEMU process does, as far as the agent of its node knows.
 *
 *   prelaunch ──> running ──told to end──> halting ──> off
 *                    ^                        └──too late──> halted
 *                    └────────── revived ───────────────────────┘
 *
 * In prelaunch, off and halted no guest code runs and the disks are open: a last point can be sent.
 */
export type ProcessState =
  /** It has not said yet: just found, or frozen. */
  | 'unknown'
  /** Its CPUs never ran. */
  | 'prelaunch'
  | 'running'
  /** It was told to power down for good and may still run. */
  | 'halting'
  /** It did not power down in time: its CPUs were stopped for good. */
  | 'halted'
  /** It powered down by itself. */
  | 'off';

export type GuestProcess = { generation: number; nodeEpoch: number; state: ProcessState };

/** No guest code runs in it and none will, unless it is revived. */
export function isStill(state: ProcessState): boolean {
  return state === 'prelaunch' || state === 'halted' || state === 'off';
}

/**
 * The state of a primary copy that other nodes hold as well: nothing has been written to it since that point. Gone as soon as the copy
 * is opened for writing.
 */
export type HandedOver = { point: ReplicaPoint; copiedTo: string[] };
