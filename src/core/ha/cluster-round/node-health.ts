import { suspectAfterMs } from '#core/ha/claim.ts';
import type { ClusterFacts, NodeRecordFacts } from '#core/ha/cluster-round/facts.ts';
import type { AgentMode } from '#core/ha/manager/facts.ts';

/** True while the node's heartbeats arrive. */
export function isFresh(facts: Pick<ClusterFacts, 'timing'>, node: NodeRecordFacts): boolean {
  return node.silence.kind === 'counted' && node.silence.silentMs < suspectAfterMs(facts.timing);
}

/** The epoch granted to the node; null: none is. */
export function grantedEpoch(node: NodeRecordFacts | undefined): number | null {
  const permit = node?.permit?.value;
  return permit?.state === 'granted' ? permit.epoch : null;
}

/** What the node's agent says of itself. What it said in an earlier boot is over. */
export function agentModeOf(node: NodeRecordFacts, drains: readonly string[]): AgentMode {
  if (drains.includes(node.name)) return 'maintenance';
  if (node.agent === null || node.agent.bootId !== node.heartbeat?.value.bootId) return 'active';
  return node.agent.mode;
}

/** Why the node may not receive guests now; null when it may. `accepts`: modes of its agent that are no reason. */
export function whyUnusable(
  facts: Pick<ClusterFacts, 'timing'>,
  node: NodeRecordFacts,
  accepts: readonly AgentMode[] = [],
): string | null {
  if (node.permit === null || node.permit.value.state !== 'granted') return 'has no permit';
  if (!isFresh(facts, node)) return 'is silent';
  if (node.heartbeat?.value.epoch !== node.permit.value.epoch) return 'has not renewed under its new epoch yet';
  if (node.heartbeat.value.phase !== 'serving') return `is ${node.heartbeat.value.phase}`;
  const { agentSilentMs } = node.heartbeat.value;
  if (agentSilentMs === null || agentSilentMs > 5 * facts.timing.renewMs) return 'has an agent that does not answer';
  if (node.info === null) return 'has not said what it is';
  if (node.info.bootId !== node.heartbeat.value.bootId) return 'has an agent that has not started since the boot';
  if (node.info.problems.length > 0) return node.info.problems.join(', ');
  const mode = agentModeOf(node, []);
  return mode === 'active' || accepts.includes(mode) ? null : `is about to end (${mode})`;
}
