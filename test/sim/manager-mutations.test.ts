import type { GuestRecord } from '#core/guest/guest-record.ts';
import type { ClusterFacts, GuestRecordFacts } from '#core/ha/cluster-round/facts.ts';
import type { ClusterStep } from '#core/ha/cluster-round/steps.ts';
import { prefixes } from '#core/ha/keys.ts';
import type { HaMemory } from '#core/ha/records.ts';
import { type Rules, shippedRules } from '#sim/rules.ts';
import { type Mutation, testMutations } from './mutation.ts';

type PlanRound = Rules['planClusterRound'];

const { planClusterRound } = shippedRules;

/** A manager that is told something else than what is. */
function told(change: (facts: ClusterFacts) => Partial<ClusterFacts>): { planClusterRound: PlanRound } {
  return { planClusterRound: (facts, ...clocks) => planClusterRound({ ...facts, ...change(facts) }, ...clocks) };
}

function toldOfGuests(change: (record: GuestRecord, guest: GuestRecordFacts) => GuestRecord): { planClusterRound: PlanRound } {
  return told(({ guests }) => ({ guests: guests.map((guest) => ({ ...guest, record: change(guest.record, guest) })) }));
}

function toldOfMemory(change: (memory: HaMemory) => Partial<HaMemory>): { planClusterRound: PlanRound } {
  return told(({ memory }) => ({ memory: memory && { ...memory, value: { ...memory.value, ...change(memory.value) } } }));
}

/** Only the answers of what a round writes of commands, not what follows from them. */
function answersOnly(step: ClusterStep): ClusterStep {
  if (step.kind !== 'commit') return step;
  const answers = step.writes.filter(({ key }) => key.startsWith(prefixes.haCommands));
  return answers.length === 0 ? step : { ...step, writes: answers };
}

/** As if the home had given the guest up as soon as it was told to. */
function givesUpAtOnce(record: GuestRecord, { replicas }: GuestRecordFacts): GuestRecord {
  const { order } = record;
  const copy = replicas.find(({ node }) => node === order?.to);
  if (order?.kind !== 'move' || copy === undefined) return record;
  const givenUp = { node: record.home, orderId: order.id, point: copy.point, copiedTo: [copy.node], atMs: 0, because: '' };
  return { ...record, order: null, givenUp };
}

function asServing(heartbeat: ClusterFacts['nodes'][number]['heartbeat']): typeof heartbeat {
  return heartbeat && { ...heartbeat, value: { ...heartbeat.value, phase: 'serving' } };
}

const mutations: Mutation[] = [
  {
    what: 'a command is answered without its effect',
    caughtAs: ['S4'],
    seeds: 3,
    rules: {
      planClusterRound: (facts, ...clocks) => {
        const plan = planClusterRound(facts, ...clocks);
        return { ...plan, steps: plan.steps.map((step) => answersOnly(step)) };
      },
    },
    faults: ['command-move', 'command-drain'],
  },
  {
    what: 'a drain is forgotten with the manager that took it',
    caughtAs: ['S4'],
    seeds: 3,
    rules: toldOfMemory(() => ({ drains: [] })),
    faults: ['command-drain'],
  },
  {
    what: 'placement takes no rule into account',
    caughtAs: ['S10'],
    seeds: 12,
    rules: told(() => ({ rules: [] })),
    faults: ['rule-edited', 'plug-pulled', 'want-changed'],
    swarm: { guests: 3 },
  },
  {
    what: 'placement ignores rivals',
    caughtAs: ['S10'],
    seeds: 24,
    rules: told(({ rules }) => ({ rules: rules.filter(({ kind }) => kind !== 'keep-apart') })),
    faults: ['rule-edited', 'plug-pulled'],
    swarm: { guests: 4, faultGapMs: 2_000 },
  },
  {
    what: 'a failed guest is started again by itself',
    caughtAs: ['S12'],
    seeds: 6,
    rules: toldOfGuests((record) => {
      if (record.ha?.state.kind !== 'failed') return record;
      return { ...record, ha: { ...record.ha, state: { kind: 'start-requested' } } };
    }),
    faults: ['starts-fail-often', 'guest-dies'],
  },
  {
    what: 'the target of a move owns the guest before the source gave it up',
    caughtAs: ['S3', 'S13'],
    seeds: 3,
    rules: toldOfGuests(givesUpAtOnce),
    faults: ['command-move'],
  },
  {
    what: 'the last state of a guest that moves is not sent',
    caughtAs: ['S13'],
    seeds: 3,
    rules: { sendsLast: false },
    faults: ['command-move'],
    swarm: { writesMs: 700 },
  },
  {
    what: 'a disarm freezes what is being recovered or moved',
    caughtAs: ['S15'],
    seeds: 6,
    rules: toldOfMemory(({ disarm }) => ({ disarm: disarm && { ...disarm, stage: 'in-force' } })),
    faults: ['command-disarm', 'command-arm', 'command-move', 'plug-pulled'],
    swarm: { faultGapMs: 2_000 },
  },
  {
    what: 'guests stay down on a node that is drained',
    caughtAs: ['S15'],
    seeds: 6,
    rules: {
      planGuestAction: (facts) => {
        const action = shippedRules.planGuestAction(facts);
        return action.kind === 'hand-over' ? { kind: 'none', because: 'it is stopped' } : action;
      },
    },
    faults: ['command-drain'],
    swarm: { rounds: ['drain'] },
  },
  {
    what: 'the silence of a disarmed node is taken for its death',
    caughtAs: ['S3'],
    seeds: 12,
    rules: told(({ nodes, memory }) => {
      const isArmed = (memory?.value.disarm ?? null) === null;
      return { nodes: nodes.map((node) => (isArmed ? { ...node, heartbeat: asServing(node.heartbeat) } : node)) };
    }),
    faults: ['isolated'],
    swarm: { rounds: ['disarm'] },
  },
  {
    what: 'an agent tells of guests what is not so',
    caughtAs: ['S16'],
    seeds: 3,
    rules: { tellsTruth: false },
    faults: ['guest-dies', 'plug-pulled'],
  },
  {
    what: 'claims leave no event',
    caughtAs: ['S16'],
    seeds: 3,
    rules: {
      planClusterRound: (facts, ...clocks) => {
        const plan = planClusterRound(facts, ...clocks);
        return { ...plan, steps: plan.steps.map((step) => (step.kind === 'commit' ? { ...step, events: [] } : step)) };
      },
    },
    faults: ['plug-pulled'],
  },
  {
    what: 'a node that flaps is never quarantined',
    caughtAs: ['L7'],
    seeds: 6,
    rules: told(({ settings }) => ({ settings: { ...settings, quarantineAfter: 0 } })),
    faults: ['plug-pulled'],
    swarm: { rounds: ['flap'] },
  },
];

testMutations(mutations);
