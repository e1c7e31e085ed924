import type { ReplicaPoint } from '#core/guest/guest-record.ts';
import type { HandedOver } from '#core/guest/process-state.ts';
import type { LeftBehind, ReplicaRecord } from '#core/replica/records.ts';
import type { Arrival } from '#core/storage/arrival.ts';
import type { DiskChain } from '#ports/hypervisor.ts';

/** What a node holds of one guest. */
export type GuestCopy = {
  vmid: number;
  role: 'primary' | 'replica';
  /** primary: generation under which it is written. replica: generation of its newest point. */
  generation: number;
  /** Newest whole point; null: none yet (a replica before its first sync, a primary that never sent). */
  point: ReplicaPoint | null;
  pointAtMs: number | null;
  leftBehind: LeftBehind[];
  /** A primary that others hold a whole copy of, unwritten since; null otherwise. */
  handedOver: HandedOver | null;
};

/** A last point that was sent of a primary copy whose guest will not run here any more. */
export type LastPoint = HandedOver & {
  source: string;
  pointAtMs: number;
  configSha256: string;
  lastCycle: ReplicaRecord['lastCycle'];
};

/**
 * A disk to be made: empty, with the content of the raw image `importFile`, or with what `fill` writes to the path it is given: a block device of
 * the disk's size, or a file that `fill` makes.
 */
export type NewDisk = { name: string; sizeBytes: number; importFile?: string; fill?: (path: string) => Promise<void> };

/** A disk as it can be read, or read and written, over NBD. */
export type NbdPlace = { socketPath: string; exportName: string };

/** New content for the disks of a primary copy. */
export type NewContent = {
  /** The name of the tail that keeps what lay there. */
  tail: string;
  /** When the new content was the guest's; wall clock. */
  fromAtMs: number;
  /** All disks that there will be. */
  disks: { name: string; sizeBytes: number }[];
  /** Writes a disk at a place that shows what lies there now. Returns how many bytes came out different. */
  write(disk: string, place: NbdPlace): Promise<number>;
  /** Asked once all is written, just before it counts; raises AppError when it must not. */
  confirm(): Promise<void>;
};

/** Disks that are served read-only over NBD, one export a disk, named like it. */
export type ServedDisks = { nbdSocket: string; disks: { name: string; sizeBytes: number }[]; close(): Promise<void> };

/** A disk that is being filled. `path`: its lowest layer, of `sizeBytes`, for the content. `mapPath`: a file that says which chunks are there. */
export type ArrivingDisk = { name: string; sizeBytes: number; chunkBytes: number; path: string; mapPath: string };

export type ArrivingCopy = { vmid: number; generation: number; arrival: Arrival; disks: ArrivingDisk[] };

/** Primary copies whose guests live on them while their content still comes in. Nothing that needs whole disks is done with one until then. */
export interface Arrivals {
  /** Makes empty disks that are to be filled. As `GuestStorage.create`. */
  create(vmid: number, generation: number, disks: Omit<NewDisk, 'importFile' | 'fill'>[], arrival: Arrival): Promise<void>;
  /** Those that were made so, complete or not. */
  list(): Promise<ArrivingCopy[]>;
  /** Where a start finds an NBD server with the content, one export a disk; null: nothing serves it, and no start is possible. */
  serveFrom(vmid: number, socketPath: string | null): void;
  /**
   * All content is in the lowest layers: these are ordinary disks from now on. No start may be under way. `isOpen`: a QEMU has them open, and reads
   * from those layers by now. Idempotent.
   */
  complete(vmid: number, generation: number, how: { isOpen: boolean }): Promise<void>;
}

/** Disks of guests on this node: the `dir` driver (files) or `zfs`. */
export interface GuestStorage {
  /** null: this driver knows none. */
  readonly arrivals: Arrivals | null;
  listCopies(): Promise<GuestCopy[]>;
  /** Makes the disks of a new guest as a primary copy of `generation`. What a failure or a crash leaves of them is no copy. */
  create(vmid: number, generation: number, disks: NewDisk[]): Promise<void>;
  /**
   * The chains of a primary copy, for a start; from then on it counts as written to (see `noteHandedOver`). Raises AppError missing naming the disk and
   * what was looked for; conflict on another generation.
   */
  openPrimary(vmid: number, generation: number): Promise<DiskChain[]>;
  /** For reading a primary copy that nothing has open; until it is closed nothing may open it. Raises AppError like `openPrimary`. */
  serve(vmid: number, generation: number): Promise<ServedDisks>;
  /**
   * Makes this node's replica the primary copy of `generation`: verifies the newest manifest (not older than `atLeast`), puts a
   * new overlay above it so that the replicated point stays untouched. Idempotent. Raises AppError missing/conflict/invalid
   * (does not verify) and then changes nothing.
   */
  promote(vmid: number, generation: number, atLeast: ReplicaPoint): Promise<{ point: ReplicaPoint; pointAtMs: number }>;
  /** Notes that other nodes hold all that this primary copy of `generation` holds. Nothing may have it open any more. */
  noteHandedOver(vmid: number, generation: number, last: LastPoint): Promise<void>;
  /**
   * A former primary becomes a replica; its own writes are kept as a left-behind tail. When it was handed over it is a replica at that very point,
   * and needs no tail if that is `identicalTo`. Idempotent. The guest must not run here.
   */
  demote(vmid: number, identicalTo?: ReplicaPoint | null): Promise<void>;
  /**
   * Gives a primary copy of `generation`, which nothing has open, new content: all disks or none. What lay there is kept as a tail; without a
   * difference nothing is changed and there is none. Raises AppError conflict for another copy or a disk that the new content lacks; unsupported by
   * drivers that cannot. Until it returns, and whatever fails, the disks are the old ones.
   */
  replace(vmid: number, generation: number, content: NewContent): Promise<{ changedBytes: number }>;
  releaseLeftBehind(vmid: number, name: string): Promise<void>;
  /** Writes the tail's whole disks as raw files into `directory`. */
  exportLeftBehind(vmid: number, name: string, directory: string): Promise<string[]>;
  remove(vmid: number): Promise<void>;
}
