import { limits } from '#base/limits.ts';
import type { CommandAnswer } from '#core/ha/cluster-round/command-answers.ts';
import type { ClusterFacts } from '#core/ha/cluster-round/facts.ts';
import type { CommitStep, StepEvent } from '#core/ha/cluster-round/steps.ts';
import { keys } from '#core/ha/keys.ts';
import type { Decision } from '#core/ha/manager/draft.ts';
import type { Command } from '#core/ha/manager/facts.ts';
import type { RoundPlan } from '#core/ha/manager/round.ts';
import type { DisarmOrder, HaMemory } from '#core/ha/records.ts';

/**
 * The commit of what belongs to no guest: the memory, answers to commands about nodes and refusals, and the keys that tell guards that they
 * guard nothing, from the moment the disarm is in force until the cluster is armed. null: nothing of it changes.
 */
export function planMemoryCommit(
  facts: ClusterFacts,
  next: HaMemory,
  answers: readonly CommandAnswer[],
  round: RoundPlan,
  nowWallMs: number,
): CommitStep | null {
  const disarms = planDisarmKeys(facts, next, nowWallMs);
  // Counted, not timed: whoever asked has another clock, and must find the answer.
  const old = facts.commands.filter(({ value }) => value.state !== 'waiting').slice(0, -limits.commandAnswersKept);
  const isSame = facts.memory !== null && JSON.stringify(facts.memory.value) === JSON.stringify(next);
  if (isSame && answers.length + old.length + disarms.length === 0) return null;
  return {
    kind: 'commit',
    about: { kind: 'memory' },
    compares: [
      { key: keys.haMemory, modRevision: facts.memory?.modRevision ?? 0n },
      ...answers.map(({ kept }) => ({ key: keys.haCommand(kept.value.id), modRevision: kept.modRevision })),
      ...old.map(({ value, modRevision }) => ({ key: keys.haCommand(value.id), modRevision })),
      ...disarms.map(({ key, modRevision }) => ({ key, modRevision })),
    ],
    writes: [
      { key: keys.haMemory, value: JSON.stringify(next) },
      ...answers.map(({ next: done }) => ({ key: keys.haCommand(done.id), value: JSON.stringify(done) })),
      ...old.map(({ value }) => ({ key: keys.haCommand(value.id), value: null })),
      ...disarms.map(({ key, value }) => ({ key, value })),
    ],
    events: round.decisions.flatMap((decision) => eventsOf(facts.self, decision)),
    because: 'what the manager knows of the nodes has changed',
  };
}

type KeyChange = { key: string; modRevision: bigint; value: string | null };

function planDisarmKeys(facts: ClusterFacts, next: HaMemory, nowWallMs: number): KeyChange[] {
  const mode = next.disarm !== null && next.disarm.stage !== 'waiting' ? next.disarm.mode : null;
  return facts.nodes.flatMap((node): KeyChange[] => {
    const key = keys.nodeDisarm(node.name);
    if (mode === null) return node.disarm === null ? [] : [{ key, modRevision: node.disarm.modRevision, value: null }];
    if (node.disarm !== null) return [];
    const order: DisarmOrder = { mode, managerEpoch: facts.managerEpoch, askedAtMs: nowWallMs };
    return [{ key, modRevision: 0n, value: JSON.stringify(order) }];
  });
}

/** The decisions that people want to find in the timeline. Those about a guest's state stand in the guest's own commit. */
function eventsOf(self: string, decision: Decision): StepEvent[] {
  switch (decision.kind) {
    case 'node':
      return [
        {
          kind: 'node',
          node: decision.node,
          vmid: null,
          text: `${decision.node} is ${decision.state} (was ${decision.was ?? 'not known'}): ${decision.because}`,
        },
      ];
    case 'command':
      return [
        {
          kind: 'command',
          node: self,
          vmid: null,
          text: `${describeCommand(decision.command)}: ${decision.refusal === null ? 'accepted' : 'refused'}, ${decision.because}`,
        },
      ];
    case 'starts-after':
      // That it waits stands in its own record, as long as it does.
      if (decision.stage === 'waits') return [];
      return [
        {
          kind: 'state',
          node: decision.node,
          vmid: Number(decision.guest),
          text: `guest ${decision.guest}: ${decision.because}`,
        },
      ];
    case 'quarantine': {
      const text = `${decision.node} is ${decision.quarantined ? 'quarantined' : 'released from quarantine'}: ${decision.because}`;
      return [{ kind: 'node', node: decision.node, vmid: null, text }];
    }
    case 'disarm':
      return [{ kind: 'command', node: self, vmid: null, text: `disarm is ${decision.stage}: ${decision.because}` }];
    default:
      return [];
  }
}

/** The command in words, for people. */
export function describeCommand(command: Command): string {
  switch (command.kind) {
    case 'move':
      return `move guest ${command.guest} to ${command.to}`;
    case 'stop':
      return `stop guest ${command.guest}`;
    case 'drain':
    case 'undrain':
      return `${command.kind} ${command.node}`;
    case 'disarm':
      return `disarm (${command.mode})`;
    case 'arm':
      return 'arm';
    case 'release-quarantine':
      return `release ${command.node} from quarantine`;
  }
}
