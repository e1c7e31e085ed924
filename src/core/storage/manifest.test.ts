import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import {
  baseOfWrites,
  createPrimary,
  createReplica,
  currentDepths,
  demoteToReplica,
  describeReplica,
  layersAt,
  newestPoint,
  noteHandedOver,
  openForWriting,
  promoteTo,
  releaseTail,
  sealPoint,
  toPromotable,
  type Manifest,
} from './manifest.ts';
import { formatManifest, parseManifest } from './manifest-text.ts';
import { closeMerge, dropPoints, openForMerge, planMerge } from './merge-plan.ts';

const disks = ['disk0', 'disk1'];
const lastCycle = { kind: 'delta' as const, bytes: 1, tookMs: 1, pausedMs: 1 };

function layer(file: string, format: 'raw' | 'qcow2') {
  return { file, format, sizeBytes: 1 << 20, sealed: { fileBytes: 1, metadataSha256: 'aa' } };
}

function seal(manifest: Manifest, generation: number, seq: number): Manifest {
  const added = disks.map((disk) => ({
    disk,
    layer: layer(`${disk}-g${generation}-${seq}`, manifest.disks.length === 0 ? 'raw' : 'qcow2'),
  }));
  return sealPoint(manifest, added, {
    generation,
    seq,
    source: 'n1',
    pointAtMs: seq,
    appliedAtMs: seq,
    configSha256: '',
    lastCycle,
  });
}

function promote(manifest: Manifest, generation: number): Manifest {
  const point = newestPoint(manifest);
  assert.ok(point !== null);
  return promoteTo(
    manifest,
    generation,
    point,
    disks.map((disk) => ({ disk, layer: layer(`${disk}-g${generation}-own`, 'qcow2') })),
  );
}

/** What each kept point and tail is made of, merged layers spelled out: the image must never change by a merge. */
type Content = Map<string, string[]>;

function mergeAll(start: Manifest, content: Content): Manifest {
  let manifest = start;
  for (let step = planMerge(manifest); step !== null; step = planMerge(manifest)) {
    manifest = parseManifest(formatManifest(openForMerge(manifest, step)), 'test');
    content.set(step.lower.file, [...(content.get(step.lower.file) ?? []), ...(content.get(step.upper.file) ?? [])]);
    manifest = parseManifest(formatManifest(closeMerge(manifest, step, null)), 'test');
  }
  return manifest;
}

function images(manifest: Manifest, content: Content): Record<string, string> {
  const image = (depths: Record<string, number>) =>
    layersAt(manifest, depths)
      .flatMap((disk) => disk.layers.flatMap((entry) => content.get(entry.file) ?? [entry.file]))
      .join('+');
  return Object.fromEntries([
    ...manifest.points.map((point) => [`${point.generation}/${point.seq}`, image(point.depths)]),
    ...manifest.leftBehind.map((tail) => [tail.name, image(tail.depths)]),
  ]) as Record<string, string>;
}

test('merging never changes the image of a kept point or of a left-behind tail', () => {
  fc.assert(
    fc.property(
      fc.array(fc.nat(5), { maxLength: 30 }),
      fc.array(fc.boolean(), { minLength: 30, maxLength: 30 }),
      (moves, drops) => {
        let manifest = seal(createReplica(100, 1), 1, 1);
        let [generation, seq] = [1, 1];
        const content: Content = new Map();
        for (const [index, move] of moves.entries()) {
          if (manifest.role === 'primary') {
            manifest = demoteToReplica(manifest, 5);
            generation += 1;
          } else if (move === 0 && newestPoint(manifest) !== null) {
            manifest = promote(manifest, (generation += 1));
            continue;
          } else if (move === 1 && manifest.leftBehind[0] !== undefined) {
            manifest = releaseTail(manifest, manifest.leftBehind[0].name);
          } else {
            manifest = seal(manifest, generation, (seq += 1));
          }
          for (const entry of manifest.disks.flatMap((disk) => disk.layers)) {
            if (!content.has(entry.file)) content.set(entry.file, [entry.file]);
          }
          manifest = dropPoints(
            manifest,
            manifest.points.filter((_, place) => drops[(index + place) % drops.length]),
          );
          const before = images(manifest, content);
          manifest = mergeAll(manifest, content);
          assert.deepEqual(images(manifest, content), before);
        }
      },
    ),
  );
});

test('a replica without tails shrinks to one layer a kept point', () => {
  let manifest = seal(seal(seal(createReplica(100, 1), 1, 1), 1, 2), 1, 3);
  manifest = mergeAll(dropPoints(manifest, manifest.points), new Map());
  assert.deepEqual(currentDepths(manifest), { disk0: 1, disk1: 1 });
  assert.equal(newestPoint(manifest)?.seq, 3);
});

test('a primary is never merged', () => {
  assert.equal(planMerge(promote(seal(seal(createReplica(100, 1), 1, 1), 1, 2), 2)), null);
});

test('all writes of a promoted copy are known to follow its point only while it is opened for the first time', () => {
  const point = { generation: 1, seq: 2 };
  const fresh = promote(seal(seal(createReplica(100, 1), 1, 1), 1, 2), 2);
  const basesOf = (manifest: Manifest) => {
    const { generation, seq } = baseOfWrites(manifest) ?? { generation: 0, seq: 0 };
    return { generation, seq };
  };
  const none = { generation: 0, seq: 0 };
  const once = parseManifest(formatManifest(openForWriting(fresh)), 'test');
  const twice = parseManifest(formatManifest(openForWriting(once)), 'test');
  assert.deepEqual([fresh, once, twice, openForWriting(twice)].map(basesOf), [none, point, none, none]);
  assert.equal(openForWriting(openForWriting(twice)).opened, undefined);
  const made = createPrimary(100, 1, []);
  assert.equal(openForWriting(made), made);
  assert.deepEqual(basesOf(demoteToReplica(once, 77)), none);
});

test('a primary tells of itself as a copy only while it holds just what it handed over', () => {
  const made = createPrimary(100, 3, []);
  const point = { generation: 3, seq: 9 };
  const handed = noteHandedOver(made, { point, copiedTo: ['n2'], source: 'n1', pointAtMs: 5, configSha256: '', lastCycle });
  assert.equal(describeReplica(made, 'n1'), null);
  assert.deepEqual(describeReplica(handed, 'n1')?.point, point);
  assert.equal(describeReplica(openForWriting(handed), 'n1'), null);
  assert.deepEqual(newestPoint(toPromotable(handed, point)), {
    ...point,
    source: 'n1',
    pointAtMs: 5,
    appliedAtMs: 5,
    configSha256: '',
    lastCycle,
    depths: {},
  });
  assert.equal(toPromotable(handed, { generation: 3, seq: 8 }), handed);
  assert.equal(toPromotable(made, point), made);
});

test('a demoted primary has no point of its own until something is received', () => {
  const primary = createPrimary(
    100,
    3,
    disks.map((name) => ({ name, layers: [layer(`${name}-base`, 'raw')] })),
  );
  const replica = demoteToReplica(primary, 77);
  assert.equal(newestPoint(replica), null);
  assert.deepEqual(replica.leftBehind[0]?.depths, { disk0: 1, disk1: 1 });
  assert.equal(replica.leftBehind[0]?.name, 'left-behind-g3');
});

test('a manifest that contradicts itself is refused with the file named', () => {
  const good = seal(seal(createReplica(100, 1), 1, 1), 1, 2);
  const refused = (edit: (copy: Manifest) => void, what: RegExp) => {
    const copy = structuredClone(good);
    edit(copy);
    assert.throws(() => parseManifest(formatManifest(copy), 'm.json'), what);
  };
  refused((copy) => copy.disks[0]?.layers.pop(), /m\.json.*needs 2 layers of disk0/);
  refused((copy) => copy.points.pop(), /above the newest point/);
  refused((copy) => copy.disks.forEach((disk) => (disk.layers[0] = layer('../x', 'raw'))), /proper file name/);
  assert.throws(() => parseManifest('{', 'm.json'), /m\.json: not JSON/);
});
