import assert from 'node:assert/strict';
import { test } from 'node:test';
import { formatZfsManifest, parseZfsManifest } from './manifest-text.ts';
import {
  createZfsPrimary,
  createZfsReplica,
  demoteZfs,
  demoteZfsToPoint,
  describeZfsReplica,
  dropZfsPoints,
  newestZfsPoint,
  openZfsForWriting,
  promoteZfsTo,
  sealZfsPoint,
  setAside,
  toPromotableZfs,
  type ZfsManifest,
  type ZfsPoint,
} from './manifest.ts';

const lastCycle = { kind: 'delta' as const, bytes: 1, tookMs: 1, pausedMs: 0 };
const disks = [{ name: 'disk0', sizeBytes: 1 << 20 }];

function pointAt(generation: number, seq: number): ZfsPoint {
  const about = { source: 'n1', pointAtMs: seq, appliedAtMs: seq, configSha256: '', lastCycle };
  return { generation, seq, guids: { disk0: `${generation}00${seq}` }, ...about };
}

function replicaAt(...seqs: number[]): ZfsManifest {
  return seqs.reduce((manifest, seq) => sealZfsPoint(manifest, disks, pointAt(1, seq)), createZfsReplica(100, 1));
}

const handed = {
  point: { generation: 3, seq: 9 },
  copiedTo: ['n2'],
  source: 'n1',
  pointAtMs: 5,
  configSha256: '',
  lastCycle,
  guids: { disk0: '9' },
};

test('a manifest of any length is read back as it was written, and a torn one is refused with the dataset named', () => {
  const many = replicaAt(...Array.from({ length: 120 }, (_, index) => index + 1));
  const odd = { ...many, points: many.points.map((point) => ({ ...point, source: 'größe €' })) };
  const properties = formatZfsManifest(odd);
  assert.ok(Object.keys(properties).length > 3);
  for (const value of Object.values(properties)) assert.ok(/^[ -~]*$/.test(value) && value.length < 8_000);
  assert.deepEqual(parseZfsManifest(new Map(Object.entries(properties)), 'tank/x'), odd);
  assert.equal(parseZfsManifest(new Map(), 'tank/x'), null);
  const torn = new Map(Object.entries(properties));
  torn.delete('holdfast:copy.1');
  assert.throws(() => parseZfsManifest(torn, 'tank/x'), /tank\/x: its manifest has .* characters, not/);
});

test('a shorter manifest is not mixed up with the longer one before it', () => {
  const long = formatZfsManifest(replicaAt(...Array.from({ length: 80 }, (_, index) => index + 1)));
  const short = formatZfsManifest(replicaAt(7));
  assert.deepEqual(parseZfsManifest(new Map(Object.entries({ ...long, ...short })), 'tank/x'), replicaAt(7));
});

test('a demoted primary has no point until something is received, and its writes are a tail', () => {
  const replica = demoteZfs(createZfsPrimary(100, 3, disks), 77, null);
  assert.equal(newestZfsPoint(replica), null);
  assert.deepEqual(
    replica.leftBehind.map(({ name, sizeBytes, keptSinceMs }) => [name, sizeBytes, keptSinceMs]),
    [['left-behind-g3', null, 77]],
  );
});

test('a primary tells of itself as a copy only while it holds just what it handed over', () => {
  const made = createZfsPrimary(100, 3, disks);
  const over = { ...made, handedOver: handed };
  assert.equal(describeZfsReplica(made, 'n1'), null);
  assert.deepEqual(describeZfsReplica(over, 'n1')?.point, handed.point);
  assert.equal(describeZfsReplica(openZfsForWriting(over), 'n1'), null);
  assert.equal(openZfsForWriting(made), made);
  assert.equal(newestZfsPoint(toPromotableZfs(over, handed.point))?.guids['disk0'], '9');
  assert.equal(toPromotableZfs(over, { generation: 3, seq: 8 }), over);
});

test('what was handed over needs no tail when its new home began from it, and has one when nobody knows', () => {
  const over = { ...createZfsPrimary(100, 3, disks), handedOver: handed };
  assert.deepEqual(demoteZfsToPoint(over, handed.point, 1)?.leftBehind, []);
  assert.equal(demoteZfsToPoint(over, { generation: 3, seq: 8 }, 1)?.leftBehind[0]?.name, 'left-behind-g3');
  assert.equal(demoteZfsToPoint(over, null, 1)?.leftBehind.length, 1);
  assert.equal(demoteZfsToPoint(createZfsPrimary(100, 3, disks), null, 1), null);
});

test('confirmed points above the base go with a tail of their own, never without one', () => {
  const { manifest, tail } = setAside(replicaAt(1, 2, 3), { generation: 1, seq: 1 }, null, 50);
  assert.equal(tail, 'left-behind-g1-3');
  assert.deepEqual(
    manifest.points.map((point) => point.seq),
    [1],
  );
  assert.equal(manifest.leftBehind[0]?.untilAtMs, 3);
  const demoted = demoteZfs(createZfsPrimary(100, 3, disks), 77, null);
  assert.deepEqual(setAside(demoted, null, 'left-behind-g3', 50), { manifest: demoted, tail: 'left-behind-g3' });
});

test('promotion goes on from the point that was chosen; the newest point is never dropped by hand', () => {
  const promoted = promoteZfsTo(replicaAt(1, 2, 3), 2, pointAt(1, 2));
  assert.deepEqual([promoted.role, promoted.generation, promoted.points.length], ['primary', 2, 2]);
  assert.deepEqual(
    dropZfsPoints(replicaAt(1, 2), [pointAt(1, 1), pointAt(1, 2)]).points.map((point) => point.seq),
    [2],
  );
});
