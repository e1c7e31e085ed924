import type { Command } from '#core/ha/manager/facts.ts';
import { type RoundDraft, amend } from '#core/ha/manager/draft.ts';
import { findRivalNodes } from '#core/ha/manager/selection.ts';
import { acceptCommand, refuseCommand } from '#core/ha/manager/taken-commands.ts';

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
      return refuseCommand(draft, command, 'no drain was asked for');
    case 'disarm':
      if (draft.disarm !== null) return refuseCommand(draft, command, `it is disarmed already (${draft.disarm.mode})`);
      draft.disarm = { mode: command.mode, stage: 'waiting' };
      return acceptCommand(draft, command, 'agents let go once nothing is recovered or moved');
    case 'arm':
      return arm(draft, command);
  }
}

/** Queues a move and those of the guests that stay together with it. */
export function queueMove(draft: RoundDraft, command: Extract<Command, { kind: 'move' }>): void {
  const refusal = whyNoMove(draft, command);
  if (refusal !== null) return refuseCommand(draft, command, refusal);
  acceptCommand(draft, command, `it moves to ${command.to}`);
  amend(draft, command.guest, { command });
  for (const companion of draft.rules.together.get(command.guest) ?? []) {
    const entry = draft.guests.get(companion);
    if (entry === undefined || entry.node === command.to) continue;
    if (entry.state.kind !== 'active' && entry.state.kind !== 'inactive') continue;
    amend(draft, companion, { command: { ...command, guest: companion } });
    const because = `it stays together with ${command.guest}`;
    draft.decisions.push({ kind: 'dragged', guest: companion, to: command.to, with: command.guest, because });
  }
}

function whyNoMove(draft: RoundDraft, command: Extract<Command, { kind: 'move' }>): string | null {
  const entry = draft.guests.get(command.guest);
  if (entry === undefined) return `guest ${command.guest} is not managed`;
  if (draft.nodes.get(command.to) !== 'up') return `${command.to} is not up`;
  const refusal = draft.nodeFacts.get(command.to)?.refusal ?? null;
  if (refusal !== null) return `${command.to} ${refusal}`;
  if (entry.node === command.to) return `it is on ${command.to} already`;
  const rival = findRivalNodes(draft, command.guest).get(command.to);
  if (rival !== undefined) return `keep-apart: ${rival} is on ${command.to} or heading there`;
  return whyNoCommandNow(entry.state.kind);
}

/** A command to a guest that is in the middle of something is refused rather than forgotten. */
function whyNoCommandNow(state: string): string | null {
  return state === 'active' || state === 'inactive' ? null : `it is ${state} now`;
}

function queueStop(draft: RoundDraft, command: Extract<Command, { kind: 'stop' }>): void {
  const entry = draft.guests.get(command.guest);
  if (entry === undefined) return refuseCommand(draft, command, `guest ${command.guest} is not managed`);
  const refusal = whyNoCommandNow(entry.state.kind);
  if (refusal !== null) return refuseCommand(draft, command, refusal);
  acceptCommand(draft, command, 'it stops');
  amend(draft, command.guest, { command });
}

function drain(draft: RoundDraft, command: Extract<Command, { kind: 'drain' }>): void {
  if (draft.disarm !== null) return refuseCommand(draft, command, 'it is disarmed, so nothing would move');
  const state = draft.nodes.get(command.node);
  if (state !== 'up') return refuseCommand(draft, command, `${command.node} is ${state ?? 'not a node of the cluster'}`);
  draft.drains.add(command.node);
  acceptCommand(draft, command, 'its guests leave live and return when it is undrained');
}

function arm(draft: RoundDraft, command: Command): void {
  const { disarm } = draft;
  if (disarm === null) return refuseCommand(draft, command, 'it is not disarmed');
  draft.disarm = null;
  acceptCommand(draft, command, `it was disarmed (${disarm.mode})`);
  draft.decisions.push({ kind: 'disarm', stage: 'armed', because: 'an operator armed it' });
  if (disarm.mode !== 'hands-off' || disarm.stage === 'waiting') return;
  for (const [id, entry] of draft.guests) {
    const home = draft.guestFacts.get(id)?.home ?? entry.node;
    if (home !== entry.node) amend(draft, id, { node: home, because: 'it was moved while nobody watched' });
  }
}
