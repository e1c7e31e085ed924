import type { ClusterRole } from '#core/cluster/join-code.ts';

/** `/holdfast/join-codes/ID`: a code that was given out. The secret itself is nowhere but in the code. */
export type JoinCodeRecord = {
  id: string;
  role: ClusterRole;
  /** SHA-256 of the secret. */
  secretHash: string;
  /** The member that made it: it alone answers, so one clock judges its age. */
  madeBy: string;
  createdAtMs: number;
  expiresAtMs: number;
  wrongTries: number;
  /** Who used it; `keyHash`: SHA-256 of its public key. Nobody with another key can use the code any more. */
  used: { name: string; address: string; keyHash: string; atMs: number } | null;
};

/** What a machine asks at the door. `keyHash` null: it only asks what it would join. */
export type Ask = { role: ClusterRole; secretHash: string; name: string; address: string; keyHash: string | null };

export type DoorFacts = {
  nowMs: number;
  /** Nodes and witnesses there are. `isDead`: declared so with `node replace`: its name may be taken by a new machine. */
  taken: { name: string; address: string | null; isDead: boolean }[];
};

export type Admission =
  /** `record`: what the code's record has to become first, by compare-and-set; null: it stays. */
  | { kind: 'admitted'; record: JoinCodeRecord | null }
  | { kind: 'refused'; reason: 'unauthenticated' | 'conflict' | 'invalid'; because: string; record: JoinCodeRecord | null };

/** So many wrong secrets for one code and it is as good as used up. */
export const wrongTriesAllowed = 5;

/**
 * Whether a machine with this code may join. One answer for a code that is not known, expired or mistyped at the secret: whoever guesses
 * learns nothing.
 */
export function planAdmission(record: JoinCodeRecord | null, ask: Ask, facts: DoorFacts): Admission {
  const stranger =
    'this code is not good (any more): it may have expired or been used up; make a new one on a member with: holdfast join-code';
  const refuse = (
    reason: 'unauthenticated' | 'conflict' | 'invalid',
    because: string,
    next: JoinCodeRecord | null = null,
  ): Admission => ({
    kind: 'refused',
    reason,
    because,
    record: next,
  });
  if (record === null || record.wrongTries >= wrongTriesAllowed || facts.nowMs >= record.expiresAtMs) {
    return refuse('unauthenticated', stranger);
  }
  if (record.secretHash !== ask.secretHash) {
    return refuse('unauthenticated', stranger, { ...record, wrongTries: record.wrongTries + 1 });
  }
  if (record.role !== ask.role) return refuse('invalid', `this code is for a ${record.role}, not for a ${ask.role}`);
  const { used } = record;
  const isAgain = used !== null && used.name === ask.name && used.address === ask.address;
  if (used !== null && (!isAgain || (ask.keyHash !== null && used.keyHash !== ask.keyHash))) {
    return refuse(
      'unauthenticated',
      `this code was used already, by ${used.name} at ${used.address}; make a new one for each machine`,
    );
  }
  const rival = facts.taken.find((other) => other.name === ask.name && !other.isDead);
  if (rival !== undefined && !isAgain) return refuse('conflict', `the cluster has a ${ask.name} already; choose another --name`);
  const neighbour = facts.taken.find((other) => other.address === ask.address && other.name !== ask.name);
  if (neighbour !== undefined) return refuse('conflict', `${ask.address} is the address of ${neighbour.name}`);
  if (ask.keyHash === null || used !== null) return { kind: 'admitted', record: null };
  const { name, address, keyHash } = ask;
  return { kind: 'admitted', record: { ...record, used: { name, address, keyHash, atMs: facts.nowMs } } };
}
