import { isInForce } from '#core/ha/manager/disarm.ts';
import type { Command } from '#core/ha/manager/facts.ts';
import {
  type CommandRefusal,
  type RoundDraft,
  amend,
  guestFactsOf,
  isLongLost,
  recountUsage,
  whyRefused,
} from '#core/ha/manager/draft.ts';
import type { GuestEntry } from '#core/ha/manager/memory.ts';
import { releaseQuarantine, whyQuarantined } from '#core/ha/manager/quarantine.ts';
import { findRivalNodes } from '#core/ha/manager/selection.ts';
import { leavesWithoutFence } from '#core/ha/manager/without-fence.ts';
import { acceptCommand, howNotLive, refuseCommand, whyNoRoomFor } from '#core/ha/manager/taken-commands.ts';

/**
 * Commands of operators, in the order they came. Each is accepted or refused with a reason; an accepted move or stop is queued at
 * its guest and begun by that guest's next step.
 */
export function takeCommands(draft: RoundDraft): void {
  for (const command of draft.facts.commands) takeCommand(draft, command);
}

function takeCommand(draft: RoundDraft, command: Command): void {
  switch (command.kind) {
    case 'move':
      return queueMove(draft, command);
    case 'stop':
      return queueStop(draft, command);
    case 'drain':
      return drain(draft, command);
    case 'undrain':
      if (draft.drains.delete(command.node)) return acceptCommand(draft, command, 'its guests may return');
      return refuseCommand(draft, command, 'wrong-state', 'no drain was asked for');
    case 'disarm':
      if (draft.disarm !== null) return refuseCommand(draft, command, 'not-now', `it is disarmed already (${draft.disarm.mode})`);
      draft.disarm = { mode: command.mode, stage: 'waiting' };
      return acceptCommand(draft, command, 'agents let go once nothing is recovered or moved');
    case 'arm':
      return arm(draft, command);
    case 'release-quarantine':
      if (whyQuarantined(draft, command.node) === null)
        return refuseCommand(draft, command, 'wrong-state', `${command.node} is not quarantined`);
      releaseQuarantine(draft, command.node);
      // From now on it counts among those that receive guests.
      recountUsage(draft);
      return acceptCommand(draft, command, `${command.node} receives guests again`);
  }
}

/** Queues a move and those of the guests that stay together with it. */
export function queueMove(draft: RoundDraft, command: Extract<Command, { kind: 'move' }>): void {
  const refused = whyNoMove(draft, command);
  if (refused !== null) return refuseCommand(draft, command, refused.refusal, refused.because);
  acceptCommand(draft, command, `it moves to ${command.to}${howNotLive(guestFactsOf(draft, command.guest), command)}`);
  amend(draft, command.guest, { command });
  for (const companion of listDragged(draft, command)) {
    amend(draft, companion, { command: { ...command, guest: companion } });
    const because = `it stays together with ${command.guest}`;
    draft.decisions.push({ kind: 'dragged', guest: companion, to: command.to, with: command.guest, because });
  }
}

/** Who stays together with the guest and comes along. */
function listDragged(draft: RoundDraft, { guest, to }: Extract<Command, { kind: 'move' }>): string[] {
  return (draft.rules.together.get(guest) ?? []).filter((companion) => {
    const entry = draft.guests.get(companion);
    return entry !== undefined && entry.node !== to && whyTakesNone(draft, companion, entry) === null;
  });
}

type Refused = { refusal: CommandRefusal; because: string };

function whyNoMove(draft: RoundDraft, command: Extract<Command, { kind: 'move' }>): Refused | null {
  const { guest, to } = command;
  const entry = draft.guests.get(guest);
  if (entry === undefined) return { refusal: 'not-managed', because: `guest ${guest} is not managed` };
  if (draft.nodes.get(to) !== 'up') return { refusal: 'target-not-up', because: `${to} is not up` };
  const unfit = whyRefused(draft, to);
  if (unfit !== null) return { refusal: 'target-unfit', because: `${to} ${unfit}` };
  if (entry.node === to) return { refusal: 'already-there', because: `it is on ${to} already` };
  const ranks = draft.rules.ranks.get(guest);
  if (draft.facts.settings.refusesForbiddenMoves && ranks !== undefined && !ranks.has(to))
    return { refusal: 'rule-forbids', because: `prefer-nodes: its rule forbids ${to}` };
  const rival = findRivalNodes(draft, guest).get(to);
  if (rival !== undefined) return { refusal: 'rival-there', because: `keep-apart: ${rival} is on ${to} or heading there` };
  return whyTakesNone(draft, guest, entry) ?? whyNoRoomFor(draft, guest, listDragged(draft, command), to);
}

/**
 * A command to a guest that is in the middle of something is refused rather than forgotten. So is one that could only wait: for a node that is
 * away, to be lost with the recovery, or for the cluster to be armed again, to come as a surprise.
 */
function whyTakesNone(draft: RoundDraft, guest: string, entry: GuestEntry): Refused | null {
  const { state, node } = entry;
  if (draft.facts.settings.refusesForbiddenMoves) {
    // Asked for twice at once: the first is carried out.
    if (entry.command !== null) return { refusal: 'not-now', because: 'a command to it is being carried out' };
    // What is asked of it now would be undone by the freeze that follows.
    if (draft.nodeFacts.get(node)?.agentMode === 'restart') return { refusal: 'not-now', because: `its node ${node} restarts` };
    if (leavesWithoutFence(draft, guestFactsOf(draft, guest), entry))
      return { refusal: 'not-now', because: `nothing on its node ${node} can start it any more; it is recovered first` };
  }
  if (isInForce(draft.disarm)) {
    return { refusal: 'not-now', because: 'it is disarmed, so nothing would happen' };
  }
  if (state.kind === 'inactive') {
    const isGone = draft.facts.settings.refusesForbiddenMoves && isLongLost(draft, node);
    return isGone ? { refusal: 'not-now', because: `its node ${node} is lost, and what it has to hand over with it` } : null;
  }
  if (state.kind !== 'active') return { refusal: 'wrong-state', because: `it is ${state.kind} now` };
  const want = draft.guestFacts.get(guest)?.want;
  if (want !== 'started') return { refusal: 'not-now', because: `it is wanted ${want} and about to stop` };
  const isReached = draft.nodes.get(node) === 'up' || draft.nodes.get(node) === 'draining';
  return isReached ? null : { refusal: 'not-now', because: `its node ${node} is not reached; it is recovered first` };
}

function queueStop(draft: RoundDraft, command: Extract<Command, { kind: 'stop' }>): void {
  const entry = draft.guests.get(command.guest);
  if (entry === undefined) return refuseCommand(draft, command, 'not-managed', `guest ${command.guest} is not managed`);
  if (entry.state.kind === 'inactive') return refuseCommand(draft, command, 'wrong-state', 'it does not run');
  const refused = whyTakesNone(draft, command.guest, entry);
  if (refused !== null) return refuseCommand(draft, command, refused.refusal, refused.because);
  acceptCommand(draft, command, 'it stops');
  amend(draft, command.guest, { command });
}

function drain(draft: RoundDraft, command: Extract<Command, { kind: 'drain' }>): void {
  if (draft.disarm !== null) return refuseCommand(draft, command, 'not-now', 'it is disarmed, so nothing would move');
  const state = draft.nodes.get(command.node);
  if (state !== 'up')
    return refuseCommand(draft, command, 'target-not-up', `${command.node} is ${state ?? 'not a node of the cluster'}`);
  draft.drains.add(command.node);
  acceptCommand(draft, command, 'its guests leave and return when it is undrained');
}

function arm(draft: RoundDraft, command: Command): void {
  const { disarm } = draft;
  if (disarm === null) return refuseCommand(draft, command, 'wrong-state', 'it is not disarmed');
  draft.disarm = null;
  acceptCommand(draft, command, `it was disarmed (${disarm.mode})`);
  draft.decisions.push({ kind: 'disarm', stage: 'armed', because: 'an operator armed it' });
  if (disarm.mode !== 'hands-off' || disarm.stage === 'waiting') return;
  for (const [id, entry] of draft.guests) {
    const home = draft.guestFacts.get(id)?.home ?? entry.node;
    if (home !== entry.node) amend(draft, id, { node: home, because: 'it was moved while nobody watched' });
  }
}
