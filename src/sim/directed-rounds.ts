import { limits } from '#base/limits.ts';
import type { GuestRecord } from '#core/guest/guest-record.ts';
import type { Command } from '#core/ha/manager/facts.ts';
import type { ShutdownPolicy } from '#core/ha/manager/shutdown-policy.ts';
import type { HaMemory, HaResource } from '#core/ha/records.ts';
import type { Cluster } from '#sim/cluster.ts';
import type { Dice } from '#sim/engine.ts';
import { isolate } from '#sim/faults.ts';
import type { Host } from '#sim/host.ts';
import { keys } from '#sim/known-keys.ts';
import { findTrouble, isExecutingOn } from '#sim/liveness.ts';
import { canRun } from '#sim/room.ts';
import type { RoundKind } from '#sim/swarm.ts';

/** What a round needs of the run that it belongs to. */
export type RoundWorld = {
  readonly cluster: Cluster;
  readonly fate: Dice;
  isMending: boolean;
  readonly longest: { plugMs: number; releaseMs: number; allOffMs: number; healMs: number; moveMs: number; drainMs: number };
  wait: (untilMs: number, well: Host[], find: () => string | null, after: string) => void;
  settle: (after: string, well: Host[], withCopies: boolean) => void;
  comeToRest: () => void;
  heal: () => void;
};

/** One thing done while all is well, held against its own bound. */
export function runDirectedRound(world: RoundWorld, kind: Exclude<RoundKind, 'chaos'>): void {
  switch (kind) {
    case 'plug':
      return pullPlug(world);
    case 'release':
      return releaseNode(world);
    case 'all-off':
      return turnAllOff(world);
    case 'move':
      return moveGuest(world);
    case 'drain':
      return drainNodes(world);
    case 'end':
      return endNode(world);
    case 'disarm':
      return disarm(world);
    case 'flap':
      return flap(world);
    case 'calm':
      return stayCalm(world);
  }
}

/** L1: everything was well, one node loses its plug: its guests run elsewhere within D + 10 s. */
function pullPlug(world: RoundWorld): void {
  const { cluster, fate } = world;
  world.comeToRest();
  const lost = fate.pick(cluster.hosts);
  const mine = guestsOf(cluster, lost);
  cluster.say(`the plug of ${lost.name} is pulled`);
  lost.powerOff('the plug is pulled');
  lost.plugged = false;
  const startMs = cluster.engine.nowMs;
  waitForGuests(world, mine, lost, startMs + cluster.timing.claimMs * 1.02 + 10_000, 'L1');
  world.longest.plugMs = Math.max(world.longest.plugMs, cluster.engine.nowMs - startMs);
  world.heal();
}

/** L2: a node gives its permit back: its guests run elsewhere within 5 s. */
function releaseNode(world: RoundWorld): void {
  const { cluster, fate } = world;
  world.comeToRest();
  const lost = fate.pick(cluster.hosts);
  const mine = guestsOf(cluster, lost);
  cluster.say(`${lost.name} is asked to release its guests`);
  lost.releaseAsked = 'maintenance';
  const startMs = cluster.engine.nowMs;
  waitForGuests(world, mine, lost, startMs + 5_500 + 4 * cluster.swarm.jitterMs, 'L2');
  world.longest.releaseMs = Math.max(world.longest.releaseMs, cluster.engine.nowMs - startMs);
  world.heal();
}

/** L8: all nodes lost and back: everything runs within boot + D + 30 s. */
function turnAllOff(world: RoundWorld): void {
  const { cluster, fate } = world;
  cluster.say('every node loses power');
  for (const host of cluster.hosts) host.powerOff('the whole house is dark');
  cluster.runUntil(cluster.engine.nowMs + fate.between(1_000, 60_000));
  for (const host of cluster.hosts) host.powerOn(fate.between(3_000, 20_000));
  const startMs = cluster.engine.nowMs;
  const boundMs = 20_000 + cluster.timing.claimMs + 30_000 + waitsForOthersMs(cluster);
  // One that was back may be moved on for balance.
  const back = new Set<number>();
  const find = () => {
    for (const vmid of cluster.vmids) if (cluster.hosts.some((host) => isExecutingOn(host, vmid))) back.add(vmid);
    return findTrouble(cluster, cluster.hosts, back)?.replace(/^L\d+/, 'L8') ?? null;
  };
  world.wait(startMs + boundMs, cluster.hosts, find, 'power came back');
  world.longest.allOffMs = Math.max(world.longest.allOffMs, cluster.engine.nowMs - startMs);
  world.settle('power came back', cluster.hosts, true);
}

/** S4, S13: in peace a move that is accepted arrives. */
function moveGuest(world: RoundWorld): void {
  const { cluster, fate } = world;
  world.comeToRest();
  world.isMending = false;
  const vmid = fate.pick(cluster.vmids);
  const to = fate.pick(cluster.hosts).name;
  const startMs = cluster.engine.nowMs;
  if (!ask(world, { kind: 'move', guest: String(vmid), live: fate.yes(0.5), to })) return world.heal();
  const boundMs = moveBoundMs(cluster) * cluster.vmids.length;
  // A copy over there that turns out unfit is declined, and the guest goes on where it can.
  const isOver = () => homeOf(cluster, vmid) === to || hasDeclined(cluster, vmid, to);
  const find = () => (isOver() ? null : `S4 guest ${vmid} is not on ${to}, where its move was accepted to`);
  world.wait(startMs + boundMs, cluster.hosts, find, 'a move was asked for');
  world.longest.moveMs = Math.max(world.longest.moveMs, cluster.engine.nowMs - startMs);
  world.heal();
}

/** S15: guests leave a drained node as far as others can take them, none stays down; also when every node is drained. */
function drainNodes(world: RoundWorld): void {
  const { cluster, fate } = world;
  world.comeToRest();
  world.isMending = false;
  const first = fate.pick(cluster.hosts);
  const drained = fate.yes(0.2) ? cluster.hosts : [first];
  const startMs = cluster.engine.nowMs;
  for (const host of drained) ask(world, { kind: 'drain', node: host.name });
  const find = () => findTrouble(cluster, cluster.hosts);
  world.wait(startMs + moveBoundMs(cluster) * (cluster.vmids.length + 1), cluster.hosts, find, 'a drain');
  world.longest.drainMs = Math.max(world.longest.drainMs, cluster.engine.nowMs - startMs);
  if (fate.yes(0.3)) {
    cluster.say(`the plug of ${first.name} is pulled while it is drained`);
    first.powerOff('the plug is pulled');
    cluster.runUntil(cluster.engine.nowMs + fate.between(1_000, 40_000));
    first.powerOn(fate.between(3_000, 10_000));
  }
  world.heal();
}

/** A node is to end: its guests are treated as the policy says, whether it goes down or stays after all. */
function endNode(world: RoundWorld): void {
  const { cluster, fate } = world;
  world.comeToRest();
  world.isMending = false;
  const host = fate.pick(cluster.hosts);
  const request = fate.pick(['reboot', 'power-off'] as const);
  const policy = fate.pick<ShutdownPolicy>(['conditional', 'freeze', 'failover', 'migrate']);
  const goesDown = fate.yes(0.7);
  let isReady = false;
  cluster.people.request(host.name, { kind: 'node-end', request, policy }, () => {
    isReady = true;
    if (goesDown) cluster.endNode(host, request);
  });
  const boundMs = limits.guestShutdownMs + moveBoundMs(cluster) * cluster.vmids.length;
  const find = () => (isReady || policy === 'migrate' ? null : `L5 ${host.name} is not ready to end`);
  world.wait(cluster.engine.nowMs + boundMs, [], find, 'it was to end');
  const well = cluster.hosts.filter((other) => other !== host);
  if (goesDown && request === 'power-off' && fate.yes(0.5)) {
    cluster.runUntil(cluster.engine.nowMs + 8_000);
    world.settle('the end of a node', well, false);
  }
  world.heal();
}

/** S15: while it is disarmed nothing is taken from anybody, whatever the network and the store do; armed again, everything runs. */
function disarm(world: RoundWorld): void {
  const { cluster, fate } = world;
  world.comeToRest();
  world.isMending = false;
  if (!ask(world, { kind: 'disarm', mode: fate.pick(['hold', 'hands-off']) })) return world.heal();
  const stage = () => cluster.store.read<HaMemory>(keys.haMemory)?.value.disarm?.stage;
  // It waits for whoever is being recovered, also for one that nobody can take.
  const find = () => (stage() === 'complete' || isAnyLost(cluster) ? null : `L5 the disarm is ${stage()}`);
  world.wait(cluster.engine.nowMs + 60_000, cluster.hosts, find, 'the disarm');
  if (stage() !== 'complete') return world.heal();
  const lost = fate.pick(cluster.hosts);
  const fault = fate.pick(['cut', 'plug', 'dark-store', 'none'] as const);
  cluster.say(`disarmed, and then: ${fault} ${lost.name}`);
  const running = cluster.hosts.flatMap((host) =>
    guestsOf(cluster, host).map((vmid) => ({ host, vmid, qemu: host.qemus.get(vmid) })),
  );
  if (fault === 'cut') isolate(cluster, lost, cluster.engine.nowMs + 150_000);
  if (fault === 'plug') lost.powerOff('the plug is pulled');
  if (fault === 'dark-store') for (const host of cluster.hosts) host.memberDownUntilMs = cluster.engine.nowMs + 60_000;
  cluster.runUntil(cluster.engine.nowMs + 60_000);
  for (const { host, vmid, qemu } of running) {
    if (qemu !== undefined && host.powered && !host.isExecuting(qemu))
      cluster.checks.fail('S15', `guest ${vmid} does not run on ${host.name} any more although it was disarmed`);
  }
  // Armed while that node is still away, unguarded: its silence proves nothing for as long as it lasts.
  if (fault === 'cut' && cluster.checks.violation === null) {
    ask(world, { kind: 'arm' });
    cluster.runUntil(cluster.engine.nowMs + 2 * cluster.timing.claimMs);
  }
  world.heal();
}

/** L7: a node that is lost again and again gets no guests any more, until somebody releases it. */
function flap(world: RoundWorld): void {
  const { cluster, fate } = world;
  world.comeToRest();
  world.isMending = false;
  const { quarantineAfter } = cluster.people.settings();
  const lost = fate.pick(cluster.hosts);
  const flaps = () => cluster.store.read<HaMemory>(keys.haMemory)?.value.flaps[lost.name];
  // Recovered where they could be, guests may go on to where they belong.
  const boundMs = 60_000 + moveBoundMs(cluster) * cluster.vmids.length;
  for (let time = 0; time < Math.max(2, quarantineAfter); time += 1) {
    lost.powerOff('it flaps');
    cluster.runUntil(cluster.engine.nowMs + cluster.timing.claimMs * 1.02 + 6_000);
    lost.powerOn(4_000);
    world.wait(cluster.engine.nowMs + boundMs, cluster.hosts, () => findTrouble(cluster, cluster.hosts), 'it flapped');
  }
  const isDue = quarantineAfter > 0 && quarantineAfter <= 5;
  const find = () => (!isDue || flaps()?.quarantined === true ? null : `L7 ${lost.name} was lost ${quarantineAfter} times`);
  world.wait(cluster.engine.nowMs + 10_000, cluster.hosts, find, 'it flapped');
  world.heal();
}

/** L3, L4: a time in which nothing happens to anybody; the hour that L4 looks back on among them. */
function stayCalm(world: RoundWorld): void {
  const { cluster, fate } = world;
  world.comeToRest();
  const { claims, releases, starts, moves } = cluster.checks.counts;
  // Who could run nowhere may find a place meanwhile.
  const down = cluster.vmids.filter((vmid) => !cluster.hosts.some((host) => isExecutingOn(host, vmid))).length;
  cluster.runUntil(cluster.engine.nowMs + fate.between(900_000, 4_500_000));
  const now = cluster.checks.counts;
  if (now.claims + now.releases > claims + releases) cluster.checks.fail('L3', 'nothing happened, and a node was taken down');
  if (now.starts - starts > now.moves - moves + down) cluster.checks.fail('L3', 'nothing happened, and a guest was started');
}

/** Asks, and waits for the answer; true: accepted. */
function ask(world: RoundWorld, command: Command): boolean {
  const { cluster } = world;
  let answer: boolean | null = null;
  cluster.people.command(command, 1, (accepted) => (answer = accepted));
  const find = () => (answer === null ? `S4 ${JSON.stringify(command)} is not answered` : null);
  world.wait(cluster.engine.nowMs + limits.commandPickupMs, cluster.hosts, find, 'it was asked for');
  return answer === true;
}

function waitForGuests(world: RoundWorld, vmids: number[], lost: Host, untilMs: number, name: string): void {
  const { cluster } = world;
  const well = cluster.hosts.filter((host) => host !== lost);
  const generationOf = (vmid: number) => cluster.store.read<GuestRecord>(keys.guest(vmid))?.value.generation ?? 0;
  const before = new Map(vmids.map((vmid) => [vmid, generationOf(vmid)]));
  const find = () => {
    const missing = vmids.find((vmid) => {
      if (well.some((host) => isExecutingOn(host, vmid))) return false;
      // The copy that was chosen first turned out unfit, so another one was: that is no clean loss any more.
      if (generationOf(vmid) > (before.get(vmid) ?? 0) + 1) return false;
      const record = cluster.store.read<GuestRecord>(keys.guest(vmid))?.value;
      return record !== undefined && canRun(cluster, well, record) && !waits(cluster, record);
    });
    return missing === undefined ? null : `${name} guest ${missing} does not run`;
  };
  world.wait(untilMs, [], find, `${lost.name} was lost`);
}

/** It starts after others, or waits for a fresher copy, because people said so. */
function waits({ store }: Cluster, { vmid }: GuestRecord): boolean {
  const resource = store.read<HaResource>(keys.haResource(vmid))?.value;
  return (resource?.startsAfter ?? []).length > 0 || (resource?.betterCopyWaitMs ?? 0) > 0;
}

function waitsForOthersMs({ swarm }: Cluster): number {
  return swarm.dependencies ? limits.startsAfterWaitMs : 0;
}

/** A guest shuts down, its last state travels, it starts. */
function moveBoundMs({ swarm }: Cluster): number {
  return 30_000 + 8 * swarm.transferMs;
}

function hasDeclined({ store }: Cluster, vmid: number, node: string): boolean {
  return store.read<GuestRecord>(keys.guest(vmid))?.value.declined?.some((copy) => copy.node === node) === true;
}

function isAnyLost({ store, vmids }: Cluster): boolean {
  return vmids.some((vmid) => store.read<GuestRecord>(keys.guest(vmid))?.value.ha?.state.kind === 'awaiting-recovery');
}

function guestsOf(cluster: Cluster, host: Host): number[] {
  return cluster.vmids.filter((vmid) => isExecutingOn(host, vmid));
}

function homeOf(cluster: Cluster, vmid: number): string | null {
  return cluster.store.read<GuestRecord>(keys.guest(vmid))?.value.home ?? null;
}
