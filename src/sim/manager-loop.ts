import { limits } from '#base/limits.ts';
import { noEvidence, suspectAfterMs } from '#core/ha/claim.ts';
import { type ClusterFacts, readClusterFacts } from '#core/ha/cluster-round/facts.ts';
import type { ClusterStep, CommitStep } from '#core/ha/cluster-round/steps.ts';
import { silenceOf } from '#core/ha/observer.ts';
import type { HaMemory, HaRule, Heartbeat, ManagerRecord, Permit } from '#core/ha/records.ts';
import type { AgentProcess } from '#sim/agent.ts';
import { keys } from '#sim/known-keys.ts';
import { tryOnce } from '#sim/owned-record.ts';
import type { Task } from '#sim/process.ts';
import type { SimCompare } from '#sim/store.ts';

type Lead = { epoch: number; compare: SimCompare };
type Rounds = {
  writtenRevision: bigint;
  writtenBootMs: number;
  unsure: boolean;
  memoryRevision: bigint;
  balancedBootMs: number;
  said: Map<number, string>;
};

/** As programs/agent/manager-loop.ts and lead.ts: the same reads, compares and commits in the same order, without the event records. */
export function* runManagerLoop(agent: AgentProcess): Task<void> {
  let lead: Lead | null = null;
  let known = { revision: -1n, sinceBootMs: agent.host.bootMs() };
  const rounds: Rounds = {
    writtenRevision: 0n,
    writtenBootMs: 0,
    unsure: false,
    memoryRevision: 0n,
    balancedBootMs: 0,
    said: new Map(),
  };
  for (;;) {
    if (agent.ready) {
      const revision = agent.read(keys.manager)?.modRevision ?? 0n;
      if (revision !== known.revision) known = { revision, sinceBootMs: agent.host.bootMs() };
      const held: Lead | null = yield* holdLead(agent, lead, agent.host.bootMs() - known.sinceBootMs);
      lead = held;
      if (held !== null && seesOwnWrites(agent, rounds)) yield* tryOnce(performRound(agent, held, rounds));
    }
    yield* agent.bells.manager.next(agent, limits.managerRoundMs);
  }
}

function seesOwnWrites(agent: AgentProcess, rounds: Rounds): boolean {
  const waitedMs = agent.host.bootMs() - rounds.writtenBootMs;
  return agent.viewRevision >= rounds.writtenRevision || waitedMs > limits.managerRoundMs;
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
      freshNodes: listFreshNodes(agent, nowBootMs),
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
  const fresh = [];
  for (const { name } of agent.cluster.hosts) {
    if (agent.read(keys.nodeHeartbeat(name)) === null) continue;
    const silence = silenceOf(agent.observer, name, nowBootMs);
    if (silence.kind === 'counted' && silence.silentMs < suspectAfterMs(agent.cluster.timing)) fresh.push(name);
  }
  return fresh;
}

function* performRound(agent: AgentProcess, lead: Lead, rounds: Rounds): Task<void> {
  if (rounds.unsure) yield* makeSure(agent, lead, rounds);
  const nowBootMs = agent.host.bootMs();
  const facts = readFacts(agent, lead, rounds, nowBootMs);
  if (facts.balances) rounds.balancedBootMs = nowBootMs;
  rounds.memoryRevision = facts.memory?.modRevision ?? 0n;
  const plan = agent.cluster.rules.planClusterRound(facts, nowBootMs, agent.host.wallMs());
  yield* performSteps({ agent, lead, rounds, rules: facts.rules }, plan.steps);
}

function* makeSure(agent: AgentProcess, lead: Lead, rounds: Rounds): Task<void> {
  const memory = agent.read<HaMemory>(keys.haMemory);
  if (memory === null) return;
  const compares = [lead.compare, { key: keys.haMemory, modRevision: memory.modRevision }];
  const writes = [{ key: keys.haMemory, value: memory.text }];
  const outcome = yield* agent.commit(compares, writes, { leadEpoch: lead.epoch, events: [] });
  if (outcome.kind !== 'committed') return;
  rounds.unsure = false;
  noteWritten(agent, rounds, outcome.revision);
}

function noteWritten(agent: AgentProcess, rounds: Rounds, revision: bigint): void {
  if (revision > rounds.writtenRevision) rounds.writtenRevision = revision;
  rounds.writtenBootMs = agent.host.bootMs();
}

/** Of one round: what its steps are performed with, and what they were planned by. */
type Round = { agent: AgentProcess; lead: Lead; rounds: Rounds; rules: readonly HaRule[] };

/** In order, and not beyond a memory that was not written; guests do not wait for each other. */
function* performSteps(round: Round, steps: readonly ClusterStep[]): Task<void> {
  const isGuests = (step: ClusterStep) => step.kind === 'commit' && step.about.kind === 'guest';
  for (const step of steps.filter((candidate) => !isGuests(candidate))) if (!(yield* performStep(round, step))) return;
  const guests = steps.filter(isGuests);
  for (let at = 0; at < guests.length; at += limits.commitsAtOnce) {
    const batch = guests.slice(at, at + limits.commitsAtOnce);
    yield* round.agent.all(batch.map((step) => performAlone(round, step)));
  }
}

function* performAlone(round: Round, step: ClusterStep): Task<void> {
  yield* performStep(round, step);
}

function readFacts(agent: AgentProcess, lead: Lead, rounds: Rounds, nowBootMs: number): ClusterFacts {
  const { observer, viewRevision } = agent;
  const facts = readClusterFacts(agent, {
    self: agent.host.name,
    managerEpoch: lead.epoch,
    timing: agent.cluster.timing,
    readsApartMs: limits.bmcReadsApartMs,
    agentSilentMs: limits.agentSilentMs,
    balances: nowBootMs - rounds.balancedBootMs >= limits.rebalanceRoundMs,
    isCurrent: !rounds.unsure && viewRevision >= rounds.writtenRevision && viewRevision >= lead.compare.modRevision,
    sightOf: (node) => ({
      silence: silenceOf(observer, node, nowBootMs),
      lastSightBootMs: observer.nodes[node]?.lastSightBootMs ?? nowBootMs,
    }),
    evidenceOf: () => noEvidence,
  });
  if (!agent.cluster.swarm.controllers) return facts;
  // Here a machine has a controller without a record that says so.
  const nodes = facts.nodes.map((node) => ({
    ...node,
    controller: { name: `controller of ${node.name}`, evidence: agent.controllers.evidence(node.name) },
  }));
  return { ...facts, nodes };
}

/** False when nothing after this step may be written. */
function* performStep(round: Round, step: ClusterStep): Task<boolean> {
  const { agent, rounds } = round;
  const { cluster } = agent;
  switch (step.kind) {
    case 'ask-controller':
      agent.controllers.ask(step.node, step.action);
      return true;
    case 'defer':
      if (rounds.said.get(step.vmid) === step.because) return true;
      rounds.said.set(step.vmid, step.because);
      cluster.checks.noteDefer(step.vmid, step.because);
      cluster.say(`${agent.host.name} defers guest ${step.vmid}: ${step.because}`);
      return true;
    case 'commit':
      return yield* performCommit(round, step);
  }
}

function* performCommit({ agent, lead, rounds, rules }: Round, step: CommitStep): Task<boolean> {
  const { cluster } = agent;
  const { about } = step;
  const memory = about.kind === 'guest' ? [{ key: keys.haMemory, modRevision: rounds.memoryRevision }] : [];
  const compares = [...(cluster.rules.compareLead ? [lead.compare] : []), ...memory, ...keepCompares(agent, step)];
  // The events go with the commit; here nobody reads them but the checkers.
  const outcome = yield* agent.commit(compares, step.writes, { leadEpoch: lead.epoch, events: step.events, rules });
  if (outcome.kind === 'committed') noteWritten(agent, rounds, outcome.revision);
  if (outcome.kind === 'committed' && about.kind === 'memory') rounds.memoryRevision = outcome.revision;
  if (outcome.kind === 'maybe') rounds.unsure = true;
  if (about.kind === 'guest') rounds.said.delete(about.vmid);
  const what = about.kind === 'guest' ? `guest ${about.vmid} on ${about.node}` : 'node' in about ? about.node : '';
  cluster.say(`${agent.host.name} manager: ${about.kind} ${what} (${outcome.kind}): ${step.because}`);
  return outcome.kind === 'committed' || about.kind !== 'memory';
}

/** The compares of a step, without those that a broken rule forgets. */
function keepCompares(agent: AgentProcess, { about, compares }: CommitStep): CommitStep['compares'] {
  const { rules } = agent.cluster;
  if (about.kind === 'claim') return rules.compareClaim ? compares : [];
  if (about.kind !== 'guest') return compares;
  return compares.filter(({ key }) => {
    if (key === keys.guest(about.vmid)) return rules.compareGuest;
    return key !== keys.haResource(about.vmid) || rules.compareWant;
  });
}
