import type { Kept } from '#core/ha/cluster-round/facts.ts';
import type { Command } from '#core/ha/manager/facts.ts';
import type { RoundPlan } from '#core/ha/manager/round.ts';
import type { HaCommand } from '#core/ha/records.ts';

export type CommandAnswer = { kept: Kept<HaCommand>; next: HaCommand };

/**
 * What the round made of each waiting command. The answer is written in the commit of what follows from it, so that no command is lost or
 * taken twice: an accepted move or stop with its guest's record, everything else with the memory.
 */
export function answerCommands(
  commands: readonly Kept<HaCommand>[],
  round: RoundPlan,
): { byGuest: Map<string, CommandAnswer[]>; others: CommandAnswer[] } {
  const told = new Map<Command, { refused: boolean; because: string }>();
  for (const decision of round.decisions) {
    // The last word counts: a move may be refused in the same round when its guest's turn comes.
    if (decision.kind === 'command')
      told.set(decision.command, { refused: decision.refusal !== null, because: decision.because });
  }
  const byGuest = new Map<string, CommandAnswer[]>();
  const others: CommandAnswer[] = [];
  for (const kept of commands) {
    const { command } = kept.value;
    const answer = told.get(command);
    if (answer === undefined) continue;
    const { refused, because } = answer;
    const next: HaCommand = { ...kept.value, state: refused ? 'refused' : 'accepted', because };
    const isGuests = command.kind === 'move' || command.kind === 'stop';
    if (refused || !isGuests) others.push({ kept, next });
    else byGuest.set(command.guest, [...(byGuest.get(command.guest) ?? []), { kept, next }]);
  }
  return { byGuest, others };
}
