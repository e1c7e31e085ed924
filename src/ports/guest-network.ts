import type { GuestNic } from '#core/guest/guest-record.ts';

/** The host's ends of guests' network cards. */
export interface GuestNetwork {
  /**
   * Makes one port per card (named by core/guest/guest-paths.ts `portName`), on its bridge and up; ports left by an earlier run
   * are made anew. Only while the guest does not run. Raises AppError missing naming a bridge that is not there.
   */
  createPorts(vmid: number, nics: GuestNic[]): Promise<void>;
  /** Takes the guest's ports off their bridges and down at once, whatever still holds them. */
  cutPorts(vmid: number): Promise<void>;
  /** Removes the guest's ports; none is fine. */
  removePorts(vmid: number): Promise<void>;
}
