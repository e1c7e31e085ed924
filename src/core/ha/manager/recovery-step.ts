import type { GuestFacts } from '#core/ha/manager/facts.ts';
import type { GuestEntry } from '#core/ha/manager/memory.ts';
import { type RoundDraft, amend, enter } from '#core/ha/manager/draft.ts';
import { planPlace } from '#core/ha/manager/recovery-sites.ts';
import { waitsForOthers } from '#core/ha/manager/start-groups.ts';

/**
 * A guest whose node is claimed: it goes where it can start, freshest data first, then as the rules and the load say. Without such
 * a node it is tried again every round, for as long as it takes.
 */
export function stepAwaitingRecovery(draft: RoundDraft, guest: GuestFacts, entry: GuestEntry): void {
  if (waitsForOthers(draft, guest)) return;
  const { node, because } = planPlace(draft, guest, entry);
  if (node === null) {
    stayLost(draft, guest, entry, because);
    return;
  }
  draft.steps.push({ kind: 'rehome', guest: guest.id, from: entry.node, to: node, because });
  draft.decisions.push({ kind: 'recovered', guest: guest.id, node, because });
  const started = guest.want === 'started';
  enter(
    draft,
    guest.id,
    started ? { kind: 'active', seenRunning: false, recovered: true } : { kind: 'stop-requested', timeoutMs: null },
    because,
    { node, ...avoidingUnfit(draft, guest, entry) },
  );
}

/** Where its copy was found unfit it does not go back by itself for a while: each point that it hands over there would look fit, and be declined again. */
function avoidingUnfit(
  { facts }: RoundDraft,
  { unfitNodes = [] }: GuestFacts,
  { avoids }: GuestEntry,
): Pick<GuestEntry, 'avoids'> {
  if (unfitNodes.length === 0 || facts.settings.avoidFailedMs === 0) return {};
  return { avoids: { nodes: [...new Set([...(avoids?.nodes ?? []), ...unfitNodes])], sinceMs: facts.nowMs } };
}

function stayLost(draft: RoundDraft, guest: GuestFacts, entry: GuestEntry, because: string): void {
  if (guest.want === 'disabled') {
    enter(draft, guest.id, { kind: 'inactive' }, 'it was disabled while it awaited a node', { failedNodes: [] });
    return;
  }
  // What it waited for is over.
  if (entry.state.kind === 'awaiting-recovery' && entry.state.waitsFor !== undefined)
    amend(draft, guest.id, { state: { kind: 'awaiting-recovery' }, because: 'no node can take it now' });
  draft.decisions.push({ kind: 'no-recovery-target', guest: guest.id, node: entry.node, because });
}
