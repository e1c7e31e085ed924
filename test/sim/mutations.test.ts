import type { GuestRecord } from '#core/guest/guest-record.ts';
import type { GuardState } from '#core/ha/guard-state.ts';
import { keys } from '#core/ha/keys.ts';
import { demoteToReplica } from '#core/storage/manifest.ts';
import { type Rules, shippedRules } from '#sim/rules.ts';
import type { FaultKind } from '#sim/swarm.ts';
import { type Mutation, testMutations } from './mutation.ts';

const { planClusterRound, planGuestAction, planGuard } = shippedRules;

/** The guard believes of each renewal that it was sent when its answer came. */
const timedFromAnswer: Rules['planGuard'] = (state, facts, nowBootMs) => {
  const { pending } = state.store;
  if (facts.answer?.kind !== 'committed' || pending === null) return planGuard(state, facts, nowBootMs);
  return planGuard({ ...state, store: { ...state.store, pending: { ...pending, sentBootMs: nowBootMs } } }, facts, nowBootMs);
};

/** A frozen guard that thaws as soon as it likes, and goes on as if its renewal were fresh. */
const thawsUnrenewed: Rules['planGuard'] = (state, facts, nowBootMs) => {
  const { mode } = state;
  if (mode.kind !== 'frozen' || nowBootMs - mode.sinceBootMs < 2_000) return planGuard(state, facts, nowBootMs);
  const { epoch } = mode;
  const serving: GuardState = {
    ...state,
    mode: { kind: 'serving', sinceBootMs: nowBootMs, epoch, renewedBootMs: nowBootMs, thawedBootMs: null },
  };
  return planGuard(serving, facts, nowBootMs);
};

/** Never looks at the limit of its renewal. */
const neverFreezes: Rules['planGuard'] = (state, facts, nowBootMs) => {
  const { mode } = state;
  const fresh: GuardState = mode.kind === 'serving' ? { ...state, mode: { ...mode, renewedBootMs: nowBootMs } } : state;
  return planGuard(fresh, facts, nowBootMs);
};

function claimAfter(claimMs: (timing: { claimMs: number; softMs: number }) => number): Rules['planClusterRound'] {
  return (facts, nowBootMs, nowWallMs) => {
    const shortMs = claimMs(facts.timing);
    const nodes = facts.nodes.map((node) => {
      if (node.permit?.value.state !== 'granted') return node;
      return { ...node, permit: { ...node.permit, value: { ...node.permit.value, claimMs: shortMs } } };
    });
    return planClusterRound({ ...facts, nodes, timing: { ...facts.timing, claimMs: shortMs } }, nowBootMs, nowWallMs);
  };
}

const silent: FaultKind[] = ['isolated', 'plug-pulled', 'last-breath'];

const mutations: Mutation[] = [
  {
    what: 'a claim is made one second early',
    caughtAs: ['S2', 'S3'],
    seeds: 24,
    rules: { planClusterRound: claimAfter((timing) => timing.claimMs - 1_000) },
    faults: silent,
  },
  {
    what: 'a claim is made at the soft limit',
    caughtAs: ['S2', 'S3'],
    seeds: 3,
    rules: { planClusterRound: claimAfter((timing) => timing.softMs) },
    faults: silent,
  },
  {
    what: 'a claim does not compare the heartbeat',
    caughtAs: ['S2'],
    seeds: 24,
    rules: { compareClaim: false },
    faults: ['view-lags', 'isolated', 'flapping', 'agent-paused'],
    swarm: { agentCrashChance: 0 },
  },
  {
    what: 'petting is timed from the answer',
    caughtAs: ['S14'],
    seeds: 12,
    rules: { planGuard: timedFromAnswer },
    faults: ['answers-lost', 'isolated', 'lossy', 'leader-lost', 'store-cut', 'guard-paused'],
  },
  {
    what: 'a guard thaws without a renewal',
    caughtAs: ['S2', 'S14'],
    seeds: 6,
    rules: { planGuard: thawsUnrenewed },
    faults: ['isolated'],
  },
  {
    what: 'a guard never freezes',
    caughtAs: ['S1', 'S2', 'S14'],
    seeds: 6,
    rules: { planGuard: neverFreezes },
    faults: ['isolated'],
  },
  {
    what: 'a stale sender is taken in',
    caughtAs: ['S8'],
    seeds: 24,
    rules: { authorize: false },
    faults: ['stale-sender'],
    swarm: { guests: 4, intervalMs: 5_000, transferMs: 8_000, agentCrashChance: 0 },
  },
  {
    what: 'a start does not confirm its order, outside of the group of its epoch',
    caughtAs: ['S1', 'S2'],
    seeds: 24,
    rules: { confirmOrder: false, epochGroups: false },
    faults: ['starts-slow', 'release-asked', 'guest-dies', 'agent-paused'],
    swarm: { faultGapMs: 2_000 },
  },
  {
    what: 'the epoch of an order is not compared',
    caughtAs: ['S1', 'S2'],
    seeds: 40,
    rules: {
      planGuestAction: (facts) => {
        const order = facts.record?.order ?? null;
        if (facts.record === null || order === null) return planGuestAction(facts);
        return planGuestAction({ ...facts, epoch: order.nodeEpoch });
      },
      confirmOrder: false,
      epochGroups: false,
    },
    faults: ['isolated', 'plug-pulled', 'view-lags'],
  },
  {
    what: 'a demotion drops the tail',
    caughtAs: ['S7'],
    seeds: 3,
    rules: { demote: (manifest, untilAtMs) => ({ ...demoteToReplica(manifest, untilAtMs), leftBehind: [] }) },
    faults: ['plug-pulled'],
  },
  {
    what: 'a declined copy is used again',
    caughtAs: ['S6'],
    seeds: 12,
    rules: {
      planClusterRound: (facts, nowBootMs, nowWallMs) => {
        const guests = facts.guests.map((guest) => {
          // Only the fact that its home declined stays known, not at which point.
          const declined = guest.record.declined?.map((copy) => ({ ...copy, point: { generation: 0, seq: 0 } }));
          return { ...guest, record: { ...guest.record, declined } };
        });
        const plan = planClusterRound({ ...facts, guests }, nowBootMs, nowWallMs);
        // What is written keeps what was declined.
        const steps = plan.steps.map((step) => {
          if (step.kind !== 'commit' || step.about.kind !== 'guest') return step;
          const { vmid } = step.about;
          const declined = facts.guests.find((guest) => guest.record.vmid === vmid)?.record.declined;
          const writes = step.writes.map(({ key, value }) =>
            key === keys.guest(vmid) && value !== null
              ? { key, value: JSON.stringify({ ...(JSON.parse(value) as GuestRecord), declined }) }
              : { key, value },
          );
          return { ...step, writes };
        });
        return { ...plan, steps };
      },
    },
    faults: ['copy-damaged', 'plug-pulled'],
    swarm: { nodes: 3, intervalMs: 60_000, faultGapMs: 2_000 },
  },
  {
    what: 'a cycle that failed forgets what had changed',
    caughtAs: ['S6'],
    seeds: 6,
    rules: { settleBitmaps: false },
    faults: ['link-cut', 'link-cut-one-way'],
    swarm: { intervalMs: 5_000, writesMs: 700, agentCrashChance: 0 },
  },
  {
    what: 'thinning takes the newest point',
    caughtAs: ['S9'],
    seeds: 3,
    rules: {
      dropPoints: (manifest, dropped) => ({
        ...manifest,
        points: manifest.points.filter((point) => !dropped.includes(point)).slice(0, -1),
      }),
    },
    faults: ['guest-dies'],
  },
  {
    what: 'a manager does not compare its lead',
    caughtAs: ['S5'],
    seeds: 12,
    from: 10,
    rules: { compareLead: false },
    faults: ['view-lags', 'isolated', 'agent-paused', 'flapping'],
    swarm: { agentCrashChance: 0 },
  },
  {
    what: 'orders do not compare the record of the guest',
    caughtAs: ['S4'],
    seeds: 12,
    rules: { compareGuest: false },
    faults: ['config-edited', 'want-changed', 'guest-dies', 'isolated', 'lossy'],
    swarm: { jitterMs: 120 },
  },
  {
    what: 'orders do not compare what is wanted',
    caughtAs: ['S11'],
    seeds: 12,
    rules: { compareWant: false },
    faults: ['want-changed', 'view-lags', 'release-asked'],
    swarm: { faultGapMs: 2_000, jitterMs: 120 },
  },
  {
    what: 'a guest is started whatever is wanted',
    caughtAs: ['S11'],
    seeds: 12,
    rules: {
      planGuestAction: (facts) => planGuestAction({ ...facts, want: facts.want === null ? null : 'started' }),
      confirmOrder: false,
    },
    faults: ['want-changed', 'guest-dies', 'leader-lost', 'view-lags', 'agent-paused'],
    swarm: { faultGapMs: 2_000 },
  },
  {
    what: 'the watchdog is absent',
    caughtAs: ['S1', 'S2'],
    seeds: 6,
    faults: ['last-breath', 'guard-killed', 'isolated'],
    unsafe: { watchdog: 'absent' },
  },
  {
    what: 'the watchdog is twice as slow',
    caughtAs: ['S1', 'S2'],
    seeds: 6,
    faults: ['last-breath'],
    unsafe: { watchdog: 'slow' },
  },
  {
    what: 'a controller says off while it is on',
    caughtAs: ['S2', 'S3'],
    seeds: 3,
    faults: ['isolated'],
    swarm: { controllers: true },
    unsafe: { lyingControllers: true },
  },
  {
    what: 'an agent leaves a guest that was never resumed',
    caughtAs: ['L1'],
    seeds: 12,
    rules: {
      planGuestAction: (facts) =>
        facts.process?.state === 'prelaunch' && facts.record?.order?.kind === 'run'
          ? { kind: 'none', because: 'left as it is' }
          : planGuestAction(facts),
    },
    faults: ['guest-dies', 'agent-killed'],
    swarm: { agentCrashChance: 0.003, faultGapMs: 2_000 },
  },
];

testMutations(mutations);
