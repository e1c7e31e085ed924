import { limits } from '#base/limits.ts';
import { type ClusterFacts, readClusterFacts } from '#core/ha/cluster-round/facts.ts';
import { planClusterRound } from '#core/ha/cluster-round/round.ts';
import type { ClusterStep, CommitStep } from '#core/ha/cluster-round/steps.ts';
import { keys, prefixes } from '#core/ha/keys.ts';
import { type Observer, silenceOf } from '#core/ha/observer.ts';
import type { BmcRecord, HaEvent, HaMemory } from '#core/ha/records.ts';
import type { Clock } from '#ports/clock.ts';
import type { Store } from '#ports/store.ts';
import type { Bell } from '#programs/agent/bell.ts';
import type { Controllers } from '#programs/agent/controllers.ts';
import { newEvent } from '#programs/agent/ha-event.ts';
import { holdLead, type Lead } from '#programs/agent/lead.ts';
import type { World } from '#programs/agent/world.ts';

/**
 * The manager role: look who leads; when it is this process, read facts, plan (core/ha/cluster-round), record each step by
 * compare-and-set together with the lead, next round. Every node runs the observer, so timers are warm at a takeover.
 */
export type ManagerOptions = {
  self: string;
  store: Store;
  world: World;
  clock: Clock;
  timing: { renewMs: number; softMs: number; claimMs: number };
  observer: () => Observer;
  controllers: Controllers;
  bell: Bell;
  log: { info(fields: object, text: string): void; warn(fields: object, text: string): void };
};

/** What the loop keeps between rounds; nothing that matters is lost with it. */
type Rounds = {
  /** The newest of its own writes: the view is waited for, or the next round would meet them as conflicts. */
  writtenRevision: bigint;
  writtenBootMs: number;
  /** A commit was not confirmed: it may be applied, now or later, and the view may not show it. */
  unsure: boolean;
  /** Of the memory that a round's guests are planned beside. */
  memoryRevision: bigint;
  balancedBootMs: number;
  /** The last reason told of each guest that cannot run. */
  said: Map<number, string>;
};

export async function runManagerLoop(options: ManagerOptions, signal: AbortSignal): Promise<void> {
  let lead = null as Lead | null;
  const rounds: Rounds = {
    writtenRevision: 0n,
    writtenBootMs: 0,
    unsure: false,
    memoryRevision: 0n,
    balancedBootMs: 0,
    said: new Map(),
  };
  let known = { revision: -1n, sinceBootMs: options.clock.bootMs() };
  while (!signal.aborted) {
    if (options.world.isReady()) {
      const revision = options.world.read(keys.manager)?.modRevision ?? 0n;
      if (revision !== known.revision) known = { revision, sinceBootMs: options.clock.bootMs() };
      try {
        const held: Lead | null = await holdLead(
          {
            self: options.self,
            store: options.store,
            world: options.world,
            timing: { ...options.timing, leadAgentSilentMs: 5 * limits.agentAliveMs },
            recordKnownMs: options.clock.bootMs() - known.sinceBootMs,
            newEvent,
          },
          lead,
          options.observer(),
          options.clock.bootMs(),
        );
        if (held?.epoch !== lead?.epoch)
          options.log.info({ event: 'lead.changed', epoch: held?.epoch ?? null }, held === null ? 'follows' : 'leads');
        lead = held;
        if (lead !== null && seesOwnWrites(options, rounds)) await performRound(options, lead, rounds);
      } catch (error) {
        options.log.warn({ event: 'manager.round-failed', err: error }, 'a manager round failed; the next one starts afresh');
      }
    }
    await options.bell.next(limits.managerRoundMs, signal);
  }
}

/** A view that lags for long is planned on all the same: its commits meet conflicts and change nothing. */
function seesOwnWrites({ world, clock }: ManagerOptions, rounds: Rounds): boolean {
  return world.revision() >= rounds.writtenRevision || clock.bootMs() - rounds.writtenBootMs > limits.managerRoundMs;
}

async function performRound(options: ManagerOptions, lead: Lead, rounds: Rounds): Promise<void> {
  if (rounds.unsure) await makeSure(options, lead, rounds);
  const nowBootMs = options.clock.bootMs();
  const facts = readFacts(options, lead, rounds, nowBootMs);
  if (facts.balances) rounds.balancedBootMs = nowBootMs;
  rounds.memoryRevision = facts.memory?.modRevision ?? 0n;
  const plan = planClusterRound(facts, nowBootMs, options.clock.wallMs());
  await performSteps(options, lead, plan.steps, rounds);
  await trimEvents(options, lead);
}

/** Writes the memory once more as it is. What was not confirmed before is applied by the time that this is, or never. */
async function makeSure(options: ManagerOptions, lead: Lead, rounds: Rounds): Promise<void> {
  const memory = options.world.read<HaMemory>(keys.haMemory);
  if (memory === null) return;
  const compares = [lead.compare, { key: keys.haMemory, modRevision: memory.modRevision }];
  const outcome = await options.store.commit(compares, [{ key: keys.haMemory, value: JSON.stringify(memory.value) }]);
  if (outcome.kind !== 'committed') return;
  rounds.unsure = false;
  noteWritten(options, rounds, outcome.revision);
}

function noteWritten({ clock }: ManagerOptions, rounds: Rounds, revision: bigint): void {
  if (revision > rounds.writtenRevision) rounds.writtenRevision = revision;
  rounds.writtenBootMs = clock.bootMs();
}

/** In order, and not beyond a memory that was not written; guests do not wait for each other. */
async function performSteps(options: ManagerOptions, lead: Lead, steps: readonly ClusterStep[], rounds: Rounds): Promise<void> {
  const isGuests = (step: ClusterStep) => step.kind === 'commit' && step.about.kind === 'guest';
  for (const step of steps.filter((candidate) => !isGuests(candidate)))
    if (!(await performStep(options, lead, step, rounds))) return;
  const guests = steps.filter(isGuests);
  for (let at = 0; at < guests.length; at += limits.commitsAtOnce) {
    const batch = guests.slice(at, at + limits.commitsAtOnce);
    await Promise.all(batch.map(async (step) => performStep(options, lead, step, rounds)));
  }
}

/** Old events go in batches, so that a quiet cluster writes nothing. */
async function trimEvents(options: ManagerOptions, lead: Lead): Promise<void> {
  const events = options.world.list<HaEvent>(prefixes.haEvents);
  if (events.length < limits.haEventsKept + 50) return;
  const writes = events.slice(0, 50).map((entry) => ({ key: entry.key, value: null }));
  await options.store.commit([lead.compare], writes);
}

function readFacts(options: ManagerOptions, lead: Lead, rounds: Rounds, nowBootMs: number): ClusterFacts {
  const observer = options.observer();
  const seen = options.world.revision();
  return readClusterFacts(options.world, {
    self: options.self,
    managerEpoch: lead.epoch,
    timing: options.timing,
    readsApartMs: limits.bmcReadsApartMs,
    agentSilentMs: limits.agentSilentMs,
    balances: nowBootMs - rounds.balancedBootMs >= limits.rebalanceRoundMs,
    isCurrent: !rounds.unsure && seen >= rounds.writtenRevision && seen >= lead.compare.modRevision,
    sightOf: (node) => ({
      silence: silenceOf(observer, node, nowBootMs),
      lastSightBootMs: observer.nodes[node]?.lastSightBootMs ?? nowBootMs,
    }),
    evidenceOf: (node) => options.controllers.evidence(node),
  });
}

/** False when nothing after this step may be written. */
async function performStep(options: ManagerOptions, lead: Lead, step: ClusterStep, rounds: Rounds): Promise<boolean> {
  const { controllers, log } = options;
  switch (step.kind) {
    case 'ask-controller': {
      const bmc = options.world.read<BmcRecord>(keys.nodeBmc(step.node))?.value;
      if (bmc !== undefined) controllers.ask(step.node, bmc, step.action);
      log.info({ event: 'controller.asked', target: step.node, action: step.action }, step.because);
      return true;
    }
    case 'defer':
      await tellDeferred(options, lead, step, rounds);
      return true;
    case 'commit':
      return await performCommit(options, lead, step, rounds);
  }
}

async function performCommit(options: ManagerOptions, lead: Lead, step: CommitStep, rounds: Rounds): Promise<boolean> {
  const events = step.events.map((event) => newEvent({ managerEpoch: lead.epoch, proof: null, ...event }).write);
  // Once the memory has moved on, what was planned beside an earlier one is not applied any more, however late it comes.
  const memory = step.about.kind === 'guest' ? [{ key: keys.haMemory, modRevision: rounds.memoryRevision }] : [];
  const outcome = await options.store.commit([lead.compare, ...memory, ...step.compares], [...step.writes, ...events]);
  const { about } = step;
  if (outcome.kind === 'committed') noteWritten(options, rounds, outcome.revision);
  if (outcome.kind === 'committed' && about.kind === 'memory') rounds.memoryRevision = outcome.revision;
  if (outcome.kind === 'maybe') rounds.unsure = true;
  if (about.kind === 'guest') rounds.said.delete(about.vmid);
  const level = about.kind === 'claim' || about.kind === 'release' ? 'warn' : 'info';
  const target = 'node' in about ? { target: about.node } : {};
  const guest = about.kind === 'guest' ? { guest: about.vmid } : {};
  options.log[level]({ event: `manager.${about.kind}`, ...target, ...guest, outcome: outcome.kind }, step.because);
  return outcome.kind === 'committed' || about.kind !== 'memory';
}

async function tellDeferred(
  options: ManagerOptions,
  lead: Lead,
  step: Extract<ClusterStep, { kind: 'defer' }>,
  { said }: Rounds,
): Promise<void> {
  if (said.get(step.vmid) === step.because) return;
  said.set(step.vmid, step.because);
  options.log.warn({ event: 'guest.deferred', guest: step.vmid }, step.because);
  const { write } = newEvent({
    kind: 'deferred',
    node: options.self,
    vmid: step.vmid,
    managerEpoch: lead.epoch,
    text: step.because,
    proof: null,
  });
  await options.store.commit([lead.compare], [write]);
}
