import { claimNeededMs, checkTiming, type Timing, timingProfiles } from '#core/ha/timing.ts';
import type { ShutdownPolicy } from '#core/ha/manager/shutdown-policy.ts';
import type { HaSettings } from '#core/ha/records.ts';
import { Dice } from '#sim/engine.ts';

/** Everything that may go wrong. `safe` faults are inside what the safety argument allows for. */
export const faultKinds = [
  'plug-pulled',
  'power-off',
  'host-still',
  'guard-paused',
  'guard-paused-inside',
  'guard-killed',
  'guard-handed-over',
  'guard-stopped',
  'agent-killed',
  'agent-paused',
  'isolated',
  'store-cut',
  'store-cut-one-way',
  'link-cut',
  'link-cut-one-way',
  'flapping',
  'lossy',
  'leader-lost',
  'member-down',
  'answers-lost',
  'view-lags',
  'freeze-stuck',
  'kill-stuck',
  'guest-dies',
  'starts-fail',
  'starts-slow',
  'copy-damaged',
  'watchdog-broken',
  'release-asked',
  'wall-clock-step',
  'last-breath',
  'stale-sender',
  'starts-fail-often',
  'guest-deaf',
  'store-slow',
  'source-dies-moving',
  'target-dies-moving',
  'want-changed',
  'config-edited',
  'guest-deleted',
  'guest-created',
  'command-move',
  'command-stop',
  'command-drain',
  'command-disarm',
  'command-arm',
  'command-release',
  'rule-edited',
  'settings-edited',
  'resource-edited',
  'node-ended',
  'tail-released',
] as const;
export type FaultKind = (typeof faultKinds)[number];

/** Faults that the safety argument does not cover: only for showing that the checkers bite. */
export type Unsafe = { watchdog: 'true' | 'absent' | 'slow'; lyingControllers: boolean };

/** What a round of a run is about; `chaos`: faults at random, the others do one thing in peace. */
export const roundKinds = ['chaos', 'plug', 'release', 'all-off', 'move', 'drain', 'end', 'disarm', 'flap', 'calm'] as const;
export type RoundKind = (typeof roundKinds)[number];

export type Fault = { atMs: number; kind: FaultKind; node: number; other: number; forMs: number; chance: number };

/** What kind of world a seed makes. */
export type Swarm = {
  nodes: number;
  guests: number;
  /** A guest has one of these sizes. */
  guestMemoryMb: number[];
  timing: Timing;
  guardTickMs: number;
  agentCrashChance: number;
  /** The same while a guest leaves the node. */
  moveCrashChance: number;
  /** Guests start after others, in an order, with retries of their own. */
  dependencies: boolean;
  controllers: boolean;
  nodeMemoryMb: number;
  intervalMs: number;
  transferMs: number;
  writesMs: number;
  jitterMs: number;
  /** Each is as likely as it stands here. */
  rounds: RoundKind[];
  faults: FaultKind[];
  faultGapMs: number;
  unsafe: Unsafe;
  /** What people set at the beginning; null: nothing. */
  settings: HaSettings | null;
};

const policies: ShutdownPolicy[] = ['conditional', 'freeze', 'failover', 'migrate'];

/** Settings as people may choose them. */
export function chooseSettings(dice: Dice): HaSettings {
  const rebalance = { threshold: dice.pick([0.1, 0.3]), method: dice.pick(['bruteforce', 'topsis'] as const) };
  return {
    placement: dice.pick(['count', 'by-size', 'by-load']),
    balanceOnStart: dice.yes(0.5),
    autoRebalance: dice.yes(0.5) ? { ...rebalance, holdRounds: dice.whole(1, 3), minRelativeGain: 0.1 } : null,
    shutdownPolicy: dice.pick(policies),
    quarantineAfter: dice.pick([0, 2, 3, 5]),
    quarantineWindowMs: dice.pick([600_000, 3_600_000]),
  };
}

/** Claims at the first instant that is safe, so that nothing but the rules keeps two nodes apart. */
const tight: Timing = {
  ...timingProfiles.standard,
  profile: 'tight',
  claimMs: claimNeededMs(timingProfiles.standard),
};

/** Chooses the world of a seed: which faults there are and how often, how slow things are. */
export function chooseSwarm(seed: number): Swarm {
  const dice = new Dice(seed ^ 0x5eed);
  const share = dice.between(0.15, 0.9);
  const faults = faultKinds.filter(() => dice.yes(share));
  return {
    nodes: dice.yes(0.85) ? 3 : 5,
    guests: dice.pick([1, 2, 2, 3, 4, 6]),
    guestMemoryMb: dice.pick([[1_024], [512, 1_024, 2_048], [1_024, 3_072]]),
    timing: checkTiming(dice.pick([tight, tight, timingProfiles.standard, timingProfiles.brisk])),
    guardTickMs: dice.pick([100, 500, 500]),
    agentCrashChance: dice.pick([0, 0, 0.0005, 0.003]),
    controllers: dice.yes(0.4),
    nodeMemoryMb: dice.pick([16_384, 8_192, 4_096, 2_048]),
    moveCrashChance: dice.pick([0, 0, 0.01, 0.05]),
    dependencies: dice.yes(0.4),
    intervalMs: dice.pick([5_000, 15_000, 60_000, 60_000]),
    transferMs: dice.pick([200, 2_000, 8_000]),
    writesMs: dice.pick([700, 3_000, 3_000]),
    jitterMs: dice.pick([1, 10, 120]),
    rounds: [...roundKinds, 'chaos', 'chaos', 'chaos', 'chaos', 'chaos', 'chaos', 'chaos', 'plug'],
    faults: faults.length > 0 ? faults : ['plug-pulled'],
    faultGapMs: dice.pick([2_000, 6_000, 20_000]),
    unsafe: { watchdog: 'true', lyingControllers: false },
    settings: dice.yes(0.5) ? chooseSettings(dice) : null,
  };
}

/** A cluster in which nothing is wrong but what is never right: clocks, jitter, short pauses, elections. */
export function quietSwarm(seed: number): Swarm {
  const swarm = chooseSwarm(seed);
  return {
    ...swarm,
    timing: timingProfiles.standard,
    guardTickMs: 500,
    agentCrashChance: 0,
    moveCrashChance: 0,
    intervalMs: 60_000,
    writesMs: 30_000,
    faults: [],
  };
}

/** The faults of one round, as data: a round can be run again without some of them. */
export function chooseFaults(swarm: Swarm, dice: Dice, lengthMs: number): Fault[] {
  const faults: Fault[] = [];
  let atMs = 0;
  for (;;) {
    // Often at once, so that faults meet.
    atMs += dice.yes(0.25) ? 0 : dice.between(0, 2 * swarm.faultGapMs);
    if (atMs >= lengthMs || swarm.faults.length === 0) return faults;
    const node = dice.whole(0, swarm.nodes - 1);
    faults.push({
      atMs: Math.round(atMs),
      kind: dice.pick(swarm.faults),
      node,
      other: (node + dice.whole(1, swarm.nodes - 1)) % swarm.nodes,
      // Often around the limits of the timing, so that they matter.
      forMs: Math.round(dice.pick([dice.between(10, 1_500), dice.between(1_500, 9_000), dice.between(9_000, 45_000)])),
      chance: dice.between(0, 1),
    });
  }
}
