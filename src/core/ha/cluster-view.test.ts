import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { GuestRecord } from '#core/guest/guest-record.ts';
import { sortSnapshot, type RecordEntry } from '#core/ha/cluster-snapshot.ts';
import { deriveView, listSilent } from '#core/ha/cluster-view.ts';
import { keys } from '#core/ha/keys.ts';
import type { HaStatus, Heartbeat, Permit } from '#core/ha/records.ts';

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
    entry(keys.guest(100), { ...guest, order: world.order === undefined ? guest.order : world.order }),
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
  assert.deepEqual(seen.nodes[0]?.condition, { kind: 'silent', forMs: 5_000 });
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

test('an unreadable record is refused by its key', () => {
  assert.throws(() => sortSnapshot([{ key: keys.guest(100), value: '{', modRevision: 1n }]), {
    kind: 'invalid',
    message: /\/holdfast\/guests\/100/,
  });
});
