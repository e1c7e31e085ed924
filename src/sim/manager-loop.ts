import { limits } from '#base/limits.ts';
import type { GuestRecord } from '#core/guest/guest-record.ts';
import { suspectAfterMs } from '#core/ha/claim.ts';
import { prefixes } from '#core/ha/keys.ts';
import type { ManagerFacts, ManagerStep, NodeFacts } from '#core/ha/manager-plan.ts';
import { silenceOf } from '#core/ha/observer.ts';
import type { HaResource, Heartbeat, ManagerRecord, NodeInfo, Permit, ReleaseOrder } from '#core/ha/records.ts';
import type { ReplicaRecord } from '#core/replica/records.ts';
import type { AgentProcess } from '#sim/agent.ts';
import { keys } from '#sim/known-keys.ts';
import { tryOnce } from '#sim/owned-record.ts';
import type { Task } from '#sim/process.ts';
import type { SimCompare } from '#sim/store.ts';

type Lead = { epoch: number; compare: SimCompare };

/** As programs/agent/manager-loop.ts and lead.ts: the same reads, compares and commits in the same order, without the event records. */
export function* runManagerLoop(agent: AgentProcess): Task<void> {
  let lead: Lead | null = null;
  let known = { revision: -1n, sinceBootMs: agent.host.bootMs() };
  const said = new Map<string, string>();
  for (;;) {
    if (agent.ready) {
      const revision = agent.read(keys.manager)?.modRevision ?? 0n;
      if (revision !== known.revision) known = { revision, sinceBootMs: agent.host.bootMs() };
      const held: Lead | null = yield* holdLead(agent, lead, agent.host.bootMs() - known.sinceBootMs);
      lead = held;
      if (held !== null) yield* tryOnce(performRound(agent, held, said));
    }
    yield* agent.bells.manager.next(agent, limits.managerRoundMs);
  }
}

function* holdLead(agent: AgentProcess, own: Lead | null, recordKnownMs: number): Task<Lead | null> {
  const { timing, rules } = agent.cluster;
  const self = agent.host.name;
  if (own !== null && agent.viewRevision < own.compare.modRevision) return own;
  const record = agent.read<ManagerRecord>(keys.manager);
  const leaderNode = record?.value.node ?? null;
  const nowBootMs = agent.host.bootMs();
  const decision = rules.planLead(
    {
      self,
      ownEpoch: own?.epoch ?? null,
      record: record?.value ?? null,
      leader:
        leaderNode === null
          ? null
          : {
              permit: agent.read<Permit>(keys.nodePermit(leaderNode))?.value ?? null,
              heartbeat: agent.read<Heartbeat>(keys.nodeHeartbeat(leaderNode))?.value ?? null,
              silence: silenceOf(agent.observer, leaderNode, nowBootMs),
            },
      // Asked for only when the leader may be lost.
      get freshNodes() {
        return listFreshNodes(agent, nowBootMs);
      },
      ownSilence: silenceOf(agent.observer, self, nowBootMs),
      recordKnownMs,
    },
    { renewMs: timing.renewMs, leadAgentSilentMs: 5 * limits.agentAliveMs },
  );
  if (decision.kind === 'lead') return own;
  if (decision.kind === 'follow') return null;
  const next: ManagerRecord = { node: self, epoch: decision.epoch, sinceAtMs: agent.host.wallMs() };
  const outcome = yield* agent.commit(
    [{ key: keys.manager, modRevision: record?.modRevision ?? 0n }],
    [{ key: keys.manager, value: JSON.stringify(next) }],
  );
  if (outcome.kind !== 'committed') return null;
  agent.cluster.say(`${self} leads under epoch ${decision.epoch}: ${decision.because}`);
  return { epoch: decision.epoch, compare: { key: keys.manager, modRevision: outcome.revision } };
}

function listFreshNodes(agent: AgentProcess, nowBootMs: number): string[] {
  return agent.cluster.hosts
    .map((host) => host.name)
    .filter((name) => {
      if (agent.read(keys.nodeHeartbeat(name)) === null) return false;
      const silence = silenceOf(agent.observer, name, nowBootMs);
      return silence.kind === 'counted' && silence.silentMs < suspectAfterMs(agent.cluster.timing);
    });
}

function* performRound(agent: AgentProcess, lead: Lead, said: Map<string, string>): Task<void> {
  const nowBootMs = agent.host.bootMs();
  const facts = readFacts(agent, lead, nowBootMs);
  const plan = agent.cluster.rules.planManagerRound(facts, nowBootMs, agent.host.wallMs());
  for (const step of plan.steps) yield* performStep(agent, lead, step, said);
}

function readFacts(agent: AgentProcess, lead: Lead, nowBootMs: number): ManagerFacts {
  return {
    self: agent.host.name,
    managerEpoch: lead.epoch,
    nodes: agent.cluster.hosts
      .map((host) => host.name)
      .filter((name) => knowsNode(agent, name))
      .map((name) => readNode(agent, name, nowBootMs)),
    guests: agent.list<GuestRecord>(prefixes.guests).map((entry) => {
      const resource = agent.read<HaResource>(keys.haResource(entry.value.vmid));
      return {
        record: entry.value,
        modRevision: entry.modRevision,
        resource: resource?.value ?? null,
        resourceRevision: resource?.modRevision ?? 0n,
      };
    }),
    replicas: agent.list<ReplicaRecord>(prefixes.replicas).map((entry) => entry.value),
    timing: agent.cluster.timing,
    readsApartMs: limits.bmcReadsApartMs,
    agentSilentMs: limits.agentSilentMs,
  };
}

function knowsNode(agent: AgentProcess, name: string): boolean {
  return [keys.nodeInfo(name), keys.nodePermit(name), keys.nodeHeartbeat(name)].some((key) => agent.read(key) !== null);
}

function readNode(agent: AgentProcess, name: string, nowBootMs: number): NodeFacts {
  const controlled = agent.cluster.swarm.controllers;
  return {
    name,
    info: agent.read<NodeInfo>(keys.nodeInfo(name))?.value ?? null,
    permit: agent.read<Permit>(keys.nodePermit(name)),
    heartbeat: agent.read<Heartbeat>(keys.nodeHeartbeat(name)),
    silence: silenceOf(agent.observer, name, nowBootMs),
    lastSightBootMs: agent.observer.nodes[name]?.lastSightBootMs ?? nowBootMs,
    controller: controlled ? { name: `controller of ${name}`, evidence: agent.controllers.evidence(name) } : null,
  };
}

function* performStep(agent: AgentProcess, lead: Lead, step: ManagerStep, said: Map<string, string>): Task<void> {
  const { cluster } = agent;
  const leadCompare = cluster.rules.compareLead ? [lead.compare] : [];
  switch (step.kind) {
    case 'ask-controller':
      agent.controllers.ask(step.node, step.action);
      return;
    case 'claim': {
      const both = [
        { key: keys.nodePermit(step.node), modRevision: step.permitRevision },
        { key: keys.nodeHeartbeat(step.node), modRevision: step.heartbeatRevision },
      ];
      const outcome = yield* agent.commit(
        [...leadCompare, ...(cluster.rules.compareClaim ? both : [])],
        [{ key: keys.nodePermit(step.node), value: JSON.stringify(step.next) }],
        lead.epoch,
      );
      cluster.say(`${agent.host.name} claims ${step.node} (${outcome.kind}): ${step.because}`);
      return;
    }
    case 'order': {
      const guest = { key: keys.guest(step.vmid), modRevision: step.guestRevision };
      const outcome = yield* agent.commit(
        [
          ...leadCompare,
          ...(cluster.rules.compareGuest ? [guest] : []),
          ...(cluster.rules.compareWant ? [{ key: keys.haResource(step.vmid), modRevision: step.resourceRevision }] : []),
          { key: keys.nodePermit(step.node), modRevision: step.permitRevision },
          ...(step.lostPermit === null
            ? []
            : [{ key: keys.nodePermit(step.lostPermit.node), modRevision: step.lostPermit.modRevision }]),
        ],
        [{ key: keys.guest(step.vmid), value: JSON.stringify(step.next) }],
        lead.epoch,
      );
      said.delete(`guest ${step.vmid}`);
      cluster.say(
        `${agent.host.name} orders guest ${step.vmid} ${step.next.order?.kind} on ${step.node} ` +
          `(generation ${step.next.generation}, ${outcome.kind}): ${step.because}`,
      );
      return;
    }
    case 'defer': {
      const topic = `guest ${step.vmid}`;
      if (said.get(topic) === step.because) return;
      said.set(topic, step.because);
      cluster.checks.noteDefer(step.vmid, step.because);
      cluster.say(`${agent.host.name} defers guest ${step.vmid}: ${step.because}`);
      return;
    }
    case 'ask-release': {
      const key = keys.nodeRelease(step.node);
      if (agent.read(key) !== null) return;
      cluster.say(`${agent.host.name} asks ${step.node} for its release: ${step.because}`);
      const order: ReleaseOrder = { reason: step.because, managerEpoch: lead.epoch, askedAtMs: agent.host.wallMs() };
      const compares = [...leadCompare, { key, modRevision: 0n }];
      yield* agent.commit(compares, [{ key, value: JSON.stringify(order) }], lead.epoch);
      return;
    }
  }
}
