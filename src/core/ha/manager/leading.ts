import type { ManagerMemory } from '#core/ha/manager/memory.ts';

/**
 * Who leads: one phase per node's manager.
 *
 *   waiting ──fit──> leader (the lead is won) or follower          leader ──renewal fails──> waiting
 *      ^                                        │
 *      └────────────── not fit ─────────────────┘   a follower tries again every round
 */
export type LeaderPhase = 'waiting' | 'leader' | 'follower';

export type LeadingFacts = {
  self: string;
  quorate: boolean;
  /** The store can be read and is up to date. */
  storeReadable: boolean;
  /** The lead could be won or renewed now. */
  leadFree: boolean;
  /** A guest is configured, or something is left to be done. */
  hasWork: boolean;
  memory: ManagerMemory;
};

export type LeadingPlan = { phase: LeaderPhase; take: boolean; because: string };

/** What this node's manager does about the lead in this round. `take`: win or renew it. */
export function planLeading(phase: LeaderPhase, facts: LeadingFacts): LeadingPlan {
  switch (phase) {
    case 'leader':
      // Fitness is asked once, at the start: a leader whose store hiccups keeps the lead and writes nothing until it reads again.
      return facts.quorate && facts.leadFree
        ? { phase: 'leader', take: true, because: 'it renews the lead' }
        : { phase: 'waiting', take: false, because: 'its renewal failed' };
    case 'waiting':
    case 'follower': {
      const unfit = whyUnfit(facts);
      if (unfit !== null) return { phase: 'waiting', take: false, because: unfit };
      return facts.leadFree
        ? { phase: 'leader', take: true, because: 'nobody leads' }
        : { phase: 'follower', take: false, because: 'another node leads' };
    }
  }
}

/** Why this node may not lead; null when it may. */
function whyUnfit(facts: LeadingFacts): string | null {
  if (!facts.quorate) return 'it is not quorate';
  if (!facts.storeReadable) return 'it cannot read the store';
  for (const entry of facts.memory.guests.values())
    if (entry.state.kind === 'awaiting-fence' && entry.node === facts.self) return 'guests wait for this very node to be fenced';
  return facts.hasWork || hasUnfinishedWork(facts.memory) ? null : 'there is nothing to lead';
}

/** Entries, drains or a disarm that someone must carry to their end although no guest is configured. */
function hasUnfinishedWork(memory: ManagerMemory): boolean {
  return memory.guests.size > 0 || memory.drains.size > 0 || memory.disarm !== null;
}
