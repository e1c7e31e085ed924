import type { HaEvent, ClaimProof } from '#core/ha/records.ts';

/**
 * What a round asks for. Every write is a commit that compares what it rests on; who performs it adds the compare of the lead. A commit
 * that is refused changes nothing, and the next round plans afresh.
 */
export type ClusterStep =
  | { kind: 'ask-controller'; node: string; action: 'read' | 'off' | 'on'; because: string }
  /** A guest that should run and cannot: said once a change, with the reason. */
  | { kind: 'defer'; vmid: number; because: string }
  | CommitStep;

export type CommitStep = {
  kind: 'commit';
  about: { kind: 'claim' | 'release'; node: string } | { kind: 'memory' } | { kind: 'guest'; vmid: number; node: string };
  compares: { key: string; modRevision: bigint }[];
  writes: { key: string; value: string | null }[];
  events: StepEvent[];
  because: string;
};

/** An event without what the writer adds: its id, its time, the manager's epoch. */
export type StepEvent = Pick<HaEvent, 'kind' | 'node' | 'vmid' | 'text'> & { proof?: ClaimProof };
