import { limits } from '#base/limits.ts';
import type { GuestRecord } from '#core/guest/guest-record.ts';
import { keys, prefixes } from '#core/ha/keys.ts';
import { type ManagerFacts, type ManagerStep, type NodeFacts, planManagerRound } from '#core/ha/manager-plan.ts';
import { type Observer, silenceOf } from '#core/ha/observer.ts';
import type { BmcRecord, HaEvent, HaResource, Heartbeat, NodeInfo, Permit, ReleaseOrder } from '#core/ha/records.ts';
import type { ReplicaRecord } from '#core/replica/records.ts';
import type { Clock } from '#ports/clock.ts';
import type { Compare, Store } from '#ports/store.ts';
import type { Bell } from '#programs/agent/bell.ts';
import type { Controllers } from '#programs/agent/controllers.ts';
import { newEvent } from '#programs/agent/ha-event.ts';
import { holdLead, type Lead } from '#programs/agent/lead.ts';
import type { World } from '#programs/agent/world.ts';

/**
 * The manager role: look who leads; when it is this process, read facts, plan (core/ha/manager-plan.ts), record each step by
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

export async function runManagerLoop(options: ManagerOptions, signal: AbortSignal): Promise<void> {
  let lead = null as Lead | null;
  const said = new Map<string, string>();
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
        if (lead !== null) await performRound(options, lead, said);
      } catch (error) {
        options.log.warn({ event: 'manager.round-failed', err: error }, 'a manager round failed; the next one starts afresh');
      }
    }
    await options.bell.next(limits.managerRoundMs, signal);
  }
}

async function performRound(options: ManagerOptions, lead: Lead, said: Map<string, string>): Promise<void> {
  const nowBootMs = options.clock.bootMs();
  const facts = readFacts(options, lead, nowBootMs);
  const plan = planManagerRound(facts, nowBootMs, options.clock.wallMs());
  for (const step of plan.steps) await performStep(options, lead, step, said);
  await trimEvents(options, lead);
}

/** Old events go in batches, so that a quiet cluster writes nothing. */
async function trimEvents(options: ManagerOptions, lead: Lead): Promise<void> {
  const events = options.world.list<HaEvent>(prefixes.haEvents);
  if (events.length < limits.haEventsKept + 50) return;
  const writes = events.slice(0, 50).map((entry) => ({ key: entry.key, value: null }));
  await options.store.commit([lead.compare], writes);
}

function readFacts(options: ManagerOptions, lead: Lead, nowBootMs: number): ManagerFacts {
  const { world } = options;
  return {
    self: options.self,
    managerEpoch: lead.epoch,
    nodes: listNodeNames(world).map((name) => readNode(options, name, nowBootMs)),
    guests: world.list<GuestRecord>(prefixes.guests).map((entry) => {
      const resource = world.read<HaResource>(keys.haResource(entry.value.vmid));
      return {
        record: entry.value,
        modRevision: entry.modRevision,
        resource: resource?.value ?? null,
        resourceRevision: resource?.modRevision ?? 0n,
      };
    }),
    replicas: world.list<ReplicaRecord>(prefixes.replicas).map((entry) => entry.value),
    timing: options.timing,
    readsApartMs: limits.bmcReadsApartMs,
    agentSilentMs: limits.agentSilentMs,
  };
}

function readNode(options: ManagerOptions, name: string, nowBootMs: number): NodeFacts {
  const { world } = options;
  const observer = options.observer();
  const bmc = world.read<BmcRecord>(keys.nodeBmc(name))?.value ?? null;
  return {
    name,
    info: world.read<NodeInfo>(keys.nodeInfo(name))?.value ?? null,
    permit: world.read<Permit>(keys.nodePermit(name)),
    heartbeat: world.read<Heartbeat>(keys.nodeHeartbeat(name)),
    silence: silenceOf(observer, name, nowBootMs),
    lastSightBootMs: observer.nodes[name]?.lastSightBootMs ?? nowBootMs,
    controller: bmc === null ? null : { name: `${bmc.kind}:${bmc.address}`, evidence: options.controllers.evidence(name) },
  };
}

/** Every node that has written anything. */
function listNodeNames(world: World): string[] {
  const names = world.list(prefixes.nodes).map((entry) => entry.key.slice(prefixes.nodes.length).split('/')[0] ?? '');
  return [...new Set(names)].sort();
}

async function performStep(options: ManagerOptions, lead: Lead, step: ManagerStep, said: Map<string, string>): Promise<void> {
  const { store, controllers, log } = options;
  switch (step.kind) {
    case 'ask-controller': {
      const bmc = options.world.read<BmcRecord>(keys.nodeBmc(step.node))?.value;
      if (bmc !== undefined) controllers.ask(step.node, bmc, step.action);
      log.info({ event: 'controller.asked', target: step.node, action: step.action }, step.because);
      return;
    }
    case 'claim': {
      const { write } = newEvent({
        kind: 'claimed',
        node: step.node,
        vmid: null,
        managerEpoch: lead.epoch,
        text: step.because,
        proof: step.proof,
      });
      const outcome = await store.commit(
        [
          lead.compare,
          { key: keys.nodePermit(step.node), modRevision: step.permitRevision },
          { key: keys.nodeHeartbeat(step.node), modRevision: step.heartbeatRevision },
        ],
        [{ key: keys.nodePermit(step.node), value: JSON.stringify(step.next) }, write],
      );
      log.warn({ event: 'node.claimed', target: step.node, outcome: outcome.kind, proof: step.proof }, step.because);
      return;
    }
    case 'order': {
      const outcome = await commitOrder(options, lead, step);
      log.info({ event: 'guest.ordered', guest: step.vmid, target: step.node, outcome }, step.because);
      said.delete(`guest ${step.vmid}`);
      return;
    }
    case 'defer': {
      const topic = `guest ${step.vmid}`;
      if (said.get(topic) === step.because) return;
      said.set(topic, step.because);
      log.warn({ event: 'guest.deferred', guest: step.vmid }, step.because);
      const { write } = newEvent({
        kind: 'deferred',
        node: options.self,
        vmid: step.vmid,
        managerEpoch: lead.epoch,
        text: step.because,
        proof: null,
      });
      await store.commit([lead.compare], [write]);
      return;
    }
    case 'ask-release': {
      const key = keys.nodeRelease(step.node);
      if (options.world.read(key) !== null) return;
      log.warn({ event: 'node.release-asked', target: step.node, epoch: step.epoch }, step.because);
      const order: ReleaseOrder = { reason: step.because, managerEpoch: lead.epoch, askedAtMs: options.clock.wallMs() };
      await store.commit([lead.compare, { key, modRevision: 0n }], [{ key, value: JSON.stringify(order) }]);
      return;
    }
  }
}

async function commitOrder(options: ManagerOptions, lead: Lead, step: Extract<ManagerStep, { kind: 'order' }>): Promise<string> {
  const { write } = newEvent({
    kind: step.event,
    node: step.node,
    vmid: step.vmid,
    managerEpoch: lead.epoch,
    text: `guest ${step.vmid} ${step.next.order?.kind ?? ''} on ${step.node} (generation ${step.next.generation}): ${step.because}`,
    proof: null,
  });
  const compares: Compare[] = [
    lead.compare,
    { key: keys.guest(step.vmid), modRevision: step.guestRevision },
    { key: keys.haResource(step.vmid), modRevision: step.resourceRevision },
    { key: keys.nodePermit(step.node), modRevision: step.permitRevision },
    ...(step.lostPermit === null
      ? []
      : [{ key: keys.nodePermit(step.lostPermit.node), modRevision: step.lostPermit.modRevision }]),
  ];
  const outcome = await options.store.commit(compares, [{ key: keys.guest(step.vmid), value: JSON.stringify(step.next) }, write]);
  // The watch rings when the view has this write. To plan again before that is to meet one's own commit as a conflict.
  return outcome.kind;
}
