import { stepActive } from '#core/ha/manager/active-step.ts';
import type { GuestFacts } from '#core/ha/manager/facts.ts';
import { type GuestEntry, type GuestState } from '#core/ha/manager/memory.ts';
import { type RoundDraft, amend, enter, entryOf, guestFactsOf, isLongLost, resultOf } from '#core/ha/manager/draft.ts';
import { stepAwaitingRecovery } from '#core/ha/manager/recovery-step.ts';
import { allowsNode, findRivalNodes, hasCompanionsElsewhere, listRefusals, selectNode } from '#core/ha/manager/selection.ts';
import { waitsForOthers } from '#core/ha/manager/start-groups.ts';
import { refuseCommand, takeMove } from '#core/ha/manager/taken-commands.ts';
import { isBackUnclaimed, leaveWithoutFence } from '#core/ha/manager/without-fence.ts';

/** One step of one guest: at most one change of state. The drawing of the states is in memory.ts. */
export function stepGuest(draft: RoundDraft, id: string): void {
  const entry = entryOf(draft, id);
  const guest = guestFactsOf(draft, id);
  if (leaveWithoutFence(draft, guest, entry)) return;
  switch (entry.state.kind) {
    case 'start-requested':
      return stepStartRequested(draft, guest, entry);
    case 'active':
      return stepActive(draft, guest, entry, entry.state);
    case 'stop-requested':
      return stepStopRequested(draft, guest, entry);
    case 'inactive':
      return stepInactive(draft, guest, entry);
    case 'start-requested-elsewhere':
    case 'moving-live':
    case 'moving-cold':
      return stepMoving(draft, guest, entry, entry.state.to);
    case 'awaiting-fence':
      return stepAwaitingFence(draft, guest, entry);
    case 'awaiting-recovery':
      return stepAwaitingRecovery(draft, guest, entry);
    case 'frozen':
      return stepFrozen(draft, guest, entry);
    case 'failed':
      return stepFailed(draft, guest, entry);
  }
}

/** The state of a guest that has a place again: as the operator wants it. */
export function wantedState(guest: GuestFacts, recovered = false): GuestState {
  return guest.want === 'started'
    ? { kind: 'active', seenRunning: false, recovered }
    : { kind: 'stop-requested', timeoutMs: null };
}

/** It is where it was to return to. */
function stays({ node, returnTo }: GuestEntry): { returnTo: string | null } {
  return { returnTo: returnTo === node ? null : returnTo };
}

/** A guest that was to start elsewhere starts here, even where its own rule would have it elsewhere; not beside a rival that has come meanwhile. */
function afterFailedMove(draft: RoundDraft, guest: GuestFacts, entry: GuestEntry): GuestState {
  const meetsRival = entry.state.kind === 'start-requested-elsewhere' && findRivalNodes(draft, guest.id).has(entry.node);
  const state = meetsRival ? unstartedState(draft, guest, entry) : wantedState(guest);
  return state.kind === 'active' ? { ...state, moveFailed: true } : state;
}

function stepStartRequested(draft: RoundDraft, guest: GuestFacts, entry: GuestEntry): void {
  if (guest.want !== 'started') {
    // It may have waited for long to start, and does not any more; at rest it is kept stopped.
    enter(draft, guest.id, { kind: 'inactive' }, `it is wanted ${guest.want}`);
    return;
  }
  if (waitsForOthers(draft, guest)) return;
  if (draft.facts.settings.balanceOnStart) {
    const best = selectNode(draft, guest, entry, 'best');
    if (best !== null && best !== entry.node) {
      enter(draft, guest.id, { kind: 'start-requested-elsewhere', to: best }, `${best} is the best node to start it on`);
      return;
    }
  }
  if (goesElsewhereFirst(draft, guest, entry)) return;
  const nowhere = whyNowhere(draft, guest, entry);
  if (nowhere === null) enter(draft, guest.id, { kind: 'active', seenRunning: false, recovered: false }, 'it is wanted started');
  else draft.decisions.push({ kind: 'cannot-start', guest: guest.id, node: entry.node, because: nowhere });
}

/**
 * Moves a guest before its start that its rules forbid its node, or whose companions are elsewhere: started where its rival runs, it would be the
 * rival that has to go; started alone, it would draw a companion that runs to where it is.
 */
function goesElsewhereFirst(draft: RoundDraft, guest: GuestFacts, entry: GuestEntry): boolean {
  if (!draft.facts.settings.refusesForbiddenMoves) return false;
  const isForbidden = !allowsNode(draft, guest.id, entry.node);
  if (!isForbidden && !hasCompanionsElsewhere(draft, guest.id, entry.node)) return false;
  // Without failback it stays where it runs; it does not run yet.
  const other = selectNode(draft, guest, entry, isForbidden ? 'stay' : 'best');
  if (other === null || other === entry.node) return false;
  const because = isForbidden ? `its rules forbid ${entry.node}` : `it belongs on ${other} with its companions`;
  enter(draft, guest.id, { kind: 'start-requested-elsewhere', to: other }, because);
  return true;
}

/**
 * Why a guest that does not run yet has no place to start: its rules forbid its node, and no other will do. null: it has one, or its node is lost
 * and it is to be recovered.
 */
function whyNowhere(draft: RoundDraft, guest: GuestFacts, entry: GuestEntry): string | null {
  const isThere = draft.nodes.get(entry.node) === 'up' || draft.nodes.get(entry.node) === 'draining';
  if (!isThere) return waitsForItsNode(draft, guest, entry) ? `${entry.node} is not reached, and the rules forbid it` : null;
  if (allowsNode(draft, guest.id, entry.node) || selectNode(draft, guest, entry, 'stay') !== null) return null;
  return listRefusals(draft, guest.id).join('; ') || `the rules forbid ${entry.node}, and no other node receives guests`;
}

/** Ordered to run there, it would start beside its rival as soon as the node is back. */
function waitsForItsNode(draft: RoundDraft, guest: GuestFacts, { node }: GuestEntry): boolean {
  return draft.facts.settings.refusesForbiddenMoves && !isLongLost(draft, node) && !allowsNode(draft, guest.id, node);
}

function stepStopRequested(draft: RoundDraft, guest: GuestFacts, entry: GuestEntry): void {
  const result = resultOf(draft, entry);
  if (result !== undefined) {
    if (result === 'ok') enter(draft, guest.id, { kind: 'inactive' }, 'its agent stopped it', { failedNodes: [] });
    else enter(draft, guest.id, { kind: 'failed' }, `its agent could not stop it: ${result}`);
    return;
  }
  if (isLongLost(draft, entry.node)) enter(draft, guest.id, { kind: 'awaiting-fence' }, `${entry.node} is lost`);
}

function stepInactive(draft: RoundDraft, guest: GuestFacts, entry: GuestEntry): void {
  // A node that was fenced in the middle of a move leaves the guest where its record says.
  if (guest.home !== entry.node) amend(draft, guest.id, { node: guest.home });
  const { node, command } = entryOf(draft, guest.id);
  if (command !== null) {
    if (command.kind === 'move' && takeMove(draft, guest, command)) return;
    if (command.kind === 'stop') refuseCommand(draft, command, 'wrong-state', 'it does not run');
    amend(draft, guest.id, { command: null });
  }
  if (guest.want === 'disabled') return;
  if (isLongLost(draft, node) && draft.nodes.get(node) !== 'draining') {
    enter(draft, guest.id, { kind: 'awaiting-fence' }, `${node} is lost`);
    return;
  }
  if (guest.want === 'started') enter(draft, guest.id, { kind: 'start-requested' }, 'it is wanted started');
}

function stepMoving(draft: RoundDraft, guest: GuestFacts, entry: GuestEntry, target: string): void {
  const result = resultOf(draft, entry);
  switch (result) {
    case undefined:
      if (isLongLost(draft, entry.node))
        enter(draft, guest.id, { kind: 'awaiting-fence' }, `${entry.node} is lost while it moved`);
      return;
    case 'ok':
      return enter(draft, guest.id, wantedState(guest), `it arrived on ${target}`, { node: target });
    case 'wrong-node':
      return enter(
        draft,
        guest.id,
        { kind: 'failed' },
        `its record names ${guest.home}, the move was ordered from ${entry.node}`,
      );
    case 'skipped':
      return enter(draft, guest.id, wantedState(guest), `it runs on ${entry.node} already`);
    case 'failed':
    case 'broken':
      return enter(
        draft,
        guest.id,
        afterFailedMove(draft, guest, entry),
        `the move to ${target} failed; it stays on ${entry.node}`,
        stays(entry),
      );
  }
}

/** Left by fenceNodes, once the permit is claimed; or its node is back in time. */
function stepAwaitingFence(draft: RoundDraft, guest: GuestFacts, { node }: GuestEntry): void {
  if (isBackUnclaimed(draft, node)) enter(draft, guest.id, wantedState(guest), `${node} is back before its permit was claimed`);
}

function stepFrozen(draft: RoundDraft, guest: GuestFacts, entry: GuestEntry): void {
  const mode = draft.nodeFacts.get(entry.node)?.agentMode ?? 'restart';
  switch (mode) {
    case 'restart':
    case 'disarm':
      return;
    case 'active':
      return enter(draft, guest.id, unstartedState(draft, guest, entry), `the agent of ${entry.node} is active again`);
    case 'maintenance':
    case 'shutdown':
      // Frozen by a disarm that is over. Nobody brings the guest back here, so it leaves as all others of that node do.
      return enter(draft, guest.id, wantedState(guest), `${entry.node} lets its guests go (${mode})`);
  }
}

/** One that does not run, and may not by the rules of today, looks for another place before it starts. */
function unstartedState(draft: RoundDraft, guest: GuestFacts, { node }: GuestEntry): GuestState {
  const isLive = draft.facts.settings.refusesForbiddenMoves;
  const isForbidden = isLive && guest.runs !== true && !allowsNode(draft, guest.id, node);
  return guest.want === 'started' && isForbidden ? { kind: 'start-requested' } : wantedState(guest);
}

function stepFailed(draft: RoundDraft, guest: GuestFacts, entry: GuestEntry): void {
  if (guest.want === 'disabled') {
    enter(draft, guest.id, { kind: 'inactive' }, 'it was disabled, which clears the failure', { failedNodes: [] });
    return;
  }
  if (entry.command !== null) {
    refuseCommand(draft, entry.command, 'wrong-state', 'it has failed; disable it first');
    amend(draft, guest.id, { command: null });
  }
}

/** Guests of an agent that restarts keep still until it is back. */
export function freezeIfRestarting(draft: RoundDraft, id: string): void {
  const entry = entryOf(draft, id);
  if (draft.nodeFacts.get(entry.node)?.agentMode !== 'restart') return;
  switch (entry.state.kind) {
    case 'inactive':
      // What its node let go of does not come back with the node.
      if (guestFactsOf(draft, id).givenUp === true) return;
      draft.unguarded.add(entry.node);
      return enter(draft, id, { kind: 'frozen' }, `the agent of ${entry.node} restarts`);
    case 'active':
    case 'stop-requested':
      draft.unguarded.add(entry.node);
      return enter(draft, id, { kind: 'frozen' }, `the agent of ${entry.node} restarts`);
    case 'start-requested':
    case 'start-requested-elsewhere':
    case 'moving-live':
    case 'moving-cold':
    case 'awaiting-fence':
    case 'awaiting-recovery':
    case 'frozen':
    case 'failed':
      return;
  }
}
