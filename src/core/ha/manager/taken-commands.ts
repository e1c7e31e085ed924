import type { Command, GuestFacts } from '#core/ha/manager/facts.ts';
import { type CommandRefusal, type RoundDraft, enter, entryOf } from '#core/ha/manager/draft.ts';
import type { QueuedCommand } from '#core/ha/manager/memory.ts';

/** Begins a queued move. False, with the reason recorded, when the world has changed since it was queued. */
export function takeMove(draft: RoundDraft, guest: GuestFacts, command: Extract<QueuedCommand, { kind: 'move' }>): boolean {
  const { node } = entryOf(draft, guest.id);
  if (draft.nodes.get(command.to) !== 'up') {
    refuseCommand(draft, command, 'target-not-up', `${command.to} is not up`);
    return false;
  }
  if (command.to === node) {
    refuseCommand(draft, command, 'already-there', `it is on ${node} already`);
    return false;
  }
  // Who is moved by hand does not return to a node that was drained before.
  enter(draft, guest.id, { kind: command.live ? 'moving-live' : 'moving-cold', to: command.to }, 'a move was asked for', {
    returnTo: null,
  });
  return true;
}

export function refuseCommand(draft: RoundDraft, command: Command, refusal: CommandRefusal, because: string): void {
  draft.decisions.push({ kind: 'command', command, refusal, because });
}

export function acceptCommand(draft: RoundDraft, command: Command, because: string): void {
  draft.decisions.push({ kind: 'command', command, refusal: null, because });
}
