import type { GuestOrder, GuestRecord } from '#core/guest/guest-record.ts';
import { type ClaimTiming, type PowerEvidence, planClaim, suspectAfterMs } from '#core/ha/claim.ts';
import type { Silence } from '#core/ha/observer.ts';
import { planRecovery, type RecoveryNode } from '#core/ha/recovery.ts';
import type { ClaimProof, HaEvent, HaResource, Heartbeat, NodeInfo, Permit } from '#core/ha/records.ts';
import type { ReplicaRecord } from '#core/replica/records.ts';

/**
 * One round of the manager: facts in, plan out. Nothing here acts; the loop records each step by compare-and-set on the revisions
 * that the facts were read at and on the lead itself.
 *
 *   silent nodes ──> ask controller / claim          guests without a valid order ──> order on their home
 *   guests of claimed nodes ──> recovery onto the freshest replica ──> order there, generation + 1
 */
export type NodeFacts = {
  name: string;
  info: NodeInfo | null;
  permit: { value: Permit; modRevision: bigint } | null;
  heartbeat: { value: Heartbeat; modRevision: bigint } | null;
  silence: Silence;
  lastSightBootMs: number;
  controller: { name: string; evidence: PowerEvidence } | null;
};

export type GuestFacts = {
  record: GuestRecord;
  modRevision: bigint;
  resource: HaResource | null;
  /** 0n: there is no such record. */
  resourceRevision: bigint;
};

export type ManagerFacts = {
  self: string;
  managerEpoch: number;
  nodes: NodeFacts[];
  guests: GuestFacts[];
  replicas: ReplicaRecord[];
  timing: ClaimTiming;
  readsApartMs: number;
  agentSilentMs: number;
};

export type ManagerStep =
  | { kind: 'ask-controller'; node: string; action: 'read' | 'off' | 'on'; because: string }
  | {
      kind: 'claim';
      node: string;
      next: Permit;
      permitRevision: bigint;
      heartbeatRevision: bigint;
      proof: ClaimProof;
      because: string;
    }
  | {
      kind: 'order';
      vmid: number;
      next: GuestRecord;
      guestRevision: bigint;
      /** What is wanted of it, compared too: an order never follows a wish that was taken back. */
      resourceRevision: bigint;
      /** The permit of the node that is to run it, compared in the same transaction. */
      node: string;
      permitRevision: bigint;
      /** A recovery: the lost home's revoked permit, compared too. A home that takes a new permit at that instant keeps its guest. */
      lostPermit: { node: string; modRevision: bigint } | null;
      event: HaEvent['kind'];
      because: string;
    }
  /** A guest that should run and cannot: said once a change, with the reason. */
  | { kind: 'defer'; vmid: number; because: string }
  /** An agent silent too long: its guard is asked to give the node's guests up. */
  | { kind: 'ask-release'; node: string; epoch: number; because: string };

export type ManagerPlan = { steps: ManagerStep[]; waiting: string[] };

/** Plans one round. `nowBootMs` is this manager's boot-time clock, `nowWallMs` only stamps records for people. */
export function planManagerRound(facts: ManagerFacts, nowBootMs: number, nowWallMs: number): ManagerPlan {
  const steps: ManagerStep[] = [];
  const waiting: string[] = [];
  for (const node of facts.nodes) planNode(facts, node, nowBootMs, nowWallMs, steps, waiting);
  // Room and load as they will be after the orders planned so far in this round.
  const nodes = facts.nodes.map((node) => toRecoveryNode(facts, node));
  for (const guest of facts.guests) planGuest(facts, guest, nodes, nowWallMs, steps);
  return { steps, waiting };
}

function planNode(
  facts: ManagerFacts,
  node: NodeFacts,
  nowBootMs: number,
  nowWallMs: number,
  steps: ManagerStep[],
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
  if (decision.kind === 'ask') {
    steps.push({ kind: 'ask-controller', node: node.name, action: decision.action, because: decision.because });
  }
  if (decision.kind === 'claim') {
    steps.push({
      kind: 'claim',
      node: node.name,
      next: {
        state: 'revoked',
        epoch: permit.value.epoch + 1,
        revokedEpoch: permit.value.epoch,
        proof: decision.proof,
        managerEpoch: facts.managerEpoch,
        revokedAtMs: nowWallMs,
        ...(wasCut(node) ? { powerCut: true } : {}),
      },
      permitRevision: permit.modRevision,
      heartbeatRevision: heartbeat.modRevision,
      proof: decision.proof,
      because: decision.because,
    });
    return;
  }
  planSilentAgent(facts, node, permit.value.epoch, steps);
}

/** True when this manager asked for the node's power to be cut since it was last seen. */
function wasCut(node: NodeFacts): boolean {
  const askedBootMs = node.controller?.evidence.offAskedAtBootMs ?? null;
  return askedBootMs !== null && askedBootMs >= node.lastSightBootMs;
}

/** Power that this manager cut comes back once the claim stands: the machine was healthy enough to answer its controller. */
function planPowerBack(node: NodeFacts, permit: Permit, steps: ManagerStep[]): void {
  // Whatever proof came first: a claim by silence may overtake the controller that was asked to cut the power.
  if (permit.state !== 'revoked' || node.controller === null) return;
  const { evidence } = node.controller;
  if (permit.powerCut !== true && evidence.offAskedAtBootMs === null) return;
  if (evidence.onAskedAtBootMs !== null || evidence.busy) return;
  steps.push({
    kind: 'ask-controller',
    node: node.name,
    action: 'on',
    because: `${node.name} was cut by its controller and is claimed`,
  });
}

function planSilentAgent(facts: ManagerFacts, node: NodeFacts, epoch: number, steps: ManagerStep[]): void {
  if (!isFresh(facts, node)) return;
  const silentMs = node.heartbeat?.value.agentSilentMs ?? null;
  if (silentMs === null || silentMs < facts.agentSilentMs) return;
  steps.push({ kind: 'ask-release', node: node.name, epoch, because: `the agent of ${node.name} is silent for ${silentMs} ms` });
}

/** True while the node's heartbeats arrive. */
function isFresh(facts: ManagerFacts, node: NodeFacts): boolean {
  return node.silence.kind === 'counted' && node.silence.silentMs < suspectAfterMs(facts.timing);
}

/** Why the node may not receive guests now; null when it may. */
function whyUnusable(facts: ManagerFacts, node: NodeFacts): string | null {
  if (node.permit === null || node.permit.value.state !== 'granted') return 'has no permit';
  if (!isFresh(facts, node)) return 'is silent';
  if (node.heartbeat?.value.epoch !== node.permit.value.epoch) return 'has not renewed under its new epoch yet';
  if (node.heartbeat.value.phase !== 'serving') return `is ${node.heartbeat.value.phase}`;
  const agentSilentMs = node.heartbeat.value.agentSilentMs;
  if (agentSilentMs === null || agentSilentMs > 5 * facts.timing.renewMs) return 'has an agent that does not answer';
  if (node.info === null) return 'has not said what it is';
  if (node.info.bootId !== node.heartbeat.value.bootId) return 'has an agent that has not started since the boot';
  if (node.info.problems.length > 0) return node.info.problems.join(', ');
  return null;
}

function toRecoveryNode(facts: ManagerFacts, node: NodeFacts): RecoveryNode {
  const because = whyUnusable(facts, node);
  const homed = facts.guests.filter((guest) => guest.record.home === node.name && guest.resource?.want === 'started');
  const usedMb = homed.reduce((sum, guest) => sum + guest.record.config.memoryMb, 0);
  return {
    name: node.name,
    epoch: node.permit?.value.epoch ?? 0,
    usable: because === null,
    because: because ?? '',
    freeMemoryMb: (node.info?.memoryMb ?? 0) - usedMb,
    guestCount: homed.length,
  };
}

function planGuest(facts: ManagerFacts, guest: GuestFacts, nodes: RecoveryNode[], nowWallMs: number, steps: ManagerStep[]): void {
  const { record, resource } = guest;
  if (resource === null || resource.want === 'ignored') return;
  const home = facts.nodes.find((node) => node.name === record.home);
  const homePermit = home?.permit ?? null;
  const wantKind: GuestOrder['kind'] = resource.want === 'started' ? 'run' : 'stop';
  const standing = record.order;
  const declined = record.declined?.findLast((copy) => copy.node === record.home);
  if (standing === null && declined !== undefined) {
    if (resource.want !== 'disabled')
      planElsewhere(
        facts,
        guest,
        resource,
        nodes,
        wantKind,
        { aliveAtMs: declined.lostAtMs ?? nowWallMs, permit: null },
        nowWallMs,
        steps,
      );
    return;
  }
  const epochIsCurrent =
    homePermit !== null && homePermit.value.state === 'granted' && standing?.nodeEpoch === homePermit.value.epoch;
  if (epochIsCurrent && standing.kind === wantKind) return;
  if (home !== undefined && homePermit !== null && homePermit.value.state === 'granted') {
    planOnHome(facts, guest, { node: home, permit: homePermit, wantKind, epochIsCurrent }, nowWallMs, steps);
    return;
  }
  if (homePermit === null || homePermit.value.state !== 'revoked') return;
  if (resource.want === 'disabled') return;
  const lost = {
    aliveAtMs: home?.heartbeat?.value.sentAtMs ?? nowWallMs,
    permit: { node: record.home, modRevision: homePermit.modRevision },
  };
  planElsewhere(facts, guest, resource, nodes, wantKind, lost, nowWallMs, steps);
}

/** The home is granted: a new order under its current epoch, if the home still holds the guest's own disks. */
function planOnHome(
  facts: ManagerFacts,
  guest: GuestFacts,
  on: { node: NodeFacts; permit: { value: Permit; modRevision: bigint }; wantKind: GuestOrder['kind']; epochIsCurrent: boolean },
  nowWallMs: number,
  steps: ManagerStep[],
): void {
  const { record } = guest;
  if (!on.epochIsCurrent) {
    const because = whyUnusable(facts, on.node);
    // Its heartbeat tells soon; the claim rules cover the case that it never does.
    if (because !== null) {
      steps.push({ kind: 'defer', vmid: record.vmid, because: `its home ${record.home} ${because}` });
      return;
    }
  }
  steps.push({
    kind: 'order',
    vmid: record.vmid,
    next: {
      ...record,
      order: {
        id: (record.order?.id ?? 0) + 1,
        kind: on.wantKind,
        nodeEpoch: on.permit.value.epoch,
        managerEpoch: facts.managerEpoch,
        // An unfinished promotion stays part of the order; the agent repeats it or finds it done.
        promote: record.order?.promote ?? null,
        lostAtMs: record.order?.lostAtMs ?? null,
        issuedAtMs: nowWallMs,
      },
    },
    guestRevision: guest.modRevision,
    resourceRevision: guest.resourceRevision,
    node: record.home,
    permitRevision: on.permit.modRevision,
    lostPermit: null,
    event: 'ordered',
    because:
      record.order === null
        ? `adopted on its home ${record.home}`
        : on.epochIsCurrent
          ? `wanted: ${on.wantKind}`
          : `its home ${record.home} came back under epoch ${on.permit.value.epoch} with the guest's own disks`,
  });
}

function planElsewhere(
  facts: ManagerFacts,
  guest: GuestFacts,
  resource: HaResource,
  nodes: RecoveryNode[],
  wantKind: GuestOrder['kind'],
  lost: { aliveAtMs: number; permit: { node: string; modRevision: bigint } | null },
  nowWallMs: number,
  steps: ManagerStep[],
): void {
  const { record } = guest;
  const { aliveAtMs: lastAliveAtMs, permit: lostPermit } = lost;
  const choice = planRecovery(record, resource, facts.replicas, nodes, lastAliveAtMs);
  if (choice.kind === 'defer') {
    steps.push({ kind: 'defer', vmid: record.vmid, because: choice.because });
    return;
  }
  const target = facts.nodes.find((node) => node.name === choice.node);
  const targetRoom = nodes.find((node) => node.name === choice.node);
  if (target === undefined || target.permit === null || targetRoom === undefined) return;
  targetRoom.freeMemoryMb -= record.config.memoryMb;
  targetRoom.guestCount += 1;
  steps.push({
    kind: 'order',
    vmid: record.vmid,
    next: {
      ...record,
      home: choice.node,
      generation: record.generation + 1,
      order: {
        id: (record.order?.id ?? 0) + 1,
        kind: wantKind,
        nodeEpoch: choice.nodeEpoch,
        managerEpoch: facts.managerEpoch,
        promote: choice.promote,
        lostAtMs: lastAliveAtMs,
        issuedAtMs: nowWallMs,
      },
    },
    guestRevision: guest.modRevision,
    resourceRevision: guest.resourceRevision,
    node: choice.node,
    permitRevision: target.permit.modRevision,
    lostPermit,
    event: 'ordered',
    because: choice.because,
  });
}
