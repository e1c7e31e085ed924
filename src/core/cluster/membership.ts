/** One member of the store, as the others list it. */
export type Member = {
  id: bigint;
  /** Empty until it was started once. */
  name: string;
  peerUrls: string[];
  clientUrls: string[];
  isLearner: boolean;
  healthy: boolean;
};

/** More voters than this make every write slower and nothing safer; further nodes are clients of the store. */
export const votersAtMost = 5;

/** What a joining machine has to do next about its membership. */
export type MembershipStep =
  | { kind: 'add'; as: 'learner' }
  | { kind: 'client-only' }
  | { kind: 'start'; member: Member }
  | { kind: 'promote'; member: Member }
  | { kind: 'done'; member: Member };

/** From the members there are: every step may be cut off and looked at again. */
export function planMembership(members: Member[], self: { peerUrl: string }, role: 'node' | 'witness'): MembershipStep {
  const mine = members.find((member) => member.peerUrls.includes(self.peerUrl));
  if (mine === undefined) {
    if (role === 'node' && members.length >= votersAtMost) return { kind: 'client-only' };
    return { kind: 'add', as: 'learner' };
  }
  if (mine.name === '') return { kind: 'start', member: mine };
  return mine.isLearner ? { kind: 'promote', member: mine } : { kind: 'done', member: mine };
}

export function quorumOf(voters: number): number {
  return Math.floor(voters / 2) + 1;
}

export type NodeUse = {
  /** Guests whose record calls it home. */
  homes: number[];
  /** Replicated guests whose one copy lies there. */
  onlyCopyOf: number[];
  isDrained: boolean;
  permit: 'granted' | 'revoked' | 'none';
};

/** `mayPass`: nothing is against it but that members do not answer this moment, as in an election. */
export type Removal =
  | { kind: 'allowed'; member: Member | null; notes: string[] }
  | { kind: 'refused'; because: string[]; mayPass: boolean };

/** Whether a node may leave by itself. Every reason against it is told at once. */
export function planLeave(name: string, members: Member[], use: NodeUse): Removal {
  const because: string[] = [];
  if (use.homes.length > 0) {
    because.push(`guests are at home there (${use.homes.join(', ')}); move them away with: holdfast ha drain ${name}`);
  }
  if (use.homes.length === 0 && !use.isDrained && use.permit === 'granted') {
    because.push(`it is not drained: a guest could be placed there meanwhile; run: holdfast ha drain ${name}`);
  }
  if (use.onlyCopyOf.length > 0) {
    because.push(
      `it has the only copy of guests (${use.onlyCopyOf.join(', ')}); add a node and wait for their copies, or disable their replication`,
    );
  }
  return planRemoval(name, members, because);
}

/** Whether a dead node may be taken out, so that a new machine can take its place. */
export function planReplace(name: string, self: string, members: Member[], use: Pick<NodeUse, 'homes' | 'permit'>): Removal {
  const because: string[] = [];
  if (name === self) because.push('this command runs on it: it is not dead; use holdfast leave');
  if (use.permit === 'granted') {
    because.push('its permit is not claimed: its guests may still be running; wait until `holdfast status` says that it is lost');
  }
  if (use.homes.length > 0) because.push(`guests are at home there (${use.homes.join(', ')}); they must be recovered first`);
  if (members.some((member) => member.name === name && member.healthy))
    because.push('its member of the store answers: it is not dead');
  return planRemoval(name, members, because);
}

function planRemoval(name: string, members: Member[], because: string[]): Removal {
  const member = members.find((candidate) => candidate.name === name) ?? null;
  const others = members.filter((candidate) => candidate !== member && !candidate.isLearner);
  const healthy = others.filter((candidate) => candidate.healthy);
  const lacksAnswers = others.length > 0 && healthy.length < quorumOf(others.length);
  const mayPass = lacksAnswers && because.length === 0;
  if (others.length === 0) because.push('it is the last member of the store: the cluster would be gone');
  else if (lacksAnswers) {
    because.push(`without it the store would have ${healthy.length} of ${others.length} members answering: no majority`);
  }
  if (because.length > 0) return { kind: 'refused', because, mayPass };
  const tolerated = others.length - quorumOf(others.length);
  const notes =
    tolerated > 0 ? [] : [`with ${others.length} members left the store stops at the next loss; add a node or a witness soon`];
  return { kind: 'allowed', member, notes };
}
