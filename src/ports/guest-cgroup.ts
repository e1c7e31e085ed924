/**
 * The HA guests' control group: `<root>/e<epoch>/<vmid>`. The epoch's group is made by the guard and by nobody else; a guest
 * enters its own child group before it executes QEMU, so an order that outlived its epoch has nowhere to run.
 */
export interface GuestCgroup {
  /** Makes the group of an epoch (idempotent for the current epoch). The guard remembers removed epochs by the permit's epoch only growing. */
  createEpoch(epoch: number): void;
  /** Every epoch that still has a group, oldest first. */
  listEpochs(): number[];
  /** Asks the kernel to freeze or thaw all guests of an epoch; does not wait. */
  freeze(epoch: number): void;
  thaw(epoch: number): void;
  /** What the kernel confirms now. `populated`: some process is inside. A missing group is frozen and not populated. */
  readState(epoch: number): { frozen: boolean; populated: boolean };
  /** Kills every process of the epoch (works on frozen ones too); does not wait. */
  kill(epoch: number): void;
  /** Removes the emptied group. Throws AppError busy while populated. */
  remove(epoch: number): void;
}
