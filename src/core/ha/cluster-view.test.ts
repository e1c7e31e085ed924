import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { GuestRecord } from '#core/guest/guest-record.ts';
import { sortSnapshot, type RecordEntry } from '#core/ha/cluster-snapshot.ts';
import { deriveView, listSilent } from '#core/ha/cluster-view.ts';
import { keys } from '#core/ha/keys.ts';
import type { GuestEntry } from '#core/ha/manager/memory.ts';
import type { AgentRecord, HaMemory, HaStatus, Heartbeat, Permit } from '#core/ha/records.ts';

const granted: Permit = { state: 'granted', epoch: 3, bootId: 'b', claimMs: 15_000, grantedAtMs: 0 };
const revoked: Permit = {
  state: 'revoked',
  epoch: 4,
  revokedEpoch: 3,
  proof: { kind: 'released', reason: 'asked' },
  managerEpoch: 1,
  revokedAtMs: 90_000,
};
const guest: GuestRecord = {
  vmid: 100,
  name: 'ehr-db',
  config: { cores: 1, memoryMb: 512, disks: [{ name: 'disk0', sizeBytes: 1 }], nics: [], boot: null },
  home: 'n1',
  generation: 2,
  order: { id: 1, kind: 'run', nodeEpoch: 3, managerEpoch: 1, promote: null, lostAtMs: null, issuedAtMs: 0 },
};
const running: HaStatus = {
  vmid: 100,
  node: 'n1',
  generation: 2,
  nodeEpoch: 3,
  state: 'running',
  because: 'as ordered',
  atMs: 0,
  qemuStartedAtMs: 0,
  promoted: null,
};

function heartbeat(changes: Partial<Heartbeat> = {}): Heartbeat {
  return { seq: 1, epoch: 3, bootId: 'b', phase: 'serving', agentSilentMs: 100, load: null, sentAtMs: 95_000, ...changes };
}

type World = {
  ha?: GuestEntry;
  memory?: HaMemory;
  agent?: AgentRecord;
  givenUp?: GuestRecord['givenUp'];
  want?: string;
  order?: GuestRecord['order'];
  permit?: Permit;
  phase?: Heartbeat['phase'];
  status?: HaStatus | null;
  beats?: boolean;
};

/** A two-node cluster; `round` 2 carries newer heartbeats unless n1 is silent. */
function entries(world: World, round: 1 | 2): RecordEntry[] {
  const entry = (key: string, value: unknown, modRevision = 1n) => ({ key, value: JSON.stringify(value), modRevision });
  const beat = world.beats === false ? 1n : BigInt(10 * round);
  return [
    entry(keys.nodePermit('n1'), world.permit ?? granted),
    entry(keys.nodeHeartbeat('n1'), heartbeat({ phase: world.phase ?? 'serving' }), beat),
    entry(keys.nodePermit('n2'), granted),
    entry(keys.nodeHeartbeat('n2'), heartbeat(), BigInt(10 * round)),
    entry(keys.manager, { node: 'n1', epoch: 5, sinceAtMs: 0 }),
    entry(keys.guest(100), {
      ...guest,
      order: world.order === undefined ? guest.order : world.order,
      ha: world.ha,
      givenUp: world.givenUp,
    }),
    ...(world.memory === undefined ? [] : [entry(keys.haMemory, world.memory)]),
    ...(world.agent === undefined ? [] : [entry(keys.nodeAgent('n1'), world.agent)]),
    entry(keys.haResource(100), { vmid: 100, want: world.want ?? 'started', maxDataAgeMs: null }),
    ...(world.status === null ? [] : [entry(keys.haStatus(100), world.status ?? running)]),
    entry(keys.replica(100, 'n2'), {
      vmid: 100,
      node: 'n2',
      source: 'n1',
      point: { generation: 2, seq: 7 },
      pointAtMs: 59_000,
      appliedAtMs: 60_000,
      lastCycle: { kind: 'delta', bytes: 10, tookMs: 5, pausedMs: 1 },
      leftBehind: [{ name: 'left-behind-g1', generation: 1, sizeBytes: null, fromAtMs: null, untilAtMs: null }],
    }),
  ];
}

function view(world: World = {}, deferrals = new Map<number, string>()) {
  return deriveView(sortSnapshot(entries(world, 1)), sortSnapshot(entries(world, 2)), { members: [], deferrals, nowMs: 100_000 });
}

test('a guest runs when its home serves and its status is of this generation and epoch', () => {
  const seen = view();
  assert.deepEqual([seen.guests[0]?.state, seen.manager?.alive], ['running', true]);
  assert.equal(seen.guests[0]?.copies.length, 1);
  assert.equal(seen.guests[0]?.copies[0]?.newest?.ageMs, 41_000);
  assert.equal(seen.tails[0]?.name, 'left-behind-g1');
});

test('a node lives only if its heartbeat was written while we watched', () => {
  const world = { beats: false };
  assert.deepEqual(listSilent(sortSnapshot(entries(world, 1)), sortSnapshot(entries(world, 2))), ['n1']);
  const seen = view(world);
  assert.deepEqual(seen.nodes[0]?.condition, { kind: 'silent', forMs: 5_000, disarmed: false });
  assert.deepEqual([seen.guests[0]?.state, seen.manager?.alive], ['frozen', false]);
});

test('a revoked permit is a fenced node, and its guest is lost until it is placed', () => {
  const seen = view({ permit: revoked, beats: false });
  assert.deepEqual(seen.nodes[0]?.condition, { kind: 'fenced', forMs: 10_000, proof: revoked.proof });
  assert.equal(seen.guests[0]?.state, 'lost');
  assert.equal(view({ permit: revoked }, new Map([[100, 'no room']])).guests[0]?.because, 'no room');
});

test('a status of another generation or epoch is not believed', () => {
  assert.equal(view({ status: { ...running, generation: 1 } }).guests[0]?.state, 'waiting');
  assert.equal(view({ status: { ...running, node: 'n2' } }).guests[0]?.state, 'waiting');
  assert.equal(view({ status: { ...running, nodeEpoch: 2 } }).guests[0]?.state, 'waiting');
  assert.equal(view({ status: null }).guests[0]?.state, 'waiting');
  assert.equal(view({ phase: 'frozen' }).guests[0]?.state, 'frozen');
});

test('a guest that is not wanted and has no order to run is stopped, whatever its home said last', () => {
  const stop = { ...guest.order!, kind: 'stop' as const };
  const failed = { ...running, state: 'failed' as const };
  assert.equal(view({ want: 'stopped', order: null, status: null }).guests[0]?.state, 'stopped');
  assert.equal(view({ want: 'stopped', order: stop, status: failed }).guests[0]?.state, 'stopped');
  assert.equal(view({ want: 'stopped', order: stop }).guests[0]?.state, 'running');
  assert.equal(view({ want: 'stopped', status: null }).guests[0]?.state, 'waiting');
});

function managed(state: GuestEntry['state'], changes: Partial<GuestEntry> = {}): GuestEntry {
  const rest = { node: 'n1', orderId: 1, failedNodes: [], returnTo: null, command: null, sinceMs: 40_000, because: 'why not' };
  return { ...rest, state, ...changes };
}

const memory: HaMemory = {
  nodes: { n1: 'draining', n2: 'up' },
  drains: ['n1'],
  disarm: null,
  unguarded: [],
  imbalancedRounds: 0,
  nextOrderId: 5,
  flaps: { n2: { claimedAtMs: [-3_600_000, 80_000, 95_000], quarantined: true } },
};

test('what the manager knows of nodes is shown; what an agent said ends with its boot', () => {
  const agent: AgentRecord = { mode: 'maintenance', bootId: 'b', because: 'the node is ended', atMs: 0 };
  const [n1, n2] = view({ memory, agent }).nodes;
  assert.deepEqual(n1?.ha, {
    state: 'draining',
    drained: true,
    quarantined: false,
    claimedAgoMs: [],
    agentMode: 'maintenance',
    agentBecause: 'the node is ended',
  });
  assert.deepEqual([n2?.ha.quarantined, n2?.ha.claimedAgoMs], [true, [20_000, 5_000]]);
  assert.equal(view({ agent: { ...agent, bootId: 'older' } }).nodes[0]?.ha.agentMode, 'active');
  assert.deepEqual([view().nodes[0]?.ha.state, view().guests[0]?.ha], [null, null]);
});

test('a guest of the manager has its next step and what is left until its deadline', () => {
  const moving = view({ ha: managed({ kind: 'moving-cold', to: 'n2' }) }).guests[0];
  assert.deepEqual([moving?.state, moving?.ha?.forMs, moving?.ha?.next.next], ['running', 60_000, 'n1 moves it to n2']);
  assert.ok((moving?.ha?.leftMs ?? 0) > 0);
  const late = view({ ha: managed({ kind: 'start-requested' }) }).guests[0];
  assert.equal(late?.ha?.leftMs, -50_000);
  assert.equal(view({ ha: managed({ kind: 'active', seenRunning: true, recovered: false }) }).guests[0]?.ha?.leftMs, null);
});

test('where its start failed is told for as long as it does not go back there', () => {
  const active: GuestEntry['state'] = { kind: 'active', seenRunning: true, recovered: false };
  const avoids = (sinceMs: number) => view({ ha: managed(active, { avoids: { nodes: ['n2'], sinceMs } }) }).guests[0]?.ha?.avoids;
  assert.deepEqual(avoids(40_000), { nodes: ['n2'], leftMs: 3_540_000 });
  assert.equal(avoids(-3_500_001), null);
  assert.equal(view({ ha: managed(active) }).guests[0]?.ha?.avoids, null);
});

test('a guest frozen by an operator who disarmed is never overdue', () => {
  const ha = managed({ kind: 'frozen' }, { sinceMs: -10 * 3_600_000 });
  assert.ok((view({ ha }).guests[0]?.ha?.leftMs ?? 0) < 0);
  const held = view({ ha, memory: { ...memory, disarm: { mode: 'hold', stage: 'complete' } } });
  assert.deepEqual([held.ha.disarm?.mode, held.guests[0]?.ha?.leftMs], ['hold', null]);
  const fresh = managed({ kind: 'frozen' }, { sinceMs: 99_000 });
  const disarmed = view({ ha: fresh, memory: { ...memory, disarm: { mode: 'hold', stage: 'complete' } } });
  assert.equal(disarmed.guests[0]?.ha?.leftMs, null);
});

test('a guest on a disarmed node runs', () => {
  assert.equal(view({ phase: 'disarmed' }).guests[0]?.state, 'running');
});

test('a guest that does not run says what it waits for: its move, its new home, its own node, an operator', () => {
  const stopped = { ...running, state: 'stopped' as const, because: 'it was shut down' };
  const moving = view({ ha: managed({ kind: 'moving-cold', to: 'n2' }), status: stopped }).guests[0];
  assert.deepEqual([moving?.state, moving?.because], ['waiting', 'it is on its way to n2']);
  const givenUp = {
    node: 'n1',
    orderId: 1,
    point: { generation: 2, seq: 7 },
    copiedTo: ['n2'],
    atMs: 0,
    because: 'it was to move',
  };
  const left = view({ order: null, givenUp, status: stopped }).guests[0];
  assert.deepEqual([left?.state, left?.because], ['waiting', 'n1 gave it up: it was to move']);
  const frozen = view({ permit: revoked, beats: false, ha: managed({ kind: 'frozen' }, { because: 'n1 reboots' }) }).guests[0];
  assert.deepEqual([frozen?.state, frozen?.because], ['frozen', 'n1 reboots']);
  const agent: AgentRecord = { mode: 'restart', bootId: 'b', because: 'policy freeze: guests wait for the node', atMs: 0 };
  const ending = view({ ha: managed({ kind: 'frozen' }), status: stopped, agent }).guests[0];
  assert.deepEqual([ending?.state, ending?.because], ['frozen', 'policy freeze: guests wait for the node']);
  const failed = view({ ha: managed({ kind: 'failed' }, { because: 'it failed on n1' }), status: stopped }).guests[0];
  assert.deepEqual([failed?.state, failed?.because], ['failed', 'it failed on n1']);
});

test('an unreadable record is refused by its key', () => {
  assert.throws(() => sortSnapshot([{ key: keys.guest(100), value: '{', modRevision: 1n }]), {
    kind: 'invalid',
    message: /\/holdfast\/guests\/100/,
  });
});
