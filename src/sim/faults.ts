import type { Cluster } from '#sim/cluster.ts';
import type { Host } from '#sim/host.ts';
import type { Layer } from '#sim/network.ts';
import { beginPersonFault } from '#sim/people-faults.ts';
import type { Fault } from '#sim/swarm.ts';

const forever = Number.POSITIVE_INFINITY;

/** A fault in plain words. */
export function describeFault(fault: Fault): string {
  return `${fault.kind} n${fault.node + 1} (other n${fault.other + 1}) for ${fault.forMs} ms`;
}

/** Lets a fault begin now. */
export function beginFault(cluster: Cluster, fault: Fault): void {
  const host = cluster.hosts[fault.node];
  const other = cluster.hosts[fault.other];
  if (host === undefined || other === undefined) return;
  const { engine, network, store } = cluster;
  const untilMs = engine.nowMs + fault.forMs;
  cluster.say(`FAULT ${describeFault(fault)}`);
  switch (fault.kind) {
    case 'plug-pulled':
    case 'power-off':
      return losePower(cluster, host, fault);
    case 'host-still':
      if (host.powered) host.stopStill(untilMs);
      return;
    case 'isolated':
      return isolate(cluster, host, untilMs);
    case 'store-cut':
    case 'link-cut':
      return cutBoth(cluster, fault.kind === 'store-cut' ? 'store' : 'link', host, other, untilMs);
    case 'store-cut-one-way':
      return network.cut('store', host.name, other.name, untilMs);
    case 'link-cut-one-way':
      return network.cut('link', host.name, other.name, untilMs);
    case 'flapping':
      return flap(cluster, host, fault, { times: 8, era: cluster.era });
    case 'lossy':
      network.lossyUntilMs = Math.max(network.lossyUntilMs, untilMs);
      return;
    case 'leader-lost':
      return store.loseLeader(200 + fault.chance * 2_500);
    case 'member-down':
      host.memberDownUntilMs = Math.max(host.memberDownUntilMs, untilMs);
      return;
    case 'answers-lost':
      store.answersLostUntilMs = Math.max(store.answersLostUntilMs, untilMs);
      return;
    case 'store-slow':
      store.slowUntilMs = Math.max(store.slowUntilMs, untilMs);
      return;
    case 'source-dies-moving':
    case 'target-dies-moving':
      return loseMidMove(cluster, host, other, fault);
    default:
      beginNodeFault(cluster, host, fault, untilMs);
      return beginPersonFault(cluster, host, other, fault);
  }
}

function beginNodeFault(cluster: Cluster, host: Host, fault: Fault, untilMs: number): void {
  switch (fault.kind) {
    case 'guard-paused':
      if (host.guard !== null) host.guard.pausedUntilMs = untilMs;
      return;
    case 'guard-paused-inside':
      if (host.guard !== null) host.guard.pauseInsideMs = fault.forMs;
      return;
    case 'guard-killed':
      if (host.guard !== null) host.guard.alive = false;
      host.guard = null;
      if (fault.chance < 0.3) cluster.startGuardLater(host, fault.forMs / 4);
      return;
    case 'guard-handed-over':
      if (host.guard !== null) host.guard.handOver = true;
      return;
    case 'guard-stopped':
      if (host.guard !== null) host.guard.stop = true;
      return;
    case 'agent-killed':
      return host.agent?.crash('of a signal');
    case 'agent-paused':
      if (host.agent !== null) host.agent.pausedUntilMs = untilMs;
      return;
    case 'view-lags':
      return host.agent?.stallView(untilMs);
    case 'freeze-stuck':
      host.freezeStuckUntilMs = untilMs;
      return;
    case 'kill-stuck':
      host.killStuckUntilMs = untilMs;
      return;
    case 'guest-dies':
      for (const qemu of host.qemus.values()) host.killQemu(qemu, 'its process crashed');
      return;
    case 'starts-fail':
      host.startsFailUntilMs = untilMs;
      return;
    case 'starts-slow':
      host.startsSlowUntilMs = untilMs;
      return;
    case 'starts-fail-often':
      for (const vmid of cluster.vmids)
        if (vmid % 2 === fault.forMs % 2) host.startsToFail.set(vmid, 1 + Math.floor(fault.chance * 7));
      return;
    case 'guest-deaf':
      host.deafUntilMs = Math.max(host.deafUntilMs, untilMs + 60_000);
      return;
    case 'copy-damaged':
      for (const vmid of host.disk.guests()) host.disk.damage(vmid);
      return;
    case 'watchdog-broken':
      host.watchdogBroken = true;
      return;
    case 'release-asked':
      host.releaseAsked = 'asked by a person';
      cluster.engine.at(untilMs, () => (host.releaseAsked = null));
      return;
    case 'wall-clock-step':
      cluster.checks.manager.forgetClaims(null);
      host.wallOffsetMs += (fault.chance - 0.5) * 7_200_000;
      return;
    case 'last-breath':
      return drawLastBreath(cluster, host, fault);
    case 'stale-sender':
      return makeStaleSender(cluster, host, fault);
    default:
      return;
  }
}

function losePower(cluster: Cluster, host: Host, fault: Fault): void {
  host.powerOff(fault.kind === 'plug-pulled' ? 'the plug is pulled' : 'switched off');
  if (fault.kind === 'plug-pulled') host.plugged = false;
  cluster.engine.after(fault.forMs, () => {
    host.plugged = true;
    host.powerOn(4_000 + fault.chance * 10_000);
  });
}

function cutBoth(cluster: Cluster, layer: Layer, a: Host, b: Host, untilMs: number): void {
  cluster.network.cut(layer, a.name, b.name, untilMs);
  cluster.network.cut(layer, b.name, a.name, untilMs);
}

/** Cuts a node from all others, at both layers. */
export function isolate(cluster: Cluster, host: Host, untilMs: number): void {
  for (const other of cluster.hosts) {
    if (other === host) continue;
    cutBoth(cluster, 'store', host, other, untilMs);
    cutBoth(cluster, 'link', host, other, untilMs);
  }
}

function cutFromStore(cluster: Cluster, host: Host, untilMs: number): void {
  for (const other of cluster.hosts) if (other !== host) cutBoth(cluster, 'store', host, other, untilMs);
}

function flap(cluster: Cluster, host: Host, fault: Fault, left: { times: number; era: number }): void {
  if (left.times === 0 || left.era !== cluster.era) return;
  isolate(cluster, host, cluster.engine.nowMs + fault.forMs / 4);
  cluster.engine.after(fault.forMs / 2, () => flap(cluster, host, fault, { ...left, times: left.times - 1 }));
}

/** The worst a guard can do: cut off, it pets as long as it may, and is then stopped at the last instant with its guests running. */
function drawLastBreath(cluster: Cluster, host: Host, fault: Fault): void {
  const { engine, timing } = cluster;
  cutFromStore(cluster, host, engine.nowMs + 60_000);
  const { boots, guard } = host;
  const { era } = cluster;
  const lastRenewalMs = () => {
    const mode = guard?.state.mode;
    return mode?.kind === 'serving' ? mode.renewedBootMs : null;
  };
  const sent = lastRenewalMs();
  if (sent === null || guard === null) return;
  const waitMs = (sent + timing.softMs - host.bootMs()) / host.rate - 10 - fault.chance * 400;
  engine.after(waitMs, () => {
    if (host.boots !== boots || host.guard !== guard || cluster.era !== era) return;
    cluster.say(`${host.name} guard: is killed at its last breath`);
    guard.alive = false;
    host.guard = null;
  });
}

/** A sender whose agent stands still until long after its node was claimed, with a point under way; the links stay up. */
function makeStaleSender(cluster: Cluster, host: Host, fault: Fault): void {
  const { engine, timing } = cluster;
  cutFromStore(cluster, host, engine.nowMs + timing.claimMs + 10_000);
  if (host.agent !== null) host.agent.pausedUntilMs = engine.nowMs + timing.claimMs + fault.chance * 9_000;
}

/** A guest begins to move from the node, and soon afterwards its source or its target dies. */
function loseMidMove(cluster: Cluster, host: Host, other: Host, fault: Fault): void {
  const vmid = cluster.vmids.find((candidate) => host.qemus.has(candidate));
  if (vmid === undefined || !cluster.store.canCommit()) return;
  cluster.people.command({ kind: 'move', guest: String(vmid), live: false, to: other.name });
  const { era } = cluster;
  const doomed = fault.kind === 'source-dies-moving' ? host : other;
  cluster.engine.after(500 + fault.chance * 14_000, () => {
    if (cluster.era === era) losePower(cluster, doomed, fault);
  });
}

/** Ends every fault of these nodes; a node that is not among them stays off, or alone, for good. */
export function healNodes(cluster: Cluster, well: Host[], rest: 'off' | 'alone'): number {
  const { engine, network, store } = cluster;
  cluster.era += 1;
  network.heal();
  store.answersLostUntilMs = 0;
  store.slowUntilMs = 0;
  let wellAtMs = engine.nowMs;
  for (const host of cluster.hosts) {
    if (well.includes(host)) {
      wellAtMs = Math.max(wellAtMs, healHost(cluster, host));
      continue;
    }
    if (rest === 'alone') isolate(cluster, host, forever);
    else host.powerOff('left broken');
    host.plugged = rest === 'alone';
  }
  return wellAtMs;
}

function healHost(cluster: Cluster, host: Host): number {
  const { engine, dice } = cluster;
  host.plugged = true;
  host.freezeStuckUntilMs = 0;
  host.killStuckUntilMs = 0;
  host.startsFailUntilMs = 0;
  host.startsSlowUntilMs = 0;
  host.startsToFail.clear();
  host.deafUntilMs = 0;
  host.memberDownUntilMs = Math.min(host.memberDownUntilMs, engine.nowMs + 8_000);
  host.releaseAsked = null;
  host.agent?.stallView(0);
  host.watchdogBroken = false;
  host.powerOn(dice.between(3_000, 8_000));
  const { guard } = host;
  const mode = guard?.state.mode;
  const stays = mode?.kind === 'released' && mode.until === 'restart';
  if (guard !== null && stays) {
    guard.alive = false;
    host.guard = null;
  }
  // A stop that was still waiting for the last guest to leave is taken back.
  if (guard !== null && mode?.kind === 'serving') guard.stop = false;
  if (host.guard === null && host.powered)
    cluster.startGuardLater(host, Math.max(0, host.memberDownUntilMs - engine.nowMs) + 500);
  return Math.max(engine.nowMs, host.stillUntilMs, host.guard?.pausedUntilMs ?? 0, host.agent?.pausedUntilMs ?? 0);
}
