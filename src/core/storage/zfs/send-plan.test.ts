import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { Version } from './listing.ts';
import { planReplicaPrune, planSourcePrune } from './prune-plan.ts';
import { planZfsSend, type TargetDisk, type ZfsTargetState } from './send-plan.ts';

function version(name: string, guid: string, kind: Version['kind'] = 'snapshot', change: Partial<Version> = {}): Version {
  return { kind, name, guid, createtxg: 0, createdAtMs: 0, writtenBytes: 1, clones: [], holds: 0, pointAtMs: 0, ...change };
}

const ours = [
  { name: 'disk0', versions: [version('t-n2-1-3', 'a3', 'bookmark'), version('hf-1-4', 'a4'), version('hf-1-5', 'a5')] },
  { name: 'disk1', versions: [version('t-n2-1-3', 'b3', 'bookmark'), version('hf-1-4', 'b4'), version('hf-1-5', 'b5')] },
];

function target(disk0: string[], disk1: string[], change: Partial<ZfsTargetState> = {}): ZfsTargetState {
  const disks: TargetDisk[] = [
    { name: 'disk0', guids: disk0, partial: null },
    { name: 'disk1', guids: disk1, partial: null },
  ];
  return { role: 'replica', generation: 1, point: { generation: 1, seq: 3 }, disks, ...change };
}

const mib = 1 << 20;
const plan = (state: ZfsTargetState) => planZfsSend(1, ours, state, 64 * mib);

test('the base of each disk is the newest that both have, by GUID; a bookmark will do', () => {
  const found = plan(target(['a3', 'a2'], ['b4', 'b3']));
  assert.equal(found.kind, 'delta');
  assert.deepEqual(found.kind === 'delta' && found.bases.map(({ base }) => [base?.kind, base?.name]), [
    ['bookmark', 't-n2-1-3'],
    ['snapshot', 'hf-1-4'],
  ]);
});

test('the same name with another GUID is no base: everything is sent, and the reason says so', () => {
  const found = plan(target(['x4', 'x3'], ['b4']));
  assert.ok(found.kind === 'full' && /disk0: nothing that this node and the target have in common/.test(found.because));
  const empty = plan(target([], [], { role: 'absent', point: null }));
  assert.ok(empty.kind === 'full' && empty.because === 'the target has no copy yet');
});

test('a target that is home itself, or has seen a newer generation, is left alone', () => {
  assert.equal(plan(target(['a3'], ['b3'], { role: 'primary' })).kind, 'refuse');
  assert.equal(plan(target(['a3'], ['b3'], { generation: 2 })).kind, 'refuse');
});

test('a cut stream goes on when enough has arrived and its point is still here on every disk', () => {
  const cut = (toGuid: string, receivedBytes: number): ZfsTargetState => {
    const state = target(['a3'], ['b3']);
    const partial = { token: '1-a-b-c', toGuid, receivedBytes };
    return { ...state, disks: state.disks.map((disk) => (disk.name === 'disk0' ? { ...disk, partial } : disk)) };
  };
  assert.deepEqual(plan(cut('a4', 64 * mib)), {
    kind: 'resume',
    point: { generation: 1, seq: 4 },
    because: '67108864 bytes of 1/4 have arrived already',
  });
  assert.equal(plan(cut('a4', 63 * mib)).kind, 'delta');
  assert.equal(plan(cut('gone', 64 * mib)).kind, 'delta');
  assert.equal(plan({ ...cut('a4', 64 * mib), point: { generation: 1, seq: 4 } }).kind, 'delta');
});

const home = {
  generation: 2,
  inFlight: [],
  promotedFrom: { generation: 1, seq: 9 },
  isTight: false,
};
const atHome = [
  version('t-n2-1-9', '9', 'bookmark'),
  version('hf-1-8', '8'),
  version('hf-1-9', '9'),
  version('hf-2-1', '1'),
  version('hf-2-2', '2'),
  version('hf-2-3', '3'),
];
const names = (snapshots: { name: string }[]) => snapshots.map(({ name }) => name);

test('a new home keeps its past until every other node has gone on from it', () => {
  const waiting = new Map([
    ['n2', { generation: 2, seq: 2 }],
    ['n3', null],
  ]);
  assert.deepEqual(names(planSourcePrune(atHome, { ...home, confirmed: waiting }).snapshots), ['hf-2-1']);
  const settled = new Map([
    ['n2', { generation: 2, seq: 2 }],
    ['n3', { generation: 2, seq: 1 }],
  ]);
  const after = planSourcePrune(atHome, { ...home, confirmed: settled });
  assert.deepEqual(names(after.snapshots), ['hf-1-8', 'hf-1-9']);
  assert.deepEqual(after.bookmarks, ['t-n2-1-9']);
});

test('a home short of space keeps bookmarks in place of its past', () => {
  const confirmed = new Map([['n3', null]]);
  const tight = planSourcePrune(atHome, { ...home, confirmed, isTight: true });
  assert.deepEqual(tight.snapshots.slice(0, 2), [
    { name: 'hf-1-8', bookmark: { generation: 1, seq: 8 } },
    { name: 'hf-1-9', bookmark: { generation: 1, seq: 9 } },
  ]);
});

test('what somebody holds, what a tail rests on and what is on its way is never dropped', () => {
  const versions = [
    version('hf-2-1', '1', 'snapshot', { holds: 1 }),
    version('hf-2-2', '2', 'snapshot', { clones: ['tank/x'] }),
    version('hf-2-3', '3'),
    version('hf-2-4', '4'),
    version('by-hand', '5'),
    version('hf-2-6', '6'),
  ];
  const confirmed = new Map([['n2', { generation: 2, seq: 6 }]]);
  const inFlight = [{ generation: 2, seq: 3 }];
  assert.deepEqual(names(planSourcePrune(versions, { ...home, confirmed, inFlight }).snapshots), ['hf-2-4']);
  assert.deepEqual(names(planReplicaPrune(versions, { points: [], anchors: [] }).snapshots), ['hf-2-3']);
});

test('a replica keeps a bookmark of a point that another node still holds, and its two newest snapshots', () => {
  const versions = [1, 2, 3, 4, 5].map((seq) => version(`hf-1-${seq}`, String(seq)));
  const facts = { points: [{ generation: 1, seq: 3 }], anchors: [{ generation: 1, seq: 1 }] };
  assert.deepEqual(planReplicaPrune(versions, facts).snapshots, [
    { name: 'hf-1-1', bookmark: { generation: 1, seq: 1 } },
    { name: 'hf-1-2', bookmark: null },
  ]);
  const marks = [version('p-1-1', '1', 'bookmark'), version('p-1-2', '2', 'bookmark')];
  assert.deepEqual(planReplicaPrune([...marks, ...versions], facts).bookmarks, ['p-1-2']);
});
