import type { Command, GuestFacts } from '#core/ha/manager/facts.ts';
import { type CommandRefusal, type RoundDraft, enter, entryOf } from '#core/ha/manager/draft.ts';
import { type QueuedCommand, takesRoom } from '#core/ha/manager/memory.ts';
import { whyNoRoom } from '#core/ha/manager/room.ts';

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
  const unfit = whyNoRoomFor(draft, guest.id, listBoundFor(draft, guest.id, command.to), command.to);
  if (unfit !== null) {
    refuseCommand(draft, command, unfit.refusal, unfit.because);
    return false;
  }
  // Who is moved by hand does not return to a node that was drained before.
  const kind = command.live && guest.movesLive ? 'moving-live' : 'moving-cold';
  enter(draft, guest.id, { kind, to: command.to }, `a move was asked for${howNotLive(guest, command)}`, { returnTo: null });
  return true;
}

/** What is to be added for people when a move that was asked for live is done cold. */
export function howNotLive(guest: GuestFacts, command: Extract<Command, { kind: 'move' }>): string {
  return command.live && !guest.movesLive ? ', stopped here and started there: it cannot move live' : '';
}

/** Companions that a command brings to the same node. */
function listBoundFor(draft: RoundDraft, guest: string, to: string): string[] {
  return (draft.rules.together.get(guest) ?? []).filter((companion) => {
    const command = draft.guests.get(companion)?.command ?? null;
    return command?.kind === 'move' && command.to === to;
  });
}

/** Why the guest does not fit on the node with those that come along; null: it does. Who rests needs no memory there. */
export function whyNoRoomFor(
  draft: RoundDraft,
  guest: string,
  others: readonly string[],
  to: string,
): { refusal: CommandRefusal; because: string } | null {
  const running = [guest, ...others].filter((id) => takesRoom(entryOf(draft, id).state));
  const unfit = whyNoRoom(draft, running, to);
  if (unfit === null) return null;
  const along = others.length === 0 ? '' : ` for it and ${others.join(', ')}, which come along`;
  return { refusal: 'target-unfit', because: `${to}: ${unfit}${along}` };
}

export function refuseCommand(draft: RoundDraft, command: Command, refusal: CommandRefusal, because: string): void {
  draft.decisions.push({ kind: 'command', command, refusal, because });
}

export function acceptCommand(draft: RoundDraft, command: Command, because: string): void {
  draft.decisions.push({ kind: 'command', command, refusal: null, because });
}
