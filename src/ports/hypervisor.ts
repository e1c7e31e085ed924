import type { GuestConfig } from '#core/guest/guest-record.ts';
import type { ProcessState } from '#core/guest/process-state.ts';
import type { Qmp } from '#ports/qmp.ts';

/**
 * A disk of a guest as QEMU is to open it. `blockdev` is the argument of `-blockdev` (a whole backing chain); its top node-name is `nodeName`.
 * `pausesGuest`: a read or write that fails stops the guest's CPUs and is done again when they run on; else the guest is told of it.
 */
export type DiskChain = { disk: string; nodeName: string; blockdev: Record<string, unknown>; pausesGuest?: boolean };

export type StartGuest = {
  vmid: number;
  name: string;
  generation: number;
  nodeEpoch: number;
  config: GuestConfig;
  disks: DiskChain[];
};

/** What the machine can do, found out by trying: the accelerator by booting something, features by query-qmp-schema. */
export type HypervisorFacts = { accelerator: 'kvm' | 'tcg'; qemuVersion: string; because: string };

/** A QEMU process of ours. It belongs to no program: it survives restarts of the agent. */
export interface RunningGuest {
  readonly vmid: number;
  readonly generation: number;
  readonly nodeEpoch: number;
  readonly pid: number;
  readonly qmp: Qmp;
  /** Lets the virtual CPUs run; then announces the guest's addresses on its bridges (gratuitous ARP). */
  resume(): Promise<void>;
  /** What it does now, asked of QEMU. Raises AppError timeout/unavailable when QEMU does not answer (frozen, gone). Never `unknown`. */
  readState(): Promise<ProcessState>;
  /** Asks the guest by ACPI, kills after the deadline. Returns when the process is gone. */
  shutdown(options: { deadlineMs: number }): Promise<void>;
  /**
   * Brings the guest to an end while QEMU keeps its disks open: asks it by ACPI, stops its CPUs after the deadline; everything that it has
   * written is on disk then. From its first step on `readState` tells of it, also to the next agent, until `revive`. May be repeated.
   */
  halt(options: { deadlineMs: number }): Promise<'halted' | 'off'>;
  /** Takes a halt back: the guest goes on where it was stopped. Raises AppError conflict when it has powered down. */
  revive(): Promise<void>;
  /** Closes QEMU in order, its guest not running; kills it when that takes too long. Returns when the process is gone. */
  end(): Promise<void>;
  /** SIGKILL; returns when the process is gone. */
  kill(): Promise<void>;
  /** Settles when the QEMU process is gone. */
  readonly exited: Promise<{ reason: string }>;
}

export interface Hypervisor {
  probe(): Promise<HypervisorFacts>;
  /**
   * Spawns QEMU with its CPUs stopped (-S), inside the guests' cgroup of the epoch (it enters before exec; AppError conflict
   * when the epoch's group is gone), unprivileged, on its bridges. The caller resumes it.
   */
  start(order: StartGuest): Promise<RunningGuest>;
  /** Every QEMU of ours that is alive on this node, re-attached; used when the agent starts. */
  adopt(): Promise<RunningGuest[]>;
}
