import { keepClaims } from '#core/ha/guard-store.ts';
import { planClaim } from '#core/ha/claim.ts';
import type { ClusterFacts, NodeRecordFacts } from '#core/ha/cluster-round/facts.ts';
import { isFresh } from '#core/ha/cluster-round/node-health.ts';
import type { ClusterStep } from '#core/ha/cluster-round/steps.ts';
import { keys } from '#core/ha/keys.ts';
import type { Permit, ReleaseOrder } from '#core/ha/records.ts';

/**
 * What to do about each node's permit: claim it once a proof is at hand, ask its controller, give back power that was cut, ask a node
 * whose agent is silent to let go. While the cluster is disarmed nothing of this is done.
 */
export function planNodes(
  facts: ClusterFacts,
  nowBootMs: number,
  nowWallMs: number,
): { steps: ClusterStep[]; waiting: string[] } {
  const steps: ClusterStep[] = [];
  const waiting: string[] = [];
  const disarm = facts.memory?.value.disarm ?? null;
  if (disarm !== null && disarm.stage !== 'waiting') return { steps, waiting };
  for (const node of facts.nodes) planNode(facts, node, nowBootMs, nowWallMs, steps, waiting);
  return { steps, waiting };
}

function planNode(
  facts: ClusterFacts,
  node: NodeRecordFacts,
  nowBootMs: number,
  nowWallMs: number,
  steps: ClusterStep[],
  waiting: string[],
): void {
  const { permit, heartbeat } = node;
  if (permit === null || heartbeat === null) return;
  if (permit.value.state === 'revoked') {
    planPowerBack(node, permit.value, steps);
    return;
  }
  const decision = planClaim(
    {
      name: node.name,
      permit: permit.value,
      heartbeat: heartbeat.value,
      silence: node.silence,
      lastSightBootMs: node.lastSightBootMs,
      controller: node.controller,
    },
    facts.timing,
    facts.readsApartMs,
    facts.self,
    nowBootMs,
  );
  if (decision.kind === 'wait') waiting.push(decision.because);
  if (decision.kind === 'ask')
    steps.push({ kind: 'ask-controller', node: node.name, action: decision.action, because: decision.because });
  if (decision.kind !== 'claim') {
    planSilentAgent(facts, node, permit.value.epoch, nowWallMs, steps);
    return;
  }
  const { proof, because } = decision;
  const next: Permit = {
    state: 'revoked',
    epoch: permit.value.epoch + 1,
    revokedEpoch: permit.value.epoch,
    proof,
    managerEpoch: facts.managerEpoch,
    revokedAtMs: nowWallMs,
    ...(wasCut(node) ? { powerCut: true } : {}),
    ...keepClaims(permit.value),
  };
  steps.push({
    kind: 'commit',
    about: { kind: 'claim', node: node.name },
    compares: [
      { key: keys.nodePermit(node.name), modRevision: permit.modRevision },
      { key: keys.nodeHeartbeat(node.name), modRevision: heartbeat.modRevision },
    ],
    writes: [{ key: keys.nodePermit(node.name), value: JSON.stringify(next) }],
    events: [{ kind: 'claimed', node: node.name, vmid: null, text: because, proof }],
    because,
  });
}

/** True when this manager asked for the node's power to be cut since it was last seen. */
function wasCut(node: NodeRecordFacts): boolean {
  const askedBootMs = node.controller?.evidence.offAskedAtBootMs ?? null;
  return askedBootMs !== null && askedBootMs >= node.lastSightBootMs;
}

/** Power that this manager cut comes back once the claim stands: the machine was healthy enough to answer its controller. */
function planPowerBack(node: NodeRecordFacts, permit: Permit, steps: ClusterStep[]): void {
  // Whatever proof came first: a claim by silence may overtake the controller that was asked to cut the power.
  if (permit.state !== 'revoked' || node.controller === null) return;
  const { evidence } = node.controller;
  if (permit.powerCut !== true && evidence.offAskedAtBootMs === null) return;
  if (evidence.onAskedAtBootMs !== null || evidence.busy) return;
  const because = `${node.name} was cut by its controller and is claimed`;
  steps.push({ kind: 'ask-controller', node: node.name, action: 'on', because });
}

/** An agent silent for too long: its node's guard is asked to give the guests up. */
function planSilentAgent(
  facts: ClusterFacts,
  node: NodeRecordFacts,
  epoch: number,
  nowWallMs: number,
  steps: ClusterStep[],
): void {
  // Whoever works on a disarmed node may stop its agent for long; a guard that was asked would kill guests that nobody recovers.
  if (!isFresh(facts, node) || node.release !== null || node.disarm !== null) return;
  const silentMs = node.heartbeat?.value.agentSilentMs ?? null;
  if (silentMs === null || silentMs < facts.agentSilentMs) return;
  const reason = `the agent of ${node.name} is silent for ${silentMs} ms`;
  const order: ReleaseOrder = { reason, managerEpoch: facts.managerEpoch, askedAtMs: nowWallMs };
  const key = keys.nodeRelease(node.name);
  steps.push({
    kind: 'commit',
    about: { kind: 'release', node: node.name },
    compares: [
      { key, modRevision: 0n },
      { key: keys.nodeDisarm(node.name), modRevision: 0n },
    ],
    writes: [{ key, value: JSON.stringify(order) }],
    events: [],
    because: `${reason}; its guests are released from epoch ${epoch}`,
  });
}
