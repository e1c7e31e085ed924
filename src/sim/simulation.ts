import { limits } from '#base/limits.ts';
import { runDirectedRound, type RoundWorld } from '#sim/directed-rounds.ts';
import { Cluster, type StoryLine } from '#sim/cluster.ts';
import type { Violation } from '#sim/checks.ts';
import { Dice } from '#sim/engine.ts';
import { beginFault, healNodes } from '#sim/faults.ts';
import type { Host } from '#sim/host.ts';
import { findStaleCopy, findTrouble, isDisarmed } from '#sim/liveness.ts';
import { Mending } from '#sim/mending.ts';
import { findUntrue, takeSnapshot } from '#sim/reports.ts';
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
  longest: { plugMs: number; releaseMs: number; allOffMs: number; healMs: number; moveMs: number; drainMs: number };
};

/** How long the healed part of a round may take: a boot, a claim, the longest back-off of a start, some calls. */
const healedBoundMs = 200_000;
const lookMs = 500;

/** Runs one seed. The same seed, options and rules give the same run, event for event. */
export function runSeed(options: RunOptions): RunResult {
  const swarm = options.swarm ?? chooseSwarm(options.seed);
  return new Simulation(options, swarm).run();
}

class Simulation implements RoundWorld {
  readonly cluster: Cluster;
  private readonly options: RunOptions;
  /** What happens to the cluster is thrown apart from how the cluster goes on, so that leaving out a fault changes nothing else. */
  readonly fate: Dice;
  /** People put right what they did; else what they asked for holds on. */
  isMending = true;
  private readonly mending: Mending;
  private rounds = 0;
  private faults = 0;
  private handsNeeded = 0;
  readonly longest = { plugMs: 0, releaseMs: 0, allOffMs: 0, healMs: 0, moveMs: 0, drainMs: 0 };

  constructor(options: RunOptions, swarm: Swarm) {
    this.options = options;
    this.cluster = new Cluster(options.seed, swarm, options.rules ?? shippedRules, options.only ?? null);
    this.mending = new Mending(this.cluster);
    this.fate = new Dice(options.seed ^ 0xfa7e);
  }

  run(): RunResult {
    const { cluster, options } = this;
    const endMs = options.hours * 3_600_000;
    if (cluster.swarm.settings !== null) cluster.people.setSettings(cluster.swarm.settings);
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
    if (this.cluster.swarm.faults.length === 0) return this.quietHour(endMs);
    const kind = this.fate.pick(this.cluster.swarm.rounds);
    this.cluster.say(`ROUND ${this.rounds}: ${kind}`);
    if (kind === 'chaos') this.chaos();
    else runDirectedRound(this, kind);
  }

  /** L3, L4: an hour with what is never right, and nothing may come of it. */
  private quietHour(endMs: number): void {
    const { cluster, fate } = this;
    const { softMs, renewMs } = cluster.timing;
    const { starts, moves } = cluster.checks.counts;
    const untilMs = Math.min(endMs, cluster.engine.nowMs + 3_600_000);
    while (cluster.engine.nowMs < untilMs && cluster.checks.violation === null) {
      cluster.runUntil(Math.min(untilMs, cluster.engine.nowMs + fate.between(20_000, 1_200_000)));
      const kind = fate.pick(['guard-paused', 'agent-paused', 'leader-lost', 'view-lags', 'wall-clock-step'] as const);
      const node = fate.whole(0, cluster.hosts.length - 1);
      const forMs = Math.round(fate.between(10, kind === 'guard-paused' ? softMs - renewMs - 500 : 2_500));
      beginFault(cluster, { atMs: 0, kind, node, other: 0, forMs, chance: fate.between(0, 0.5) });
    }
    const { counts } = cluster.checks;
    const broken = counts.claims + counts.releases > 0 || counts.starts - starts > counts.moves - moves;
    if (broken) cluster.checks.fail('L3', `nothing failed, and ${JSON.stringify(counts)}`);
    if (counts.recoveries > counts.moves) cluster.checks.fail('L4', `nothing failed, and ${counts.recoveries} guests were moved`);
  }

  private chaos(): void {
    const { cluster, fate } = this;
    const faults = chooseFaults(cluster.swarm, fate, fate.between(20_000, 180_000));
    const startMs = cluster.engine.nowMs;
    cluster.isCrashing = true;
    this.isMending = false;
    for (const fault of faults) this.scheduleFault(startMs, fault);
    cluster.runUntil(startMs + (faults.at(-1)?.atMs ?? 0) + fate.between(0, 30_000));
    const leavesOne = fate.yes(0.3);
    const left = fate.pick(cluster.hosts);
    const rest = fate.pick(['off', 'alone'] as const);
    // What people asked for goes on holding for a while after the machines are well again.
    const peopleLater = fate.yes(0.5);
    cluster.isCrashing = false;
    if (cluster.checks.violation !== null) return;
    if (leavesOne) {
      const well = cluster.hosts.filter((host) => host !== left);
      cluster.say(`${left.name} is left ${rest}, everything else heals`);
      this.healMachines(well, rest);
    }
    cluster.say('everything heals');
    if (peopleLater) this.healMachines(cluster.hosts, 'alone');
    this.heal();
  }

  /** The machines and the people. */
  heal(): void {
    this.isMending = true;
    this.healMachines(this.cluster.hosts, 'alone');
  }

  private healMachines(well: Host[], rest: 'off' | 'alone'): void {
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
  settle(after: string, well: Host[], withCopies: boolean): void {
    const { cluster } = this;
    const { swarm } = cluster;
    const boundMs = healedBoundMs + (swarm.dependencies ? limits.startsAfterWaitMs : 0);
    this.wait(cluster.engine.nowMs + boundMs, well, () => findTrouble(cluster, well), after);
    if (!withCopies || isDisarmed(cluster)) return;
    const copyMs = 2 * swarm.intervalMs + 6 * swarm.transferMs * (swarm.nodes - 1) * cluster.vmids.length + 90_000;
    this.wait(cluster.engine.nowMs + copyMs, well, () => findStaleCopy(cluster, well), after);
    this.wait(cluster.engine.nowMs + boundMs, well, () => findTrouble(cluster, well) ?? this.findUntrue(), after);
  }

  /** S16: what people are shown is what is. */
  private findUntrue(): string | null {
    const { cluster } = this;
    const earlier = takeSnapshot(cluster);
    cluster.runUntil(cluster.engine.nowMs + 2.5 * cluster.timing.renewMs);
    return cluster.checks.violation === null ? findUntrue(cluster, earlier) : null;
  }

  /** Waits until `find` finds nothing any more; what it still finds at `untilMs` is a violation, named by its first word. */
  wait(untilMs: number, well: Host[], find: () => string | null, after: string): void {
    const { cluster } = this;
    const startMs = cluster.engine.nowMs;
    for (;;) {
      if (cluster.checks.violation !== null) return;
      // People go on asking until nothing is held back any more.
      const wrong = this.isMending ? this.mending.mend() : null;
      const trouble = wrong === null ? find() : `L5 ${wrong}`;
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
  comeToRest(): void {
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

  private addGuests(): void {
    const { cluster, fate } = this;
    const missing = cluster.countGuests() < cluster.swarm.guests;
    for (let count = cluster.countGuests(); count < cluster.swarm.guests; count += 1) {
      cluster.createGuest(fate.pick(cluster.hosts), fate);
    }
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
