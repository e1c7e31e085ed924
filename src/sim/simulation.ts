import type { GuestRecord } from '#core/guest/guest-record.ts';
import { Cluster, type StoryLine } from '#sim/cluster.ts';
import type { Violation } from '#sim/checks.ts';
import { Dice } from '#sim/engine.ts';
import { beginFault, healNodes, setWant } from '#sim/faults.ts';
import type { Host } from '#sim/host.ts';
import { keys } from '#sim/known-keys.ts';
import { canRun, isExecutingOn, findStaleCopy, findTrouble } from '#sim/liveness.ts';
import { type Rules, shippedRules } from '#sim/rules.ts';
import { chooseFaults, chooseSwarm, type Fault, type Swarm } from '#sim/swarm.ts';

export type RunOptions = {
  seed: number;
  hours: number;
  swarm?: Swarm;
  rules?: Rules;
  /** Only these invariants count; for finding out whether each one bites by itself. */
  only?: ReadonlySet<string>;
  /** Which faults of the run to leave out, by their number; for finding out which ones matter. */
  without?: ReadonlySet<number>;
  /** Asked once a round: true ends the run there, with what it has come to. */
  isStopped?: () => boolean;
  /** Told once a round how far the run is. */
  onProgress?: (hours: number) => void;
};

export type RunResult = {
  seed: number;
  hours: number;
  rounds: number;
  events: number;
  violation: Violation | null;
  story: StoryLine[];
  faults: number;
  /** Machines that stayed off after everything healed until a person turned them on. */
  handsNeeded: number;
  counts: Cluster['checks']['counts'] & { elections: number; boots: number };
  /** Longest seen times of the directed rounds, in milliseconds. */
  longest: { plugMs: number; releaseMs: number; allOffMs: number; healMs: number };
};

/** How long the healed part of a round may take: a boot, a claim, the longest back-off of a start, some calls. */
const healedBoundMs = 140_000;
const lookMs = 500;

/** Runs one seed. The same seed, options and rules give the same run, event for event. */
export function runSeed(options: RunOptions): RunResult {
  const swarm = options.swarm ?? chooseSwarm(options.seed);
  return new Simulation(options, swarm).run();
}

class Simulation {
  private readonly cluster: Cluster;
  private readonly options: RunOptions;
  /** What happens to the cluster is thrown apart from how the cluster goes on, so that leaving out a fault changes nothing else. */
  private readonly fate: Dice;
  private rounds = 0;
  private faults = 0;
  private handsNeeded = 0;
  private readonly longest = { plugMs: 0, releaseMs: 0, allOffMs: 0, healMs: 0 };

  constructor(options: RunOptions, swarm: Swarm) {
    this.options = options;
    this.cluster = new Cluster(options.seed, swarm, options.rules ?? shippedRules, options.only ?? null);
    this.fate = new Dice(options.seed ^ 0xfa7e);
  }

  run(): RunResult {
    const { cluster, options } = this;
    const endMs = options.hours * 3_600_000;
    for (const host of cluster.hosts) host.powerOn(cluster.dice.between(500, 2_000));
    this.settle('the start', cluster.hosts, true);
    while (cluster.checks.violation === null && cluster.engine.nowMs < endMs && options.isStopped?.() !== true) {
      this.round(endMs);
      options.onProgress?.(cluster.engine.nowMs / 3_600_000);
    }
    return this.result();
  }

  private round(endMs: number): void {
    this.rounds += 1;
    this.addGuests();
    const dice = this.fate;
    if (this.cluster.swarm.faults.length === 0) return this.quietHour(endMs);
    const kind = dice.pick(['chaos', 'chaos', 'chaos', 'chaos', 'chaos', 'plug', 'plug', 'release', 'all-off'] as const);
    this.cluster.say(`ROUND ${this.rounds}: ${kind}`);
    switch (kind) {
      case 'plug':
        return this.pullPlug();
      case 'release':
        return this.releaseNode();
      case 'all-off':
        return this.allOff();
      case 'chaos':
        return this.chaos();
    }
  }

  /** L3, L4: an hour with what is never right, and nothing may come of it. */
  private quietHour(endMs: number): void {
    const { cluster, fate } = this;
    const { softMs, renewMs } = cluster.timing;
    const { starts } = cluster.checks.counts;
    const untilMs = Math.min(endMs, cluster.engine.nowMs + 3_600_000);
    while (cluster.engine.nowMs < untilMs && cluster.checks.violation === null) {
      cluster.runUntil(Math.min(untilMs, cluster.engine.nowMs + fate.between(20_000, 1_200_000)));
      const kind = fate.pick(['guard-paused', 'agent-paused', 'leader-lost', 'view-lags', 'wall-clock-step'] as const);
      const node = fate.whole(0, cluster.hosts.length - 1);
      const forMs = Math.round(fate.between(10, kind === 'guard-paused' ? softMs - renewMs - 500 : 2_500));
      beginFault(cluster, { atMs: 0, kind, node, other: 0, forMs, chance: fate.between(0, 0.5) });
    }
    const { counts } = cluster.checks;
    const broken = counts.claims + counts.releases > 0 || counts.starts !== starts;
    if (broken) cluster.checks.fail('L3', `nothing failed, and ${JSON.stringify(counts)}`);
    if (counts.recoveries > 0) cluster.checks.fail('L4', `nothing failed, and ${counts.recoveries} guests were moved`);
  }

  private chaos(): void {
    const { cluster, fate } = this;
    const faults = chooseFaults(cluster.swarm, fate, fate.between(20_000, 180_000));
    const startMs = cluster.engine.nowMs;
    cluster.isCrashing = true;
    for (const fault of faults) this.scheduleFault(startMs, fault);
    cluster.runUntil(startMs + (faults.at(-1)?.atMs ?? 0) + fate.between(0, 30_000));
    const leavesOne = fate.yes(0.3);
    const left = fate.pick(cluster.hosts);
    const rest = fate.pick(['off', 'alone'] as const);
    cluster.isCrashing = false;
    if (cluster.checks.violation !== null) return;
    if (leavesOne) {
      const well = cluster.hosts.filter((host) => host !== left);
      cluster.say(`${left.name} is left ${rest}, everything else heals`);
      this.heal(well, rest);
    }
    cluster.say('everything heals');
    this.heal(cluster.hosts, 'alone');
  }

  private heal(well: Host[], rest: 'off' | 'alone'): void {
    const { cluster } = this;
    const fromMs = healNodes(cluster, well, rest);
    cluster.runUntil(fromMs);
    // What ended meanwhile (a guard that stopped, a watchdog that fired) is put right as well.
    healNodes(cluster, well, rest);
    this.settle('the healing', well, rest === 'alone' && well.length === cluster.hosts.length);
    this.longest.healMs = Math.max(this.longest.healMs, cluster.engine.nowMs - fromMs);
  }

  private scheduleFault(startMs: number, fault: Fault): void {
    this.faults += 1;
    if (this.options.without?.has(this.faults) === true) return;
    this.cluster.engine.at(startMs + fault.atMs, () => beginFault(this.cluster, fault));
  }

  /** Waits until all is well. What is not well in time is a violation of liveness. */
  private settle(after: string, well: Host[], withCopies: boolean): void {
    const { cluster } = this;
    const { swarm } = cluster;
    const untilMs = cluster.engine.nowMs + healedBoundMs;
    this.wait(untilMs, well, () => findTrouble(cluster, well), after);
    if (!withCopies) return;
    const copyMs = 2 * swarm.intervalMs + 6 * swarm.transferMs * (swarm.nodes - 1) * swarm.guests + 90_000;
    this.wait(cluster.engine.nowMs + copyMs, well, () => findStaleCopy(cluster, well), after);
  }

  private wait(untilMs: number, well: Host[], find: () => string | null, after: string): void {
    const { cluster } = this;
    const startMs = cluster.engine.nowMs;
    for (;;) {
      if (cluster.checks.violation !== null) return;
      const trouble = find();
      if (trouble === null) return;
      if (cluster.engine.nowMs >= untilMs) {
        const [name = 'L1'] = trouble.split(' ');
        const tookMs = Math.round(untilMs - startMs);
        return cluster.checks.fail(name, `${trouble.slice(name.length + 1)}, ${tookMs} ms after ${after}`);
      }
      this.turnOnByHand(well);
      cluster.runUntil(Math.min(untilMs, cluster.engine.nowMs + lookMs));
    }
  }

  /** Lets what is still on its way arrive: late answers of controllers, calls that hang. */
  private comeToRest(): void {
    const { cluster } = this;
    cluster.runUntil(cluster.engine.nowMs + 12_000);
    this.settle('the rest', cluster.hosts, false);
  }

  /** Somebody walks to a machine that has been off for a while. */
  private turnOnByHand(well: Host[]): void {
    const { cluster } = this;
    for (const host of well) {
      if (host.powered || cluster.engine.nowMs - host.offSinceMs < 20_000) continue;
      this.handsNeeded += 1;
      cluster.say(`a person turns ${host.name} on`);
      host.powerOn(cluster.dice.between(3_000, 8_000));
    }
  }

  /** L1: everything was well, one node loses its plug: its guests run elsewhere within D + 10 s. */
  private pullPlug(): void {
    const { cluster, fate } = this;
    this.comeToRest();
    const lost = fate.pick(cluster.hosts);
    const well = cluster.hosts.filter((host) => host !== lost);
    const mine = this.guestsOf(lost);
    cluster.say(`the plug of ${lost.name} is pulled`);
    lost.powerOff('the plug is pulled');
    lost.plugged = false;
    const startMs = cluster.engine.nowMs;
    this.waitForGuests(mine, well, startMs + cluster.timing.claimMs * 1.02 + 10_000, 'its plug was pulled');
    this.longest.plugMs = Math.max(this.longest.plugMs, cluster.engine.nowMs - startMs);
    this.heal(cluster.hosts, 'alone');
  }

  /** L2: a node gives its permit back: its guests run elsewhere within 5 s. */
  private releaseNode(): void {
    const { cluster, fate } = this;
    this.comeToRest();
    const lost = fate.pick(cluster.hosts);
    const mine = this.guestsOf(lost);
    cluster.say(`${lost.name} is asked to release its guests`);
    lost.releaseAsked = 'maintenance';
    const startMs = cluster.engine.nowMs;
    const well = cluster.hosts.filter((host) => host !== lost);
    this.waitForGuests(mine, well, startMs + 5_000 + 4 * cluster.swarm.jitterMs + lookMs, 'the release');
    this.longest.releaseMs = Math.max(this.longest.releaseMs, cluster.engine.nowMs - startMs);
    this.heal(cluster.hosts, 'alone');
  }

  /** L8: all nodes lost and back: everything runs within boot + D + 30 s. */
  private allOff(): void {
    const { cluster, fate } = this;
    cluster.say('every node loses power');
    for (const host of cluster.hosts) host.powerOff('the whole house is dark');
    cluster.runUntil(cluster.engine.nowMs + fate.between(1_000, 60_000));
    for (const host of cluster.hosts) host.powerOn(fate.between(3_000, 20_000));
    const startMs = cluster.engine.nowMs;
    const boundMs = 20_000 + cluster.timing.claimMs + 30_000;
    this.wait(
      startMs + boundMs,
      cluster.hosts,
      () => findTrouble(cluster, cluster.hosts)?.replace(/^L\d+/, 'L8') ?? null,
      'power came back',
    );
    this.longest.allOffMs = Math.max(this.longest.allOffMs, cluster.engine.nowMs - startMs);
    this.settle('power came back', cluster.hosts, true);
  }

  private waitForGuests(vmids: number[], well: Host[], untilMs: number, after: string): void {
    const { cluster } = this;
    const name = after === 'the release' ? 'L2' : 'L1';
    this.wait(
      untilMs,
      [],
      () => {
        const missing = vmids.find((vmid) => {
          if (well.some((host) => isExecutingOn(host, vmid))) return false;
          const record = cluster.store.read<GuestRecord>(keys.guest(vmid))?.value;
          return record !== undefined && canRun(cluster, well, record);
        });
        return missing === undefined ? null : `${name} guest ${missing} does not run`;
      },
      after,
    );
  }

  private guestsOf(host: Host): number[] {
    return this.cluster.vmids.filter((vmid) => isExecutingOn(host, vmid));
  }

  private addGuests(): void {
    const { cluster, fate } = this;
    cluster.vmids = cluster.vmids.filter((vmid) => cluster.store.read(keys.guest(vmid)) !== null);
    for (const vmid of cluster.vmids) setWant(cluster, vmid, 'started');
    const missing = cluster.vmids.length < cluster.swarm.guests;
    while (cluster.vmids.length < cluster.swarm.guests) cluster.createGuest(fate.pick(cluster.hosts));
    if (missing) this.settle('guests were made', cluster.hosts, true);
    else this.settle('people wanted them started', cluster.hosts, false);
  }

  private result(): RunResult {
    const { cluster } = this;
    return {
      seed: this.options.seed,
      hours: cluster.engine.nowMs / 3_600_000,
      rounds: this.rounds,
      events: cluster.engine.events,
      violation: cluster.checks.violation,
      story: cluster.story,
      faults: this.faults,
      handsNeeded: this.handsNeeded,
      counts: {
        ...cluster.checks.counts,
        elections: cluster.store.elections,
        boots: cluster.hosts.reduce((sum, host) => sum + host.boots, 0),
      },
      longest: this.longest,
    };
  }
}
