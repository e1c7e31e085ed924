import type { GuestFacts, OrderResult } from '#core/ha/manager/facts.ts';
import type { GuestEntry, GuestState } from '#core/ha/manager/memory.ts';
import {
  type RoundDraft,
  amend,
  enter,
  entryOf,
  isLongLost,
  isRefused,
  isWithin,
  restsAfterMove,
  resultOf,
} from '#core/ha/manager/draft.ts';
import { listRefusals, onlyYields, selectNode } from '#core/ha/manager/selection.ts';
import { takeMove } from '#core/ha/manager/taken-commands.ts';

/**
 * A guest that is wanted started and has a place. In this order:
 *
 *   its node is lost ──> wait, then awaiting-fence         it is wanted otherwise ──> stop-requested
 *   a queued command ──> move or stop                      its start failed ──> another node, or failed
 *   it belongs elsewhere ──> move                          else the order is given again, so a crashed guest starts again, unless orders
 *                                                          stand until they are replaced and it went well
 */
type Active = Extract<GuestState, { kind: 'active' }>;

export function stepActive(draft: RoundDraft, guest: GuestFacts, entry: GuestEntry, state: Active): void {
  if (!keepOnLostNode(draft, guest, entry)) return;
  if (guest.want !== 'started') {
    enter(draft, guest.id, { kind: 'stop-requested', timeoutMs: null }, `it is wanted ${guest.want}`);
    return;
  }
  if (entry.command !== null) {
    takeCommand(draft, guest, entry);
    return;
  }
  const result = resultOf(draft, entry);
  const verdict = result === undefined ? 'stay' : judgeStart(draft, guest, entry, state, result);
  if (verdict === 'stay' && isFirstStartOnDrained(draft, guest)) return;
  if (verdict !== 'gave-up') place(draft, guest, verdict, mayReorder(draft, result));
}

/** False when the guest can only wait for its node or was given over to fencing. */
function keepOnLostNode(draft: RoundDraft, guest: GuestFacts, entry: GuestEntry): boolean {
  const node = draft.nodes.get(entry.node);
  if (node === 'up') {
    if (entry.returnTo === entry.node) amend(draft, guest.id, { returnTo: null });
    return true;
  }
  if (isLongLost(draft, entry.node)) {
    enter(draft, guest.id, { kind: 'awaiting-fence' }, `${entry.node} is lost`);
    return false;
  }
  if (node !== 'draining') return false;
  if (entry.returnTo !== entry.node) amend(draft, guest.id, { returnTo: entry.node });
  return true;
}

function takeCommand(draft: RoundDraft, guest: GuestFacts, entry: GuestEntry): void {
  const { command } = entry;
  if (command === null) return;
  switch (command.kind) {
    case 'move':
      if (!takeMove(draft, guest, command)) amend(draft, guest.id, { command: null });
      return;
    case 'stop':
      draft.steps.push({ kind: 'want-stopped', guest: guest.id, because: 'a stop was asked for' });
      return enter(draft, guest.id, { kind: 'stop-requested', timeoutMs: command.timeoutMs }, 'a stop was asked for');
  }
}

function judgeStart(
  draft: RoundDraft,
  guest: GuestFacts,
  entry: GuestEntry,
  state: Active,
  result: OrderResult,
): 'stay' | 'next' | 'gave-up' {
  switch (result) {
    case 'ok':
    case 'skipped':
      if (!state.seenRunning || state.recovered || entry.failedNodes.length > 0)
        amend(draft, guest.id, { ...avoiding(draft, entry), state: { ...state, seenRunning: true, recovered: false } });
      return 'stay';
    case 'failed':
    case 'wrong-node':
      return judgeFailedStart(draft, guest, entry, state);
    case 'broken':
      enter(draft, guest.id, { kind: 'failed' }, 'its agent finds no way to start it');
      return 'gave-up';
  }
}

/** Its start went well where it is: what it remembers of where it did not. */
function avoiding({ facts }: RoundDraft, { failedNodes }: GuestEntry): Pick<GuestEntry, 'failedNodes' | 'avoids'> {
  const isOver = failedNodes.length === 0 || facts.settings.avoidFailedMs === 0;
  return isOver ? { failedNodes: [] } : { failedNodes: [], avoids: { nodes: failedNodes, sinceMs: facts.nowMs } };
}

function judgeFailedStart(draft: RoundDraft, guest: GuestFacts, entry: GuestEntry, state: Active): 'next' | 'gave-up' {
  const failedNodes = [...entry.failedNodes, entry.node];
  const because = `its start failed on ${failedNodes.join(', ')}; ${guest.otherNodeTries} tries on other nodes are allowed`;
  amend(draft, guest.id, { failedNodes, state: { ...state, seenRunning: false } });
  const next = failedNodes.length <= guest.otherNodeTries ? 'other-node' : 'gave-up';
  draft.decisions.push({ kind: 'start-failed', guest: guest.id, node: entry.node, next, because });
  if (next === 'other-node') return 'next';
  enter(draft, guest.id, { kind: 'failed' }, because);
  return 'gave-up';
}

/**
 * Its node was drained when it came back with the guest's own disks: it starts there first, and leaves once it runs. When the node has booted since
 * it leaves unstarted: a node that is about to end is given nothing to start any more.
 */
function isFirstStartOnDrained(draft: RoundDraft, guest: GuestFacts): boolean {
  const { state, node } = entryOf(draft, guest.id);
  return state.kind === 'active' && state.recovered && guest.orderOver !== true && draft.nodes.get(node) === 'draining';
}

/** Only once the last order's end is known, or it would never be told under an id that still counts. */
function mayReorder(draft: RoundDraft, result: OrderResult | undefined): boolean {
  if (result === undefined) return false;
  return !draft.facts.settings.standingOrders || (result !== 'ok' && result !== 'skipped');
}

function place(draft: RoundDraft, guest: GuestFacts, mode: 'stay' | 'next', reorder: boolean): void {
  const { avoids } = entryOf(draft, guest.id);
  if (avoids && !isWithin(draft, avoids.sinceMs, draft.facts.settings.avoidFailedMs)) amend(draft, guest.id, { avoids: null });
  const entry = entryOf(draft, guest.id);
  const stays = mode === 'stay' && (isRefused(draft, entry.node) || restsAfterMove(draft, entry) || isComingBack(draft, entry));
  const node = stays ? entry.node : selectNode(draft, guest, entry, mode);
  if (node === null || node === entry.node) {
    if (node === null && draft.nodes.get(entry.node) === 'draining') tellStuck(draft, entry, guest);
    if (reorder) amend(draft, guest.id, { orderId: draft.nextOrderId++ });
    return;
  }
  if (draft.isFirstPass && mode === 'stay' && onlyYields(draft, guest, entry)) {
    draft.hasYielder = true;
    return;
  }
  const returns = entry.returnTo === node;
  const because = returns
    ? `${node} is no longer drained`
    : mode === 'next'
      ? `its start failed on ${entry.node}`
      : `it belongs on ${node}`;
  if (returns) draft.decisions.push({ kind: 'returns', guest: guest.id, to: node, because });
  enter(draft, guest.id, { kind: guest.movesLive ? 'moving-live' : 'moving-cold', to: node }, because, {
    returnTo: returns ? null : entry.returnTo,
  });
}

/** It has just been recovered: it runs before it goes where it would be better off. Where all have to leave, nobody waits for that. */
function isComingBack({ nodes }: RoundDraft, { state, node }: GuestEntry): boolean {
  return state.kind === 'active' && state.recovered && nodes.get(node) !== 'draining';
}

/** A drain waits for this guest, and people want to know why. */
function tellStuck(draft: RoundDraft, { node }: GuestEntry, { id }: GuestFacts): void {
  const because = listRefusals(draft, id);
  draft.decisions.push({ kind: 'cannot-leave', guest: id, node, because: because.join('; ') || 'no other node receives guests' });
}
