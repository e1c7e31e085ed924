import type { NodeFacts } from '#core/ha/manager/facts.ts';
import type { NodeState } from '#core/ha/manager/memory.ts';
import { guestFactsOf, type RoundDraft } from '#core/ha/manager/draft.ts';
import { noteClaim } from '#core/ha/manager/quarantine.ts';
import { isBackUnclaimed, needsFence } from '#core/ha/manager/without-fence.ts';

/**
 * The manager's view of each node.
 *
 *        ┌── agent says maintenance ──┐
 *        v                            │
 *     draining ── stops saying so ──> up <──────── seen again ───────┐
 *        │                            │                              │
 *        └───────── lost ─────────────┴──> unreachable ──────────────┘
 *                                             │     ^
 *                        a guest awaits the   v     │ claimed
 *                        fence              fencing ┘                  removed: no longer a node of the cluster
 *
 * Where orders stand, nobody but the manager reads that a node is to be fenced: one that is seen again under a permit is up, and what it
 * may still run is decided guest by guest (without-fence.ts).
 *
 * A drained node that is switched off stays draining while maintenance is the last thing its agent said.
 */
export function updateNodeStates(draft: RoundDraft): void {
  for (const facts of draft.facts.nodes) {
    noteGuard(draft, facts);
    const state = draft.nodes.get(facts.name) ?? 'unreachable';
    const { next, because } = facts.present ? whenPresent(draft, state, facts) : whenAbsent(state, facts);
    if (next !== state || !draft.nodes.has(facts.name)) setNodeState(draft, facts.name, next, because);
  }
  for (const [name, state] of draft.nodes) {
    if (!draft.nodeFacts.has(name) && state !== 'removed' && state !== 'fencing')
      setNodeState(draft, name, 'removed', 'it is no longer a node of the cluster');
  }
}

/** Once armed again, an open watchdog or a host that is off makes a claim mean something again. */
function noteGuard(draft: RoundDraft, facts: NodeFacts): void {
  if (draft.disarm !== null || !draft.unguarded.has(facts.name)) return;
  const restarts = facts.agentMode === 'restart' && facts.present;
  if (facts.confirmedOff || (facts.present && facts.watchdogOpen && !restarts)) draft.unguarded.delete(facts.name);
}

type NextState = { next: NodeState; because: string };

function whenPresent(draft: RoundDraft, state: NodeState, facts: NodeFacts): NextState {
  const drains = facts.agentMode === 'maintenance';
  switch (state) {
    case 'up':
      return drains ? { next: 'draining', because: 'its agent says maintenance' } : { next: 'up', because: 'it is seen' };
    case 'draining':
      return drains
        ? { next: 'draining', because: 'its agent says maintenance' }
        : { next: 'up', because: 'its agent no longer says maintenance' };
    case 'fencing':
      return isBackUnclaimed(draft, facts.name)
        ? { next: 'up', because: 'it is seen again under a permit' }
        : { next: 'fencing', because: 'a fence that was asked for is carried through' };
    case 'unreachable':
    case 'removed':
      return { next: 'up', because: 'it is seen' };
  }
}

function whenAbsent(state: NodeState, facts: NodeFacts): NextState {
  switch (state) {
    case 'up':
      return { next: 'unreachable', because: 'it left the quorate set' };
    case 'draining':
      return facts.agentMode === 'maintenance'
        ? { next: 'draining', because: 'it left the quorate set, drained' }
        : { next: 'unreachable', because: 'it left the quorate set' };
    case 'unreachable':
    case 'removed':
      return { next: 'unreachable', because: 'it is not seen' };
    case 'fencing':
      return { next: 'fencing', because: 'its permit is not claimed yet' };
  }
}

export function setNodeState(draft: RoundDraft, node: string, state: NodeState, because: string): void {
  const was = draft.nodes.get(node) ?? null;
  draft.nodes.set(node, state);
  draft.decisions.push({ kind: 'node', node, was, state, because });
}

/**
 * Fences nodes that guests wait for, and nodes that were being fenced, as far as their permits can be claimed. Returns true when
 * a guest moved on because of it.
 */
export function fenceNodes(draft: RoundDraft): boolean {
  const waiting = new Set<string>();
  for (const [id, entry] of draft.guests)
    if (entry.state.kind === 'awaiting-fence' && needsFence(guestFactsOf(draft, id))) waiting.add(entry.node);
  for (const [node, state] of draft.nodes) if (state === 'fencing') waiting.add(node);
  const fenced = [...waiting].sort().filter((node) => fenceNode(draft, node));
  return fenced.length > 0;
}

/** True when the node can run nothing any more. */
function fenceNode(draft: RoundDraft, node: string): boolean {
  if (draft.nodes.get(node) !== 'fencing') setNodeState(draft, node, 'fencing', 'guests wait for its permit to be claimed');
  const facts = draft.nodeFacts.get(node);
  // Its claim would say nothing about the guests that run on there.
  if (draft.unguarded.has(node) && facts?.confirmedOff !== true) return false;
  const permit = facts?.permit ?? 'claimed';
  switch (permit) {
    case 'held':
      return false;
    case 'claimable':
    case 'claimed': {
      const because = permit === 'claimed' ? 'its permit is revoked' : 'a proof for its claim is at hand';
      if (permit === 'claimable') {
        draft.steps.push({ kind: 'claim', node, because });
        // On a live cluster the record tells of it, once it has come to be.
        if (facts?.claimedEpoch === undefined) noteClaim(draft, node, draft.facts.nowMs, null);
      }
      setNodeState(draft, node, 'unreachable', because);
      return true;
    }
  }
}
