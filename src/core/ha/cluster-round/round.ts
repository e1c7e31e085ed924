import type { ClusterFacts, Kept, NodeRecordFacts } from '#core/ha/cluster-round/facts.ts';
import { planGuestCommit } from '#core/ha/cluster-round/guest-commit.ts';
import { closeMemory, openMemory } from '#core/ha/cluster-round/memory-record.ts';
import { planMemoryCommit } from '#core/ha/cluster-round/memory-commit.ts';
import { planNodes } from '#core/ha/cluster-round/node-claims.ts';
import type { ClusterStep } from '#core/ha/cluster-round/steps.ts';
import { toManagerFacts } from '#core/ha/cluster-round/to-manager.ts';
import { answerCommands } from '#core/ha/cluster-round/command-answers.ts';
import { isInForce } from '#core/ha/manager/disarm.ts';
import { planRound, type RoundPlan } from '#core/ha/manager/round.ts';
import type { HaCommand } from '#core/ha/records.ts';

/**
 * One round of the manager on the cluster's record: facts in, steps out. Nothing here acts.
 *
 *   records ──> claims of silent nodes
 *          └──> facts and memory in the manager's words ──planRound──> next memory
 *                 ──> the memory's record, with what is no guest's: commands, disarm keys     (first, so that order numbers count once)
 *                 ──> for each guest whose entry or order changes: its record                 (one commit each)
 *
 * Steps are performed in order. When the memory's commit does not take effect, nothing after it is written; a guest's commit that
 * does not leaves the other guests' alone.
 */
export type ClusterPlan = { steps: ClusterStep[]; waiting: string[]; round: RoundPlan };

/** `nowBootMs` is the boot-time clock of who leads, `nowWallMs` stamps records for people and counts waits that are for people. */
export function planClusterRound(facts: ClusterFacts, nowBootMs: number, nowWallMs: number): ClusterPlan {
  const { steps, waiting } = planNodes(facts, nowBootMs, nowWallMs);
  const managerFacts = toManagerFacts(facts, nowWallMs);
  const before = openMemory(facts.memory?.value ?? null, facts.guests);
  const round = planRound(managerFacts, before);
  const answers = answerCommands(facts.commands, round);
  const memory = planMemoryCommit(facts, closeMemory(round.memory), answers.others, round, nowWallMs);
  if (memory !== null) steps.push(memory);
  steps.push(...planGuests(facts, round, answers.byGuest, nowWallMs));
  return { steps, waiting, round };
}

function planGuests(
  facts: ClusterFacts,
  round: RoundPlan,
  answers: ReadonlyMap<string, { kept: Kept<HaCommand>; next: HaCommand }[]>,
  nowWallMs: number,
): ClusterStep[] {
  const nodes: ReadonlyMap<string, NodeRecordFacts> = new Map(facts.nodes.map((node) => [node.name, node]));
  const stops = new Set(round.steps.flatMap((step) => (step.kind === 'want-stopped' ? [step.guest] : [])));
  const unplaced = new Map(
    round.decisions.flatMap((decision) =>
      decision.kind === 'no-recovery-target' || decision.kind === 'cannot-leave' || decision.kind === 'cannot-start'
        ? [[decision.guest, decision.because] as const]
        : [],
    ),
  );
  const isHeld = isInForce(round.memory.disarm);
  const steps: ClusterStep[] = [];
  for (const guest of facts.guests) {
    const id = String(guest.record.vmid);
    const entry = round.memory.guests.get(id) ?? null;
    if (entry === null && guest.record.ha === undefined) continue;
    const change = { guest, entry, wantStopped: stops.has(id), isHeld, commands: answers.get(id) ?? [] };
    const { step, defer } = planGuestCommit(facts, nodes, change, nowWallMs);
    if (step !== null) steps.push(step);
    const because = unplaced.get(id) ?? defer;
    if (because !== null && because !== undefined) steps.push({ kind: 'defer', vmid: guest.record.vmid, because });
  }
  return steps;
}
