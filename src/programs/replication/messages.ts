import type { ReplicaPoint } from '#core/guest/guest-record.ts';
import type { LeftBehind, ReplicaRecord } from '#core/replica/records.ts';
import type { TargetCopy } from '#core/replica/send-plan.ts';
import type { TargetDisk } from '#core/storage/zfs/send-plan.ts';

/**
 * The control stream between a guest's home (which calls) and a target. JSON lines, one call at a time:
 *
 *   state ─► begin ─► (hashes)* ─► data over NBD ─► seal          abort or hanging up: the point is forgotten
 *              │                                      └► hashTail ─► measured
 *              └► a stream for each disk ─► (received)* ─► seal   between two nodes with OpenZFS
 */
export type Calls = {
  state: { ask: { vmid: number }; answer: TargetState };
  begin: {
    ask: { vmid: number; point: ReplicaPoint; disks: { name: string; sizeBytes: number }[]; streams?: StreamOffer };
    answer: Record<string, never>;
  };
  /** Whether a disk's stream has been taken in whole. false: not yet, ask again. Refused with what ZFS refused the stream with. */
  received: { ask: { disk: string }; answer: { done: boolean } };
  /**
   * Digests of the target's own disk as it is, in base64; called before anything is written. null: still reading, ask again. See
   * core/replica/chunks.ts.
   */
  hashes: { ask: { disk: string; firstChunk: number; count: number }; answer: { digests: string | null } };
  seal: {
    ask: { pointAtMs: number; configSha256: string; lastCycle: ReplicaRecord['lastCycle'] };
    answer: { point: ReplicaPoint };
  };
  abort: { ask: Record<string, never>; answer: Record<string, never> };
  hashTail: {
    ask: { vmid: number; name: string; disk: string; firstChunk: number; count: number };
    answer: { digests: string | null };
  };
  measured: {
    /** `disks`: all that were compared, with the sizes that they have here. */
    ask: {
      vmid: number;
      generation: number;
      name: string;
      sizeBytes: number;
      fromAtMs: number;
      disks: { name: string; sizeBytes: number }[];
    };
    answer: Record<string, never>;
  };
};

/** `zfs`: what a target that keeps its copies in a pool could go on from; left out: its copies are files. */
export type TargetState = TargetCopy & { unmeasuredTail: LeftBehind | null; zfs?: TargetDisk[] };

/** What a sender with a pool is about to send, disk by disk in the order of `disks`. `anchors`: points that other nodes hold. */
export type StreamOffer = {
  disks: { kind: 'volume' | 'file'; base: string | null; to: string; isRest: boolean }[];
  anchors: ReplicaPoint[];
};

export type CallName = keyof Calls;

/** Digests asked for at once: base64 of them stays well below the longest line. */
export const digestsPerCall = 32_768;

/** The answer `null` comes after this long, so that a caller can tell a slow disk from a dead process. */
export const digestsPatienceMs = 2_000;
